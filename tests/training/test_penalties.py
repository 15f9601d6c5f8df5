"""L2-SP against the closed form of ridge regression towards a prior, and averages of weights."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from embedpipe.errors import ShapeError
from embedpipe.training import (
    L2SP,
    Recipe,
    RunningAverage,
    TensorSamples,
    TrainingPlan,
    deterministic,
    fit,
    interpolate,
)


def half_mse(outputs, targets):
    return 0.5 * F.mse_loss(outputs[:, 0], targets)


@pytest.fixture
def regression():
    """Rows, targets and a prior, in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    return x, x @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=40), np.array([0.3, 0.3, 0.3])


def trained_to_the_end(regression, strength, rate, steps=4000):
    x, y, prior = regression
    with deterministic(0) as generator:
        module = nn.Linear(3, 1, bias=False).double()
        start = {"weight": torch.tensor(prior)[None]}
        module.load_state_dict(start)
        plan = TrainingPlan(
            steps, batch=40, learning_rate=rate, optimiser="sgd", momentum=0.0, keep="last", weight_decay=0.7
        )
        samples = TensorSamples(torch.tensor(x), torch.tensor(y))
        fit(module, samples, plan, half_mse, generator, recipe=Recipe(penalty=L2SP(start, strength)))
    return module.weight.detach().numpy()[0]


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 30.0])
def test_l2_sp_on_a_linear_model_is_ridge_towards_the_prior(regression, strength):
    """argmin 1/2N Σ(xw - y)² + λ/2 |w - w₀|², solved in closed form; weight decay is left out beside it."""
    x, y, prior = regression
    closed = np.linalg.solve(x.T @ x / 40 + strength * np.eye(3), x.T @ y / 40 + strength * prior)
    found = trained_to_the_end(regression, strength, rate=min(0.3, 1.0 / (2 + strength)), steps=600)
    if strength == 0.0:  # nothing pulls, but the penalty still stands in for weight decay
        closed = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(found, closed, atol=1e-8)


def test_an_endless_penalty_leaves_the_weights_where_they_were(regression):
    _, _, prior = regression
    for strength in (1e3, 1e6, 1e9):
        found = trained_to_the_end(regression, strength, rate=0.5 / strength, steps=60)
        assert np.abs(found - prior).max() < 5 / strength


def test_a_new_head_is_left_out_of_the_penalty():
    module = nn.Sequential()
    module.add_module("body", nn.Linear(2, 2))
    module.add_module("head", nn.Linear(2, 2))
    penalty = L2SP(module.state_dict(), 2.0, ["head"])
    with torch.no_grad():
        module.head.weight += 5.0
    assert penalty(module).item() == 0.0 and not penalty.covers("head.weight")
    with torch.no_grad():
        module.body.weight += 1.0
    assert penalty(module).item() == pytest.approx(2.0 / 2 * 4)


def test_interpolation_is_exact_at_both_ends_and_a_mean_in_the_middle():
    torch.manual_seed(0)
    start, end = nn.BatchNorm1d(3).state_dict(), nn.BatchNorm1d(3).state_dict()
    end = {name: value + 1 if name == "num_batches_tracked" else value * 3.3 for name, value in end.items()}
    assert all(torch.equal(value, start[name]) for name, value in interpolate(start, end, 0.0).items())
    assert all(torch.equal(value, end[name]) for name, value in interpolate(start, end, 1.0).items())
    middle = interpolate(start, end, 0.5)
    torch.testing.assert_close(middle["weight"], torch.full((3,), 2.15))
    assert middle["num_batches_tracked"] == 1


def test_states_of_two_architectures_are_not_mixed():
    with pytest.raises(ShapeError, match="two states of one architecture"):
        interpolate(nn.Linear(2, 2).state_dict(), nn.Linear(2, 3).state_dict(), 0.5)


def test_the_running_average_is_that_of_the_formula():
    module = nn.Linear(1, 1, bias=False)
    average = RunningAverage(module, 0.9)
    expected = module.weight.item()
    for step in range(1, 6):
        with torch.no_grad():
            module.weight.fill_(step)
        average.update(module)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.state["weight"]) == pytest.approx(expected, rel=1e-6)


def test_with_an_average_the_average_is_scored_and_kept():
    seen = []

    def score(module):
        seen.append(module.weight.item())
        return len(seen)

    with deterministic(0) as generator:
        module = nn.Linear(1, 1, bias=False)
        x = torch.ones(8, 1)
        plan = TrainingPlan(3, batch=8, learning_rate=0.1, optimiser="sgd", ema=0.5, momentum=0.0)
        fit(module, TensorSamples(x, 5 * x[:, 0]), plan, half_mse, generator, score=score)
    assert module.weight.item() == seen[-1]
