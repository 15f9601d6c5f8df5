"""The linear grid against scikit-learn's optima, and what a stack promises of its members."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from embedpipe.heads.losses import errors, losses, wanted_of
from embedpipe.heads.registry import fit_grid
from embedpipe.heads.rows import cut
from embedpipe.heads.sgd import SgdClassifierHead, SgdRegressorHead

# the whole set a step and a cosine to nothing: gradient descent, which ends at the optimum of a convex objective
EXACT = {"batch": 1000, "schedule": "cosine", "epochs": 3000, "patience": 0, "lr": 0.3}


@pytest.fixture(scope="module")
def data(features):
    X, codes = features(150, 8, 3, seed=4)
    return X, codes


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_optimum_is_scikit_learns(data, num_classes):
    X, codes = data
    X, codes = X[codes < num_classes], codes[codes < num_classes]
    strength = 0.01
    (head,) = fit_grid("sgd", [{**EXACT, "weight_decay": strength}], X, codes, kind="classes", seed=0)
    scaler = StandardScaler().fit(X)
    reference = LogisticRegression(C=1 / (len(X) * strength), tol=1e-10, max_iter=5000)
    reference.fit(scaler.transform(X), codes)
    assert head.stopped_ == "schedule" and head.converged_
    np.testing.assert_allclose(head.predict_proba(X), reference.predict_proba(scaler.transform(X)), atol=2e-4)


def test_the_optimum_of_regression_is_ridges(data):
    X, codes = data
    y = 100.0 + 7.0 * (codes + X[:, 0] / X[:, 0].std())
    (head,) = fit_grid(
        "sgd",
        [{**EXACT, "lr": 0.05, "weight_decay": 0.1}],
        X,
        y,
        kind="number",
        seed=0,
    )
    scaler = StandardScaler().fit(X)
    # mean squared error + w/2 |b|²  is  |error|² + N·w/2 |b|²
    reference = Ridge(alpha=len(X) * 0.1 / 2).fit(scaler.transform(X), y)
    np.testing.assert_allclose(head.predict(X), reference.predict(scaler.transform(X)), rtol=1e-5)


def test_a_grid_equals_a_loop_over_it(data):
    X, codes = data
    grid = [
        {"lr": lr, "weight_decay": decay, "epochs": 25, "patience": 2, "batch": 16}
        for lr in (1e-4, 1e-2, 0.3)
        for decay in (0.0, 0.1)
    ]
    more = {"kind": "classes", "seed": 1, "X_val": X[100:], "y_val": codes[100:]}
    together = fit_grid("sgd", grid, X[:100], codes[:100], **more)
    assert len({head.num_epochs_ for head in together}) > 1, "one should stop before another"
    for candidate, head in zip(grid, together, strict=True):
        (alone,) = fit_grid("sgd", [candidate], X[:100], codes[:100], **more)
        assert (head.best_epoch_, head.stopped_) == (alone.best_epoch_, alone.stopped_)
        np.testing.assert_allclose(head.coef_, alone.coef_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("family", "kind", "bad"), [("sgd", "number", 10.0), ("mlp", "classes", 1e20)])
def test_a_member_that_diverges_says_so_and_leaves_the_others_as_they_are(data, family, kind, bad):
    X, codes = data[0], data[1].astype(float) if kind == "number" else data[1]
    grid = [{"lr": lr, "epochs": 20, "batch": 8} for lr in (0.01, bad, 0.003)]
    more = {"kind": kind, "seed": 1, "X_val": X[100:], "y_val": codes[100:]}
    good, lost, other = fit_grid(family, grid, X[:100], codes[:100], **more)
    assert (
        lost.stopped_ == "diverged" and not lost.converged_ and lost.failure_.startswith("diverged in epoch")
    )
    assert np.isfinite(lost.predict(X)).all()
    without = fit_grid(family, [grid[0], grid[2]], X[:100], codes[:100], **more)
    for head, alone in zip((good, other), without, strict=True):
        assert head.failure_ is None and head.best_epoch_ == alone.best_epoch_
        outputs = [one.predict(X) if kind == "number" else one.predict_proba(X) for one in (head, alone)]
        np.testing.assert_allclose(*outputs, atol=1e-5)


@dataclass(frozen=True)
class OnDisk:
    """Rows that are read from a file each time."""

    path: str
    shape: tuple[int, ...]
    index: np.ndarray

    def _map(self):
        return np.load(self.path, mmap_mode="r")

    def blocks(self):
        for part in cut(self.shape):
            yield part, np.array(self._map()[self.index[part]])

    def gather(self, index):
        return np.array(self._map()[self.index[index]])

    def take(self, index):
        return OnDisk(self.path, (len(index), *self.shape[1:]), self.index[index])


@pytest.mark.parametrize("family", ["sgd", "mlp"])
@pytest.mark.parametrize("kind", ["classes", "number"])
def test_out_of_core_equals_in_memory_to_the_bit(tmp_path, features, family, kind):
    X, codes = features(500, 12, 3)
    y = codes if kind == "classes" else codes + X[:, 0].astype(float)
    np.save(tmp_path / "X.npy", X)
    rows = OnDisk(str(tmp_path / "X.npy"), X.shape, np.arange(500))
    grid = [{"lr": 0.01, "epochs": 4, "batch": 64}, {"lr": 0.001, "epochs": 4, "batch": 64}]
    (a, b), (c, d) = (
        fit_grid(
            family, grid, data.take(np.arange(400)) if data is rows else data[:400], y[:400],
            kind=kind, seed=2, X_val=data.take(np.arange(400, 500)) if data is rows else data[400:],
            y_val=y[400:], memory_nbytes=0,
        )
        for data in (rows, X)
    )  # fmt: skip
    for disk, memory in ((a, c), (b, d)):
        np.testing.assert_array_equal(disk.predict(X), memory.predict(X))
        assert disk.best_epoch_ == memory.best_epoch_
    (held,), (held_memory,) = (
        fit_grid(family, grid[:1], one, y, kind=kind, seed=2, memory_nbytes=0) for one in (rows, X)
    )
    np.testing.assert_array_equal(held.predict(X), held_memory.predict(X))


@pytest.mark.parametrize("family", ["sgd", "mlp"])
def test_a_row_of_weight_two_counts_as_two_rows(data, family):
    X, codes = data
    weight = 1.0 + (np.arange(150) % 2)
    twice = np.repeat(np.arange(150), weight.astype(int))
    options = {"batch": 1000, "epochs": 30, "lr": 0.01, "patience": 0}
    more = {"kind": "classes", "seed": 0, "X_val": X, "y_val": codes}
    (weighted,) = fit_grid(family, [options], X, codes, sample_weight=weight, **more)
    (repeated,) = fit_grid(family, [options], X[twice], codes[twice], **more)
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("family", ["sgd", "mlp"])
def test_balanced_classes_count_the_same(data, family):
    X, codes = data
    counts = np.bincount(codes)
    options = {"batch": 1000, "epochs": 30, "lr": 0.01, "patience": 0}
    more = {"kind": "classes", "seed": 0, "X_val": X, "y_val": codes}
    (balanced,) = fit_grid(family, [{**options, "class_weight": "balanced"}], X, codes, **more)
    # scaling is learnt on weighted rows too, so that both see the same columns
    (weighted,) = fit_grid(family, [options], X, codes, sample_weight=(50.0 / counts)[codes], **more)
    np.testing.assert_allclose(balanced.predict_proba(X), weighted.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "square"])
def test_a_missing_label_counts_nothing(name):
    rng = np.random.default_rng(0)
    out = torch.from_numpy(rng.normal(size=(2, 3, 8)).astype("f4"))
    if name == "softmax":
        y = np.array([0, 1, -1, 2, -1, 0, 1, 2])
        there = y >= 0
        known = (out[:, :, there], wanted_of(name, y[there], None, 3))
    else:
        y = rng.integers(0, 2, (8, 3)).astype(float)
        y[2], y[4] = np.nan, np.nan
        there = ~np.isnan(y[:, 0])
        known = (out[:, :, there], wanted_of(name, y[there], None, 3))
    wanted = wanted_of(name, y, None, 3)
    torch.testing.assert_close(errors(name, out, wanted)[:, :, there], errors(name, *known))
    assert float(errors(name, out, wanted)[:, :, ~there].abs().max()) == 0
    torch.testing.assert_close(losses(name, out, wanted) / wanted.mass, losses(name, *known) / known[1].mass)


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "square"])
def test_errors_are_the_gradient_of_losses(name):
    rng = np.random.default_rng(1)
    out = torch.from_numpy(rng.normal(size=(1, 3, 8)).astype("f4")).requires_grad_()
    y = rng.integers(0, 3, 8) if name == "softmax" else rng.integers(0, 2, (8, 3)).astype(float)
    wanted = wanted_of(name, y, None, 3)
    (losses(name, out, wanted) / wanted.mass).sum().backward()
    scale = 1 if name == "softmax" else 1 / 3  # errors sum over outputs, losses average them
    torch.testing.assert_close(errors(name, out.detach(), wanted) * scale, out.grad)


def test_a_schedule_that_ends_is_an_end_and_a_budget_is_not(data):
    X, codes = data
    constant = SgdClassifierHead(epochs=2).fit(X, codes)
    cosine = SgdClassifierHead(epochs=2, schedule="cosine").fit(X, codes)
    assert (constant.stopped_, constant.converged_) == ("epochs", False)
    assert (cosine.stopped_, cosine.converged_) == ("schedule", True)


def test_numbers_without_spread_are_predicted_as_they_are(data):
    X, _ = data
    assert SgdRegressorHead(epochs=3).fit(X, np.full(150, 5.0)).predict(X) == pytest.approx(np.full(150, 5.0))
