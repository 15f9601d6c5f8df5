"""Temperature on validation and the table of classes, against scikit-learn and a task whose truth is known."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from embedpipe.compare.calibration import calibration, cross_fitted, parts_of
from embedpipe.compare.per_class import per_class
from embedpipe.evaluate.evidence import open_evidence


def evidence_of(results):
    return open_evidence(results.task, results.write(), seed=0)


def overconfident(results, sharpness):
    """Probabilities that are right, each raised to a power: at 1 they are calibrated."""
    rng = np.random.default_rng(5)
    honest = rng.dirichlet(np.ones(3), results.num)
    results.codes = np.array([rng.choice(3, p=row) for row in honest])
    raised = honest**sharpness
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)[None]


def test_the_temperature_undoes_what_made_an_arm_too_sure(make_results):
    results = make_results(num=4000)
    evidence = evidence_of(results.add("ridge@net/b.gap", "transferred", scores=overconfident(results, 3.0)))
    (row,) = calibration(evidence, ["ridge@net/b.gap"])
    assert row["temperature"] == pytest.approx(3.0, rel=0.1)
    assert row["after"]["ece"] < 0.3 * row["before"]["ece"]
    assert row["after"]["nll"] < row["before"]["nll"] and row["after"]["brier"] < row["before"]["brier"]


def test_no_sample_is_scaled_by_a_temperature_that_saw_its_label():
    rng = np.random.default_rng(0)
    logits, codes = rng.normal(size=(40, 3)), rng.integers(3, size=40)
    parts = parts_of(40, None, 0)
    before = cross_fitted(logits, codes, parts)
    flipped = codes.copy()
    flipped[parts == 2] = (flipped[parts == 2] + 1) % 3
    after = cross_fitted(logits, flipped, parts)
    np.testing.assert_array_equal(after[parts == 2], before[parts == 2])
    assert (after[parts != 2] != before[parts != 2]).any()


def test_parts_keep_groups_whole_and_are_of_equal_size():
    groups = [f"g{i // 4}" for i in range(40)]
    parts = parts_of(40, groups, 0)
    assert all(len(set(parts[i : i + 4])) == 1 for i in range(0, 40, 4))
    assert np.bincount(parts).tolist() == [8] * 5


def test_rates_of_each_class_equal_scikit_learn_and_lie_in_their_intervals(results):
    evidence = evidence_of(results)
    rows = per_class(evidence, "ridge@net/b.gap")
    predicted = evidence.predictions.scores("ridge@net/b.gap").at(evidence.sample_ids)[0].argmax(axis=1)
    expected = precision_recall_fscore_support(evidence.truth, predicted)
    for rate, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        found = [row[rate] if rate == "support" else row[rate]["value"] for row in rows]
        assert found == pytest.approx(values)
    assert all(row["recall"]["ci_low"] <= row["recall"]["value"] <= row["recall"]["ci_high"] for row in rows)


def test_a_class_without_samples_has_no_recall(results):
    results.codes[:] = np.minimum(results.codes, 1)
    row = per_class(evidence_of(results), "majority")[2]
    assert (row["class"], row["support"], row["recall"]["value"]) == ("z", 0, None)


def test_numbers_have_neither(numbers):
    evidence = evidence_of(numbers)
    assert per_class(evidence, "ridge@net/b.gap") is None
    assert calibration(evidence, ["ridge@net/b.gap"]) == []
