"""Optimism of the selection, against simulations in which the true accuracy of every arm is known."""

import numpy as np
import pytest

from embedpipe.evaluate.bootstrap import Judge, resample_counts
from embedpipe.evaluate.metrics import point_metrics
from embedpipe.evaluate.optimism import choose_again

NUM, REPEATS = 1000, 25
COUNTS = resample_counts(NUM, None, 0, 300).astype(float)
LEFT_OUT = (COUNTS == 0).astype(float)


def simulate(rng, truth_M):
    """Naive and corrected accuracy of the arm best on one validation set, and its true one."""
    right_MN = (rng.random((len(truth_M), NUM)) < truth_M[:, None]).astype(float)
    best = right_MN.mean(axis=1).argmax()
    inside, outside = right_MN @ COUNTS / NUM, right_MN @ LEFT_OUT / LEFT_OUT.sum(axis=0)
    corrected, winners = choose_again(inside, outside, 1)
    return right_MN[best].mean(), corrected.value, truth_M[best], winners


def test_the_best_of_52_equal_heads_looks_better_than_it_is_and_the_correction_takes_that_back():
    rng = np.random.default_rng(0)
    found = np.array([simulate(rng, np.full(52, 0.8))[:3] for _ in range(REPEATS)])
    naive, corrected, true = found.mean(axis=0)
    assert naive - true > 0.02  # independent arms: about 2.2 standard errors of 1.26 points
    assert abs(corrected - true) < 0.25 * (naive - true)


def test_where_one_arm_is_far_ahead_there_is_no_optimism_to_take_back():
    rng = np.random.default_rng(1)
    truth = np.r_[0.9, np.full(51, 0.6)]
    found = [simulate(rng, truth) for _ in range(REPEATS)]
    assert all(winners == 1 for *_, winners in found)
    assert np.mean([naive - corrected for naive, corrected, *_ in found]) == pytest.approx(0, abs=1e-3)


def test_losses_are_chosen_by_their_smallest():
    inside = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, np.nan]])
    outside = np.array([[10.0, 20.0, 30.0], [11.0, 21.0, 31.0]])
    corrected, winners = choose_again(inside, outside, -1)
    assert corrected.value == pytest.approx(np.mean([10, 21, 30])) and winners == 2


def test_what_a_resample_left_out_is_judged_on_exactly_those_samples():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=60)
    scores = rng.dirichlet(np.ones(3), 60)
    groups = [f"g{i // 2}" for i in range(60)]
    judge = Judge("classes", truth, groups, seed=3, num_resamples=5)
    counts = resample_counts(60, groups, 3, 5)
    found = judge.left_out(scores, "macro_f1")
    for column in range(5):
        out = counts[:, column] == 0
        assert found[column] == pytest.approx(point_metrics("classes", truth[out], scores[out])["macro_f1"])
