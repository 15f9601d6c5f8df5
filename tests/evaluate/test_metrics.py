"""Metrics under many weightings at once, against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sk

from embedpipe.evaluate.metrics import METRICS, metric_of, point_metrics, sign_of, weighted_metrics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def classes_case(rng, num=200, num_classes=5):
    codes = rng.integers(num_classes, size=num)
    scores = rng.dirichlet(np.ones(num_classes), num)
    scores[np.arange(num), codes] += 0.3  # better than chance
    return codes, scores / scores.sum(axis=1, keepdims=True)


def reference(codes, scores, weights):
    predicted = scores.argmax(axis=1)
    return {
        "accuracy": sk.accuracy_score(codes, predicted, sample_weight=weights),
        "balanced_accuracy": sk.balanced_accuracy_score(codes, predicted, sample_weight=weights),
        "macro_f1": sk.f1_score(codes, predicted, average="macro", sample_weight=weights),
        "auroc": sk.roc_auc_score(codes, scores, multi_class="ovr"),
        "nll": sk.log_loss(codes, scores, labels=np.arange(scores.shape[1]), sample_weight=weights),
        "brier": sk.brier_score_loss(codes, scores, sample_weight=weights, scale_by_half=False),
        "ece": binned_gap(scores.max(axis=1), predicted == codes, weights),
    }


def binned_gap(confidence, right, weights):
    """ECE as its definition reads: bins (0, 1/15], (1/15, 2/15], ..."""
    weights = np.ones(len(right)) if weights is None else weights
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            w = weights[inside]
            gap = abs(np.average(confidence[inside], weights=w) - np.average(right[inside], weights=w))
            total += w.sum() / weights.sum() * gap
    return total


def test_metrics_of_classes_equal_scikit_learn(rng):
    codes, scores = classes_case(rng)
    found = point_metrics("classes", codes, scores)
    assert found == pytest.approx(reference(codes, scores, None), rel=1e-12)


def test_each_weighting_equals_scikit_learn_with_its_sample_weight(rng):
    codes, scores = classes_case(rng)
    weights = rng.integers(1, 4, size=(200, 3)).astype(float)
    found = weighted_metrics("classes", codes, scores, weights)
    for column in range(3):
        expected = reference(codes, scores, weights[:, column])
        del expected["auroc"]
        assert {name: found[name][column] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_auroc_of_two_classes_and_of_ties_equals_scikit_learn(rng):
    codes = rng.integers(2, size=120)
    positive = np.round(0.3 * codes + rng.random(120), 1) / 2  # many ties
    found = point_metrics("classes", codes, np.stack([1 - positive, positive], axis=1))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(codes, positive), rel=1e-12)


def test_auroc_of_resamples_stays_near_that_of_the_resampled_rows(rng):
    """The first-order expansion: its spread over resamples is that of areas ranked anew."""
    codes, scores = classes_case(rng, num=300)
    counts = np.stack([np.bincount(rng.integers(300, size=300), minlength=300) for _ in range(200)], axis=1)
    found = weighted_metrics("classes", codes, scores, counts.astype(float))["auroc"]
    rows = [np.repeat(np.arange(300), counts[:, b]) for b in range(200)]
    exact = np.array([sk.roc_auc_score(codes[r], scores[r], multi_class="ovr") for r in rows])
    assert np.abs(found - exact).max() < 0.5 * exact.std()
    assert found.std() == pytest.approx(exact.std(), rel=0.03)


def test_auroc_of_one_class_has_no_value():
    assert np.isnan(point_metrics("classes", np.zeros(3, int), np.full((3, 2), 0.5))["auroc"])


def test_a_class_without_samples_counts_as_in_scikit_learn(rng):
    codes, scores = classes_case(rng)
    keep = codes != 4  # class 4 is predicted, and never true
    found = point_metrics("classes", codes[keep], scores[keep])
    predicted = scores[keep].argmax(axis=1)
    recalls = [(predicted[codes[keep] == code] == code).mean() for code in range(4)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(codes[keep], predicted, average="macro"))


def test_a_probability_of_zero_costs_what_float32_can_tell():
    found = point_metrics("classes", np.array([0]), np.array([[0.0, 1.0]], np.float32))
    assert found["nll"] == pytest.approx(-np.log(np.finfo(np.float32).eps))


def test_metrics_of_numbers_equal_scikit_learn_far_from_zero(rng):
    truth = 1e6 + rng.standard_normal(300)
    predicted = truth + 0.3 * rng.standard_normal(300)
    weights = rng.integers(0, 3, size=(300, 2)).astype(float)
    found = weighted_metrics("number", truth, predicted[:, None], weights)
    for column in range(2):
        sample_weight = weights[:, column]
        assert found["r2"][column] == pytest.approx(
            sk.r2_score(truth, predicted, sample_weight=sample_weight)
        )
        assert found["mae"][column] == pytest.approx(
            sk.mean_absolute_error(truth, predicted, sample_weight=sample_weight)
        )


def test_r2_of_constant_targets_has_no_value():
    found = point_metrics("number", np.full(4, 0.1), np.arange(4.0)[:, None])
    assert np.isnan(found["r2"])
    assert found["mae"] == pytest.approx(np.abs(0.1 - np.arange(4)).mean())


def test_scores_that_are_not_finite_have_no_metrics():
    scores = np.array([[0.5, 0.5], [np.nan, 1.0]])
    assert all(np.isnan(value) for value in point_metrics("classes", np.array([0, 1]), scores).values())


def test_a_metric_of_the_other_kind_falls_back_to_the_default_of_the_kind():
    assert metric_of("number", "balanced_accuracy") == "r2"
    assert metric_of("classes", "mae") == "balanced_accuracy"
    assert metric_of("classes", "nll") == "nll"
    assert [sign_of(name) for name in METRICS["classes"]] == [1, 1, 1, 1, -1, -1, -1]
