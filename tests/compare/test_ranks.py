"""Ranks across tasks, against scipy, published critical values and hand-worked ranks."""

import numpy as np
import pytest
from scipy import stats

from embedpipe.compare.ranks import critical_difference, ranking, ranks
from embedpipe.evaluate.evidence import open_evidence


def test_mean_ranks_are_those_worked_by_hand():
    found = ranking(
        {
            "one": {"a": 0.9, "b": 0.8, "c": 0.7},  # 1, 2, 3
            "two": {"a": 0.5, "b": 0.5, "c": 0.6},  # 2.5, 2.5, 1
        }
    )
    assert found["mean_ranks"] == {"a": 1.75, "c": 2.0, "b": 2.25}
    assert found["friedman_p"] is None and found["critical_difference"] is None
    assert "2 tasks are too few" in found["note"]


@pytest.mark.parametrize(("num", "quantile"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_rests_on_the_published_quantiles(num, quantile):
    # Demsar 2006, table 5a
    expected = quantile * np.sqrt(num * (num + 1) / (6 * 14))
    assert critical_difference(num, 14) == pytest.approx(expected, rel=1e-3)


def test_with_enough_tasks_friedman_is_that_of_scipy():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(12, 4)) + np.array([0, 0.5, 1, 2])
    scores = {f"t{t}": {f"m{m}": table[t, m] for m in range(4)} for t in range(12)}
    found = ranking(scores)
    assert found["friedman_p"] == pytest.approx(stats.friedmanchisquare(*table.T).pvalue)
    assert found["note"] is None and found["critical_difference"] > 0
    assert next(iter(found["mean_ranks"])) == "m3"


def test_who_misses_a_task_is_left_out_and_named():
    found = ranking({"one": {"a": 1, "b": 2, "c": 3}, "two": {"a": 1, "b": 2}})
    assert found["left_out"] == ["c"] and set(found["mean_ranks"]) == {"a", "b"}
    assert ranking({"one": {"a": 1, "b": 2}}) is None


def test_heads_and_backbones_stand_with_their_best_arm(results, numbers):
    evidences = {one.task: open_evidence(one.task, one.write(), seed=0) for one in (results, numbers)}
    found = ranks(evidences)
    assert found["heads"]["mean_ranks"] == {"ridge": 1.0, "knn": 2.0}
    assert found["backbones"]["mean_ranks"] == {"pixels": 1.0, "net": 2.0, "blank": 3.0}
