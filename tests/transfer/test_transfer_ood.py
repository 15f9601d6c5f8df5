"""Why the head is learnt first: features that fine-tuning from a random head distorts, and LP-FT keeps.

Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", section 3: a
two-layer linear network, training inputs in a subspace, good pretrained features.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from embedpipe.training import Recipe, TensorSamples, TrainingPlan, deterministic, fit, surgical

D, K, INSIDE, N = 12, 3, 6, 60


def problem(seed):
    """Good features (a little off the true ones), training inputs in a subspace, and test inputs everywhere."""
    rng = np.random.default_rng(seed)
    true_KD = np.linalg.qr(rng.standard_normal((D, K)))[0].T
    weights_K = rng.standard_normal(K)
    weights_K /= np.linalg.norm(weights_K)
    near_KD = np.linalg.qr((true_KD + 0.01 * rng.standard_normal((K, D))).T)[0].T
    near_KD *= np.sign(np.sum(near_KD * true_KD, axis=1))[:, None]
    subspace_DS = np.linalg.qr(rng.standard_normal((D, INSIDE)))[0]
    x = rng.standard_normal((N, INSIDE)) @ subspace_DS.T
    out = rng.standard_normal((500, D))
    return [
        torch.tensor(one) for one in (near_KD, x, x @ true_KD.T @ weights_K, out, out @ true_KD.T @ weights_K)
    ]


def mse(outputs, targets):
    return F.mse_loss(outputs[:, 0], targets)


def errors(seed):
    """In- and out-of-distribution error after probing, after LP-FT and after plain fine-tuning."""
    near, x, y, out, y_out = problem(seed)
    found = {}
    for name in ("lp_ft", "full"):
        with deterministic(seed) as generator:
            module = nn.Sequential(nn.Linear(D, K, bias=False), nn.Linear(K, 1, bias=False)).double()
            with torch.no_grad():
                module[0].weight.copy_(near)
            told = TrainingPlan(120, batch=N, learning_rate=0.1, optimiser="sgd", momentum=0.9, keep="last")
            samples = TensorSamples(x, y)
            if name == "lp_ft":
                fit(module, samples, told, mse, generator, recipe=Recipe(surgical(120, ["1"])))
                with torch.no_grad():
                    found["probe"] = (mse(module(x), y).item(), mse(module(out), y_out).item())
            fit(module, samples, told, mse, generator)
        with torch.no_grad():
            found[name] = (mse(module(x), y).item(), mse(module(out), y_out).item())
    return found


def test_the_head_first_keeps_the_error_out_of_distribution_where_plain_fine_tuning_loses_it():
    of_seeds = [errors(seed) for seed in range(10)]
    for one in of_seeds:
        assert one["lp_ft"][0] < 1e-5 and one["full"][0] < 1e-5  # both fit what they were shown
        assert one["lp_ft"][1] < 1.5 * one["probe"][1] + 1e-3  # kept
        assert one["full"][1] > 10 * one["lp_ft"][1]  # lost
    assert np.median([one["full"][1] for one in of_seeds]) > 0.05
    assert np.median([one["lp_ft"][1] for one in of_seeds]) < 0.01
