"""The perceptron against torch's own layers, loss and optimiser, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedpipe.heads import nets
from embedpipe.heads.losses import errors, wanted_of
from embedpipe.heads.mlp import MlpClassifierHead, MlpRegressorHead
from embedpipe.heads.nets import Dropout, PerceptronNet, product
from embedpipe.heads.optimisers import AdamW
from embedpipe.heads.registry import fit_grid
from embedpipe.heads.rows import ArrayRows
from embedpipe.heads.stacked import Course, Recipe, Sampled, train_stack


def sampled(X, y, weight=None):
    return Sampled(ArrayRows(X), y, weight, np.zeros(X.shape[1]), np.ones(X.shape[1]))


def reference(X, y, net, loss_of, recipe, course):
    """The same training with torch's modules, autograd, losses and AdamW."""
    generator = torch.Generator().manual_seed(course.seed)
    params = net.initial(generator)
    widths = [net.num_features, *[net.hidden] * net.num_layers, net.num_outputs]
    layers = []
    for i in range(net.num_layers + 1):
        linear = torch.nn.Linear(widths[i], widths[i + 1])
        linear.load_state_dict({"weight": params[f"{i}.weights"], "bias": params[f"{i}.bias"][:, 0]})
        layers += [linear, torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers[:-1])
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for n, p in module.named_parameters() if "weight" in n]},
            {"params": [p for n, p in module.named_parameters() if "bias" in n], "weight_decay": 0.0},
        ],
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
    )
    for _ in range(course.epochs):
        order = torch.randperm(len(X), generator=generator)
        for rows in order.split(course.batch):
            optimiser.zero_grad()
            loss_of(module(X[rows]), y[rows]).backward()
            optimiser.step()
    return module


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["softmax", "square"])
def test_training_equals_torchs_modules_autograd_and_adamw(features, kind, layers):
    X, codes = features(90, 12, 3)
    X = (X - X.mean(0)) / X.std(0)
    num_outputs = 3 if kind == "softmax" else 1
    loss_of = torch.nn.functional.cross_entropy if kind == "softmax" else torch.nn.functional.mse_loss
    y = torch.from_numpy(codes) if kind == "softmax" else torch.from_numpy(codes.astype("f4"))[:, None]
    recipe, course = Recipe(lr=0.01, weight_decay=0.1), Course("adamw", "constant", 6, 9, 32, 5)
    net = PerceptronNet(12, num_outputs, 7, layers)
    (found,) = train_stack(net, kind, num_outputs, sampled(X, y.numpy().ravel()), None, [recipe], course)
    module = reference(torch.from_numpy(X), y, net, loss_of, recipe, course)
    for i in range(layers + 1):
        np.testing.assert_allclose(
            found.params[f"{i}.weights"], module[2 * i].weight.detach().numpy(), atol=2e-5
        )
        np.testing.assert_allclose(
            found.params[f"{i}.bias"][:, 0], module[2 * i].bias.detach().numpy(), atol=2e-5
        )


def test_gradients_under_dropout_equal_autograds():
    generator = torch.Generator().manual_seed(0)
    net = PerceptronNet(5, 3, 4, 2)
    params = {n: torch.randn((2, *p.shape), generator=generator) for n, p in net.initial(generator).items()}
    x, codes = torch.randn((6, 5), generator=generator), np.array([0, 1, 2, 0, 1, 2])
    wanted = wanted_of("softmax", codes, None, 3)
    rates = torch.tensor([0.0, 0.4])[:, None, None]
    dropout = Dropout(rates, torch.Generator().manual_seed(1))
    found = net.gradients(params, x, lambda out: errors("softmax", out, wanted), dropout)
    replay = Dropout(rates, torch.Generator().manual_seed(1))
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    here = leaves["0.weights"] @ x.T + leaves["0.bias"]
    for i in (1, 2):
        here = leaves[f"{i}.weights"] @ (here.relu() * replay.mask(4, 6)) + leaves[f"{i}.bias"]
    sum(torch.nn.functional.cross_entropy(out.T, torch.from_numpy(codes)) for out in here).backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf.grad)


def test_adamw_gives_each_member_its_own_rate():
    params = {"weights": torch.ones((2, 1, 1))}
    adamw = AdamW(params, torch.tensor([0.1, 0.01]), torch.zeros(2), lambda name: True)
    adamw.step(params, {"weights": torch.ones((2, 1, 1))}, 1, 1.0)
    torch.testing.assert_close(params["weights"].ravel(), torch.tensor([0.9, 0.99]))


@pytest.mark.parametrize("layers", [1, 2])
def test_candidates_trained_together_equal_those_trained_alone(features, layers):
    X, codes = features(120, 20, 4)
    candidates = [
        {"hidden": 16, "layers": layers, "lr": lr, "dropout": drop, "epochs": 15, "patience": 3}
        for lr, drop in ((1e-3, 0.0), (1e-2, 0.2), (0.1, 0.0))
    ]
    together = fit_grid(
        "mlp", candidates, X[:90], codes[:90], kind="classes", seed=3, X_val=X[90:], y_val=codes[90:]
    )
    assert len({head.num_epochs_ for head in together}) > 1, "one should stop before another"
    for candidate, head in zip(candidates, together, strict=True):
        (alone,) = fit_grid(
            "mlp", [candidate], X[:90], codes[:90], kind="classes", seed=3, X_val=X[90:], y_val=codes[90:]
        )
        assert (head.best_epoch_, head.stopped_) == (alone.best_epoch_, alone.stopped_)
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
    assert not cut.converged_ and cut.stopped_ == "epochs"
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


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (16, 256, 250), (520, 33, 64)])
def test_products_are_torchs_and_have_the_same_bits_on_any_number_of_threads(shape):
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
    wanted = a.double() @ b.double().T
    found = product(a, b)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(a, b.T.contiguous().T), found)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(product(a, b), found)
    finally:
        torch.set_num_threads(threads)


def test_where_torch_has_no_such_product_its_own_is_taken(monkeypatch):
    monkeypatch.setattr(nets, "_onednn", lambda: None)
    a, b = torch.randn(3, 4), torch.randn(5, 4)
    assert torch.equal(product(a, b), a @ b.T)
    assert product(a.double(), b.double()).dtype == torch.float64


@pytest.mark.parametrize("family", ["sgd", "mlp", "conv", "attentive", "layerwise"])
def test_bits_depend_neither_on_where_rows_lie_in_memory_nor_on_what_was_fitted_before(features, family):
    X, codes = features(90, 12, 3)
    params = {"mlp": {"hidden": 7}, "conv": {"hidden": 3}, "attentive": {"queries": 1, "width": 3}}.get(
        family, {}
    )
    params |= {"epochs": 4, "batch": 37} | ({"widths": (5, 7), "width": 3} if family == "layerwise" else {})
    found = []
    for offset in (0, 4, 16, 48):
        memory = np.empty(X.nbytes + 128, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        moved = memory[start : start + X.nbytes].view(X.dtype).reshape(X.shape)
        moved[:] = X
        if family in ("conv", "attentive"):
            moved = moved.reshape(90, 3, 2, 2)
        (head,) = fit_grid(family, [params], moved, codes, kind="classes", seed=0)
        found.append(head.predict_proba(moved))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
