"""The perceptron against torch's own layers, loss and optimiser, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedpipe.heads.mlp import MlpClassifierHead, MlpRegressorHead
from embedpipe.heads.registry import fit_grid
from embedpipe.heads.stacked import Recipe, _adamw, _gradients, train_stack


def reference(X, target, params, recipe, epochs, batch, seed):
    """The same training with torch's autograd, losses and AdamW."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        torch.rand(p.shape, generator=generator)
    leaves = [p.clone().requires_grad_() for p in params]
    optimiser = torch.optim.AdamW(leaves, lr=recipe.lr, weight_decay=recipe.weight_decay)
    loss_of = torch.nn.functional.cross_entropy if target.dtype == torch.int64 else None
    for _ in range(epochs):
        order = torch.randperm(len(X), generator=generator)
        for rows in order.split(batch):
            out = torch.relu(X[rows] @ leaves[0] + leaves[1]) @ leaves[2] + leaves[3]
            loss = loss_of(out, target[rows]) if loss_of else ((out[:, 0] - target[rows]) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return [leaf.detach().numpy() for leaf in leaves]


@pytest.mark.parametrize("kind", ["classes", "number"])
def test_training_equals_torchs_autograd_and_adamw(features, kind):
    X, codes = features(90, 12, 3)
    X = (X - X.mean(0)) / X.std(0)
    y = codes if kind == "classes" else codes.astype(np.float64)
    recipe = Recipe(lr=0.01, weight_decay=0.1, dropout=0.0)
    num_outputs = 3 if kind == "classes" else 1
    options = {"num_outputs": num_outputs, "hidden": 7, "patience": 9, "batch": 32, "seed": 5}
    start = train_stack(X, y, None, None, recipes=[Recipe(1e-30, 0, 0)], epochs=1, **options)[0]
    (found,) = train_stack(X, y, None, None, recipes=[recipe], epochs=6, **options)
    initial = [start.hidden_weights, start.hidden_bias[None], start.output_weights, start.output_bias[None]]
    target = torch.from_numpy(y if kind == "classes" else y.astype(np.float32))
    wanted = reference(torch.from_numpy(X), target, [torch.from_numpy(p) for p in initial], recipe, 6, 32, 5)
    np.testing.assert_allclose(found.hidden_weights, wanted[0], atol=2e-5)
    np.testing.assert_allclose(found.output_bias, wanted[3][0], atol=2e-5)


def test_gradients_under_dropout_equal_autograds():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 4), (2, 1, 4), (2, 4, 3), (2, 1, 3)]
    params = [torch.randn(shape, generator=generator) for shape in shapes]
    x, target = torch.randn((6, 5), generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    mask = (torch.rand((2, 6, 4), generator=generator) > 0.3) / 0.7
    leaves = [p.clone().requires_grad_() for p in params]
    hidden = torch.relu(x @ leaves[0] + leaves[1]) * mask
    out = hidden @ leaves[2] + leaves[3]
    sum(torch.nn.functional.cross_entropy(o, target) for o in out).backward()
    for found, leaf in zip(_gradients(params, x, target, mask), leaves, strict=True):
        torch.testing.assert_close(found, leaf.grad)


def test_adamw_gives_each_member_its_own_rate():
    params = [torch.ones((2, 1, 1))]
    moments = [(torch.zeros((2, 1, 1)), torch.zeros((2, 1, 1)))]
    rates, decay = torch.tensor([0.1, 0.01])[:, None, None], torch.zeros((2, 1, 1))
    _adamw(params, [torch.ones((2, 1, 1))], moments, rates, decay, 1)
    torch.testing.assert_close(params[0].ravel(), torch.tensor([0.9, 0.99]))


def test_candidates_trained_together_equal_those_trained_alone(features):
    X, codes = features(120, 20, 4)
    candidates = [{"hidden": 16, "lr": lr, "epochs": 15, "patience": 3} for lr in (1e-3, 1e-2, 0.1)]
    together = fit_grid(
        "mlp", candidates, X[:90], codes[:90], kind="classes", seed=3, X_val=X[90:], y_val=codes[90:]
    )
    assert len({head.num_epochs_ for head in together}) > 1, "one should stop before another"
    for candidate, head in zip(candidates, together, strict=True):
        (alone,) = fit_grid(
            "mlp", [candidate], X[:90], codes[:90], kind="classes", seed=3, X_val=X[90:], y_val=codes[90:]
        )
        assert head.best_epoch_ == alone.best_epoch_
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-4)


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(features):
    X, codes = features(80, 10, 3)
    first, again, other = (
        MlpClassifierHead(hidden=8, epochs=5, random_state=seed).fit(X, codes).predict_proba(X)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_best_epochs_weights_are_kept(features):
    X, codes = features(120, 20, 4)
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(90) < 0.4, rng.integers(0, 4, 90), codes[:90])
    options = {"hidden": 32, "lr": 0.03, "batch": 32}
    data = {"kind": "classes", "seed": 0, "X_val": X[90:], "y_val": codes[90:]}

    def loss(head):
        return -np.log(head.predict_proba(X[90:])[np.arange(30), codes[90:]]).mean()

    (kept,) = fit_grid("mlp", [{**options, "patience": 15}], X[:90], noisy, **data)
    (cut,) = fit_grid("mlp", [{**options, "patience": 15, "epochs": kept.best_epoch_}], X[:90], noisy, **data)
    assert kept.converged_ and kept.num_epochs_ == kept.best_epoch_ + 15
    assert not cut.converged_
    assert loss(kept) == pytest.approx(loss(cut), rel=1e-6)


def test_regression_is_in_the_units_of_its_target(features):
    X, _ = features(300, 10, 3)
    y = 1000.0 + 50.0 * X[:, 0] / X[:, 0].std()
    head = MlpRegressorHead(hidden=32).fit(X[:200], y[:200])
    assert head.score(X[200:], y[200:]) > 0.9


def test_validation_rows_of_a_class_unseen_in_training_are_left_out(features):
    X, codes = features(90, 10, 3)
    seen = codes < 2
    (head,) = fit_grid(
        "mlp", [{"epochs": 3}], X[seen], codes[seen], kind="classes", seed=0, X_val=X, y_val=codes
    )
    assert head.classes_.tolist() == [0, 1]
    assert np.isfinite(head.predict_proba(X)).all()


def test_one_row_a_class_trains_on_all_of_them(features):
    X, codes = features(4, 10, 4)
    head = MlpClassifierHead(hidden=16, epochs=30).fit(X, codes)
    assert head.num_epochs_ == 30
    assert not head.converged_
