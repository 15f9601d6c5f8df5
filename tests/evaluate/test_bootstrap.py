"""Bootstrap intervals, against closed forms and by their coverage."""

import numpy as np
import pytest
from scipy.stats import binomtest

from embedpipe.evaluate.bootstrap import Judge, draw_weights, resample_counts


def one_hot(predicted, num_classes=2):
    return np.eye(num_classes, dtype=np.float32)[predicted]


def test_the_spread_of_accuracy_is_that_of_a_binomial():
    truth = np.zeros(400, int)
    predicted = (np.arange(400) < 100).astype(int)  # 75 % right
    judge = Judge("classes", truth, seed=1, num_resamples=4000)
    judged = judge.judge(one_hot(predicted)[None])
    assert judged.point["accuracy"] == 0.75
    assert judged.resampled["accuracy"].std() == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.05)
    interval = judged.interval("accuracy")
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert (interval.ci_low, interval.ci_high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.005)


def test_groups_are_resampled_whole():
    """Ten copies of each of 40 samples carry the information of 40, not of 400."""
    truth = np.zeros(400, int)
    predicted = np.repeat(np.arange(40) < 10, 10).astype(int)
    groups = [f"g{i // 10}" for i in range(400)]
    judged = Judge("classes", truth, groups=groups, num_resamples=4000).judge(one_hot(predicted)[None])
    assert judged.resampled["accuracy"].std() == pytest.approx(np.sqrt(0.75 * 0.25 / 40), rel=0.05)


def test_every_resample_draws_as_many_groups_as_there_are():
    counts = resample_counts(6, ["a", "a", "b", "c", "c", "c"], seed=3, num_resamples=50)
    one_of_each = counts[[0, 2, 3]]
    assert (one_of_each.sum(axis=0) == 3).all()
    assert (counts[0] == counts[1]).all()
    assert (counts[3] == counts[5]).all()


def test_a_difference_is_paired():
    """Two arms that are wrong on the same samples differ by nothing, however wide each interval is."""
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=100)
    scores = one_hot(np.where(rng.random(100) < 0.7, truth, 1 - truth))[None]
    judge = Judge("classes", truth)
    difference = judge.judge(scores).minus(judge.judge(scores.copy()), "accuracy")
    assert (difference.value, difference.ci_low, difference.ci_high) == (0, 0, 0)


def test_draws_widen_the_interval_as_two_sources_of_variance_add():
    """Each draw is wrong on a fixed share of all samples: only draws vary, and the mean has a closed form."""
    rng = np.random.default_rng(0)
    num_draws, num_samples = 40, 2000
    shares = rng.uniform(0.6, 0.9, num_draws)
    truth = np.zeros(num_samples, int)
    scores = np.stack([one_hot((rng.random(num_samples) > share).astype(int)) for share in shares])
    judged = Judge("classes", truth, num_resamples=4000).judge(scores)
    accuracies = (scores.argmax(axis=2) == 0).mean(axis=1)
    assert judged.point["accuracy"] == pytest.approx(accuracies.mean())
    of_draws = accuracies.var() / num_draws
    hit_mean = (scores.argmax(axis=2) == 0).mean(axis=0)  # per sample, over draws
    of_samples = hit_mean.var() / num_samples
    # Owen 2007: the pigeonhole bootstrap adds both, and counts the interaction once more
    assert judged.resampled["accuracy"].var() == pytest.approx(of_draws + of_samples, rel=0.1)


def test_draw_weights_sum_to_one_and_one_draw_weighs_all():
    assert draw_weights(7, 0, 30).sum(axis=0) == pytest.approx(np.ones(30))
    assert (draw_weights(1, 0, 30) == 1).all()


def test_intervals_are_a_function_of_the_seed():
    truth = np.arange(50) % 2
    scores = np.random.default_rng(0).dirichlet([1, 1], (3, 50)).astype(np.float32)
    same = [Judge("classes", truth, seed=5).judge(scores).intervals() for _ in range(2)]
    assert same[0] == same[1]
    assert Judge("classes", truth, seed=6).judge(scores).intervals() != same[0]


def test_scores_that_are_not_finite_are_null_and_not_a_number():
    scores = np.full((1, 4, 2), np.nan, np.float32)
    intervals = Judge("classes", np.array([0, 1, 0, 1])).judge(scores).intervals()
    assert intervals["accuracy"] == {"value": None, "ci_low": None, "ci_high": None}


@pytest.mark.slow
def test_intervals_over_samples_and_draws_cover_the_truth():
    """Accuracy with a random effect of the draw and one of the sample: 95 % intervals hold it 90 % or more."""
    rng = np.random.default_rng(1)
    held = 0
    for repeat in range(200):
        of_draw = rng.normal(0, 0.5, 10)
        of_sample = rng.normal(0, 1.0, 150)
        threshold = rng.normal(0, 1.0, (10, 150))
        right = of_draw[:, None] + of_sample + threshold > -0.8
        scores = one_hot((~right).astype(int).reshape(-1)).reshape(10, 150, 2)
        interval = Judge("classes", np.zeros(150, int), seed=repeat).judge(scores).interval("accuracy")
        # P(N(0, 0.25 + 1 + 1) > -0.8) = Phi(0.8 / 1.5)
        held += interval.ci_low <= 0.7031 <= interval.ci_high
    assert held / 200 >= 0.9


def test_an_arm_that_is_right_everywhere_gets_the_exact_binomial_bound():
    truth = np.repeat([0, 1], 20)
    judge = Judge("classes", truth)
    right = judge.judge(one_hot(truth)[None]).interval("accuracy")
    expected = binomtest(40, 40).proportion_ci(0.95, method="exact")
    assert (right.value, right.ci_low, right.ci_high) == pytest.approx((1, expected.low, expected.high))
    wrong = judge.judge(one_hot(1 - truth)[None]).interval("accuracy")
    assert (wrong.value, wrong.ci_low, wrong.ci_high) == pytest.approx((0, 0, 1 - expected.low))


def test_at_the_boundary_groups_count_once_and_the_smallest_class_bounds_the_balanced_accuracy():
    truth = np.repeat([0, 1], [90, 10])
    groups = [f"g{i // 5}" for i in range(100)]  # 18 groups of one class, 2 of the other
    judged = Judge("classes", truth, groups=groups).judge(one_hot(truth)[None])
    assert judged.interval("accuracy").ci_low == pytest.approx(binomtest(20, 20).proportion_ci().low)
    assert judged.interval("balanced_accuracy").ci_low == pytest.approx(binomtest(4, 4).proportion_ci().low)
