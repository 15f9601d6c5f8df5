"""Telling arms from the best: against scipy, hand-worked values, and simulations whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from embedpipe.evaluate.bootstrap import resample_counts
from embedpipe.evaluate.significance import bootstrap_p, holm, mcnemar


def test_mcnemar_equals_the_binomial_test_of_the_samples_that_one_alone_has_right():
    right = np.array([1, 1, 1, 1, 0, 0, 1, 0, 1, 0], bool)
    best = np.array([1, 1, 0, 1, 1, 1, 1, 1, 1, 1], bool)
    found = mcnemar(right, best)
    assert (found.better, found.worse) == (1, 4)
    assert found.p == pytest.approx(stats.binomtest(1, 5, 0.5).pvalue)
    assert found.p == pytest.approx(2 * (0.5**5 + 5 * 0.5**5))  # by hand


def test_arms_that_never_differ_have_nothing_to_test():
    right = np.array([True, False, True])
    assert mcnemar(right, right).p == 1.0
    assert bootstrap_p(0.0, np.zeros(100)) == 1.0


def test_holm_multiplies_by_the_hypotheses_left_and_never_falls():
    # worked example of four tests: 4 x 0.005, 3 x 0.01, 2 x 0.03, then no smaller than the one before
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_the_bootstrap_p_value_of_a_mean_is_that_of_the_paired_z_test():
    rng = np.random.default_rng(0)
    difference = rng.normal(0.1, 1.0, 400)
    counts = resample_counts(400, None, 0, 4000)
    resampled = difference @ counts / 400
    z = difference.mean() / (difference.std() / 20)
    assert bootstrap_p(difference.mean(), resampled) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.1)


def equally_good(rng, num_arms, num, shared):
    """Right or wrong, arms by samples; samples differ in how hard they are, so that arms err together."""
    hard = rng.beta(4 * shared, shared, size=num) if shared else np.full(num, 0.8)
    return rng.random((num_arms, num)) < hard


@pytest.mark.parametrize("shared", [0, 1])
def test_the_set_of_ties_holds_the_truly_best_arm(shared):
    """All of 15 arms are equally good, so each is the best: any of them may be left out in 5 % of cases."""
    rng = np.random.default_rng(1)
    num, kept, repeats = 200, 0, 200
    counts = resample_counts(num, None, 0, 400).astype(float)
    for _ in range(repeats):
        right = equally_good(rng, 15, num, shared)
        leader = right.mean(axis=1).argmax()
        difference = right - right[leader].astype(float)
        resampled = difference @ counts / num
        p = {m: bootstrap_p(difference[m].mean(), resampled[m]) for m in range(15) if m != leader}
        adjusted = {leader: 1.0, **holm(p)}
        kept += adjusted[int(rng.integers(15))] >= 0.05
    assert kept / repeats >= 0.95


def test_an_arm_far_behind_is_told_apart_among_many():
    rng = np.random.default_rng(2)
    right = np.vstack([equally_good(rng, 30, 400, 0), rng.random((1, 400)) < 0.5])
    leader = right.mean(axis=1).argmax()
    counts = resample_counts(400, None, 0, 400).astype(float)
    difference = right - right[leader].astype(float)
    p = {m: bootstrap_p(difference[m].mean(), difference[m] @ counts / 400) for m in range(31) if m != leader}
    assert holm(p)[30] < 1e-6
    assert sum(one < 0.05 for one in holm(p).values()) <= 3
