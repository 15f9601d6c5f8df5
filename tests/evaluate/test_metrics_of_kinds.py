"""Metrics of labels, of several numbers, of boxes and of places, against scikit-learn and torchvision."""

import numpy as np
import pytest
from sklearn import metrics as sk

from embedpipe.evaluate.bootstrap import Judge, resample_counts
from embedpipe.evaluate.dense import place_rates
from embedpipe.evaluate.metrics import DEFAULT_METRIC, METRICS, metric_of, point_metrics, weighted_metrics
from embedpipe.evaluate.multilabel import label_rates, mean_average_precision
from embedpipe.evaluate.numbers import box_overlap


@pytest.fixture
def labels():
    """Truth with ties in the scores and a fifth of the entries unknown."""
    rng = np.random.default_rng(0)
    truth = (rng.random((150, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(float)
    scores = np.clip(np.round(0.3 * truth + 0.25 + 0.2 * rng.normal(size=truth.shape), 2), 0.01, 0.99)
    masked = np.where(rng.random(truth.shape) < 0.2, np.nan, truth)
    return truth, masked, scores, rng


def of_each(masked, scores, score):
    """A metric of scikit-learn on the known entries of each label."""
    known = ~np.isnan(masked)
    return [score(masked[known[:, k], k], scores[known[:, k], k]) for k in range(masked.shape[1])]


def test_labels_all_known_equal_scikit_learn(labels):
    truth, _, scores, _ = labels
    found = point_metrics("multilabel", truth, scores)
    said = (scores > 0.5).astype(int)
    assert found == pytest.approx(
        {
            "map": sk.average_precision_score(truth, scores, average="macro"),
            "macro_f1": sk.f1_score(truth, said, average="macro"),
            "micro_f1": sk.f1_score(truth, said, average="micro"),
            "auroc": sk.roc_auc_score(truth, scores, average="macro"),
            "nll": sk.log_loss(truth.ravel(), scores.ravel()),
        },
        rel=1e-12,
    )


def test_what_is_unknown_of_a_sample_is_left_out_of_its_label_alone(labels):
    _, masked, scores, _ = labels
    found = point_metrics("multilabel", masked, scores)
    assert found["map"] == pytest.approx(np.mean(of_each(masked, scores, sk.average_precision_score)))
    assert found["auroc"] == pytest.approx(np.mean(of_each(masked, scores, sk.roc_auc_score)))
    assert found["macro_f1"] == pytest.approx(
        np.mean(of_each(masked, scores, lambda t, s: sk.f1_score(t, s > 0.5)))
    )
    known = ~np.isnan(masked)
    assert found["micro_f1"] == pytest.approx(sk.f1_score(masked[known], scores[known] > 0.5))
    assert found["nll"] == pytest.approx(sk.log_loss(masked[known], scores[known]))


def test_f1_and_log_loss_of_labels_equal_scikit_learn_under_weights(labels):
    truth, _, scores, rng = labels
    weights = rng.integers(0, 4, size=(150, 2)).astype(float)
    found = weighted_metrics("multilabel", truth, scores, weights)
    for column in range(2):
        weight = {"sample_weight": weights[:, column]}
        said = (scores > 0.5).astype(int)
        assert found["micro_f1"][column] == pytest.approx(sk.f1_score(truth, said, average="micro", **weight))
        assert found["macro_f1"][column] == pytest.approx(sk.f1_score(truth, said, average="macro", **weight))


def test_map_of_resamples_lies_by_the_exact_one(labels):
    _, masked, scores, _ = labels
    counts = resample_counts(150, None, 0, 400).astype(float)
    expanded = weighted_metrics("multilabel", masked, scores, counts)["map"]
    exact = mean_average_precision(masked, scores, counts)
    assert np.corrcoef(expanded, exact)[0, 1] > 0.95
    assert expanded.std() == pytest.approx(exact.std(), rel=0.1)


def test_the_interval_of_map_is_about_as_wide_as_the_exact_one(labels):
    _, masked, scores, _ = labels
    interval = Judge("multilabel", masked).judge(scores[None].astype(np.float32)).interval("map")
    exact = mean_average_precision(masked, scores, resample_counts(150, None, 0, 1000).astype(float))
    assert interval.ci_low < interval.value < interval.ci_high
    width = np.diff(np.percentile(exact, [2.5, 97.5]))[0]
    assert interval.ci_high - interval.ci_low == pytest.approx(width, rel=0.15)


def test_rates_of_a_label_are_missing_where_nothing_can_be_divided_by():
    truth, scores = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.1, 0.9], [0.2, 0.1]])
    found = {
        name: values[:, 0].tolist() for name, values in label_rates(truth, scores, np.ones((2, 1))).items()
    }
    assert np.isnan([found["ap"][0], found["auroc"][0], found["recall"][0], found["precision"][0]]).all()
    assert found["ap"][1] == found["auroc"][1] == found["precision"][1] == 1.0
    assert found["support"] == [0.0, 1.0]


