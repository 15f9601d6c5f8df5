"""Mean average precision, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from embedpipe.errors import ShapeError
from embedpipe.evaluate.multilabel import mean_average_precision


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 4)) < 0.3).astype(float)
    scores = np.round(truth + rng.normal(size=(80, 4)), 1)  # with ties
    return truth, scores, rng


def test_map_equals_scikit_learn(case):
    truth, scores, _ = case
    assert mean_average_precision(truth, scores)[0] == pytest.approx(
        average_precision_score(truth, scores, average="macro"), rel=1e-12
    )


def test_each_weighting_equals_scikit_learn_with_its_sample_weight(case):
    truth, scores, rng = case
    weights = rng.integers(0, 4, size=(80, 3)).astype(float)
    found = mean_average_precision(truth, scores, weights)
    for column in range(3):
        expected = average_precision_score(truth, scores, average="macro", sample_weight=weights[:, column])
        assert found[column] == pytest.approx(expected, rel=1e-12)


def test_what_nobody_said_is_left_out_of_its_label_alone(case):
    truth, scores, _ = case
    masked = truth.copy()
    masked[:30, 1] = np.nan
    expected = [
        average_precision_score(
            truth[30:, k] if k == 1 else truth[:, k], scores[30:, k] if k == 1 else scores[:, k]
        )
        for k in range(4)
    ]
    assert mean_average_precision(masked, scores)[0] == pytest.approx(np.mean(expected))


def test_a_label_that_no_sample_has_does_not_count(case):
    truth, scores, _ = case
    truth[:, 2] = 0
    others = [0, 1, 3]
    assert mean_average_precision(truth, scores)[0] == pytest.approx(
        average_precision_score(truth[:, others], scores[:, others], average="macro")
    )
    assert np.isnan(mean_average_precision(np.zeros((3, 2)), np.ones((3, 2)))[0])


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"found \(3, 2\) and \(3, 1\)"):
        mean_average_precision(np.zeros((3, 2)), np.zeros((3, 1)))
