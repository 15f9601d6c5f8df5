import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from embedpipe.errors import DataError
from embedpipe.training import TensorSamples, TrainingPlan, deterministic, fit
from embedpipe.training.plan import batch_bounds, share_of_rate


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(200, 6))).float()
    return x, (x[:, 0] + 0.5 * x[:, 1] > 0).long()


def fitted(samples, plan=None, seed=0, **options):
    with deterministic(seed) as generator:
        module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
        plan = plan or TrainingPlan(epochs=5, batch=32, learning_rate=0.02)
        history = fit(module, TensorSamples(*samples), plan, F.cross_entropy, generator, **options)
    return module, history


def weights(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def test_training_lowers_the_loss_and_ends_in_eval_mode(samples):
    module, history = fitted(samples)
    assert history.losses[-1] < 0.5 * history.losses[0] + 0.1
    assert not module.training


def test_two_runs_of_one_seed_give_equal_weights_and_another_seed_others(samples):
    first, again, other = (weights(fitted(samples, seed=seed)[0]) for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_equal_weights_whatever_number_of_threads_the_process_had(samples):
    threads = torch.get_num_threads()
    found = []
    try:
        for num in (1, 2):
            torch.set_num_threads(num)
            found.append(weights(fitted(samples)[0]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_the_scope_leaves_random_state_threads_and_algorithms_as_they_were():
    torch.manual_seed(11)
    before = (
        torch.random.get_rng_state(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    with pytest.raises(RuntimeError, match="on purpose"), deterministic(0):
        torch.rand(3)
        raise RuntimeError("on purpose")
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[1:]


def test_the_weights_of_the_best_epoch_are_kept(samples):
    scores = iter([0.1, 0.9, 0.4, 0.3])
    seen = []

    def score(module):
        seen.append(weights(module))
        return next(scores)

    module, history = fitted(samples, TrainingPlan(epochs=4, batch=32, learning_rate=0.05), score=score)
    assert (history.best_epoch, history.best_score) == (2, 0.9)
    assert all(torch.equal(module.state_dict()[key], seen[1][key]) for key in seen[1])
    assert not torch.equal(seen[3]["0.weight"], seen[1]["0.weight"])


def test_training_stops_after_patience_epochs_without_a_better_score(samples):
    scores = iter([0.5, 0.6, 0.6, 0.6, 1.0])
    plan = TrainingPlan(epochs=5, batch=64, patience=2)
    _, history = fitted(samples, plan, score=lambda module: next(scores))
    assert (len(history.scores), history.best_epoch) == (4, 2)


def test_scores_that_are_never_finite_keep_the_first_weights(samples):
    with deterministic(0) as generator:
        module = nn.Linear(6, 2)
        before = weights(module)
        plan = TrainingPlan(epochs=2, batch=64, learning_rate=0.1)
        history = fit(
            module,
            TensorSamples(*samples),
            plan,
            F.cross_entropy,
            generator,
            score=lambda module: float("nan"),
        )
    assert history.best_epoch == 0
    assert torch.equal(module.weight, before["weight"])


def test_weight_decay_leaves_biases_and_norms_alone():
    with deterministic(0) as generator:
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        bias = module[0].bias.detach().clone()
        plan = TrainingPlan(epochs=1, batch=4, learning_rate=0.1, weight_decay=0.5)
        weight = module[0].weight.detach().clone()
        x, y = torch.zeros(4, 2), torch.zeros(4)
        fit(module, TensorSamples(x, y), plan, lambda out, y: 0.0 * out.sum(), generator)
    torch.testing.assert_close(module[0].bias.detach(), bias)
    torch.testing.assert_close(module[0].weight.detach(), weight * (1 - 0.1 * 0.5))


def test_one_cycle_rises_over_a_fifth_and_falls_to_almost_nothing():
    plan = TrainingPlan(1, schedule="one_cycle")
    rates = [share_of_rate(plan, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 20)
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 19
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[20:]))
    assert rates[-1] < 1e-3


@pytest.mark.parametrize(
    ("num", "batch", "expected"),
    [(5, 2, [(0, 2), (2, 5)]), (4, 2, [(0, 2), (2, 4)]), (1, 4, [(0, 1)]), (6, 4, [(0, 4), (4, 6)])],
)
def test_no_batch_of_one_sample_where_there_are_more(num, batch, expected):
    assert batch_bounds(num, batch) == expected


def test_progress_counts_samples_to_the_end(samples):
    said = []
    fitted(samples, TrainingPlan(epochs=2, batch=64), progress=lambda *now: said.append(now))
    assert said[-1] == (400, 400, "samples")


def test_a_plan_without_epochs_is_refused():
    with pytest.raises(ValueError, match="epochs: expected at least 1, found 0"):
        TrainingPlan(epochs=0)


def test_targets_must_be_as_many_as_samples():
    with pytest.raises(DataError, match="expected as many targets as samples"):
        TensorSamples(torch.ones(3, 1), torch.ones(2, 1))