def test_perfect_labels_and_places_keep_a_bound_below_one():
    truth = np.array([[1.0, 0.0], [0.0, 1.0]] * 10)
    assert Judge("multilabel", truth).judge(truth[None]).interval("map").ci_low < 0.95
    codes = np.array([[0, 1, 1, -1]] * 10)
    judged = Judge("dense", codes).judge(np.abs(codes)[None].astype(np.float32))
    assert judged.point["mean_iou"] == 1.0 and judged.interval("mean_iou").ci_low < 0.95


def test_places_equal_scikit_learn_on_all_that_are_known():
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(-1, 3, size=(20, 9)), rng.integers(0, 4, size=(20, 9))
    weights = rng.integers(0, 3, size=(20, 2)).astype(float)
    found = weighted_metrics("dense", truth, predicted.astype(np.float32), weights)
    known = truth >= 0
    for column in range(2):
        weight = np.repeat(weights[:, column, None], 9, axis=1)[known]
        arguments = {"sample_weight": weight, "average": "macro"}
        t, p = truth[known], predicted[known]
        assert found["mean_iou"][column] == pytest.approx(sk.jaccard_score(t, p, **arguments))
        assert found["macro_f1"][column] == pytest.approx(sk.f1_score(t, p, **arguments))
        assert found["accuracy"][column] == pytest.approx(sk.accuracy_score(t, p, sample_weight=weight))


def test_a_class_nowhere_there_or_predicted_has_no_overlap():
    found = place_rates(np.array([[0, 1]]), np.array([[0, 0]]), np.ones((1, 1)), 3)
    assert found["iou"][:2, 0].tolist() == [0.5, 0.0] and np.isnan(found["iou"][2, 0])


def test_several_numbers_equal_scikit_learn_and_are_averaged():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(40, 3)) * [1, 10, 100]
    predicted = truth + rng.normal(size=(40, 3)) * [0.5, 2, 90]
    weights = rng.integers(0, 3, size=(40, 2)).astype(float)
    found = weighted_metrics("number", truth, predicted, weights)
    for column in range(2):
        weight = weights[:, column]
        assert found["r2"][column] == pytest.approx(sk.r2_score(truth, predicted, sample_weight=weight))
        assert found["mae"][column] == pytest.approx(
            sk.mean_absolute_error(truth, predicted, sample_weight=weight)
        )


@pytest.mark.parametrize("box", ["xyxy", "xywh", "cxcywh"])
def test_overlap_of_boxes_equals_torchvision(box):
    import torch
    from torchvision.ops import box_convert, box_iou

    rng = np.random.default_rng(3)
    corners = torch.from_numpy(np.sort(rng.random((2, 30, 2, 2)), axis=2).reshape(2, 30, 4))
    expected = torch.stack([box_iou(a[None], b[None])[0, 0] for a, b in zip(*corners, strict=True)])
    truth, predicted = (box_convert(one, "xyxy", box).numpy() for one in corners)
    np.testing.assert_allclose(box_overlap(truth, predicted, box), expected.numpy(), atol=1e-12)
    found = point_metrics("number", truth, predicted, box)
    assert found["mean_iou"] == pytest.approx(float(expected.mean()))


def test_a_predicted_box_of_negative_size_overlaps_nothing():
    assert box_overlap(np.array([[0.0, 0, 1, 1]]), np.array([[0.5, 0.5, -1, 1]]), "xywh").tolist() == [0.0]


@pytest.mark.parametrize("kind", METRICS)
def test_scores_that_are_not_finite_have_no_metric_and_each_kind_a_default(kind):
    truth = {"classes": np.zeros(2, int), "number": np.zeros(2)}.get(kind, np.zeros((2, 3)))
    scores = np.full((2, 1 if truth.ndim == 1 else 3), np.nan, np.float32)
    assert np.isnan(list(point_metrics(kind, truth, scores).values())).all()
    assert metric_of(kind, "nothing") == DEFAULT_METRIC[kind]


def test_overlap_selects_numbers_only_where_they_are_a_box():
    assert metric_of("number", "mean_iou") == "r2" and metric_of("number", "mean_iou", "xywh") == "mean_iou"
