"""Fits on a device that torch drives: the same optimum, and no device that was not asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedpipe.errors import ConfigError
from embedpipe.heads import solver
from embedpipe.heads.design import Design
from embedpipe.heads.logistic import SigmoidLoss, SoftmaxLoss
from embedpipe.heads.registry import fit_grid, head_options
from embedpipe.heads.rows import ArrayRows
from embedpipe.heads.svm import SquaredHingeLoss

CPU = torch.device("cpu")


def losses(codes, weighted):
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 4, len(codes)).astype(float) if weighted else None
    known = rng.random((len(codes), 4)) < 0.8 if weighted else None
    return [
        SoftmaxLoss(codes, 4, weight),
        SigmoidLoss(codes[:, None] == np.arange(4), weight, known),
        SquaredHingeLoss(codes, 4, weight),
    ]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pass_by_torch_equals_one_by_numpy(features, dtype, kind, weighted):
    X, codes = features(9000, 7, 4)
    loss = losses(codes, weighted)[kind]
    design = Design.of(ArrayRows(X), standardise=True, weight=None)
    W = np.random.default_rng(1).normal(size=(design.num_coordinates + 1, 2, 4))
    C = np.array([0.1, 3.0])
    value, gradient = solver._Descent(design, loss, dtype, None).evaluate(W, C)
    by_torch = solver._Descent(design, loss, dtype, CPU)
    for _ in range(2):  # as read, and as kept
        found_value, found = by_torch.evaluate(W, C)
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(found_value, value, rtol=tolerance)
        np.testing.assert_allclose(found, gradient, atol=tolerance * np.abs(gradient).max())


def test_a_grid_solved_by_torch_has_the_same_optimum(features, monkeypatch):
    X, codes = features(3000, 20, 4)
    monkeypatch.setattr(solver, "SMALL", 0)  # begin in float32
    design = Design.of(ArrayRows(X), standardise=True, weight=None)
    C = np.array([1e-3, 1e-1])
    ours, theirs = (
        solver.minimise(design, SoftmaxLoss(codes, 4), C, tol=1e-9, device=device) for device in (CPU, None)
    )
    assert ours.converged.all()
    np.testing.assert_allclose(ours.objective, theirs.objective, rtol=1e-9)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-4)


def test_a_nearly_certain_row_still_pulls():
    """p - 1 would be nothing in float32 here."""
    scores = np.array([[[40.0, 0.0, 0.0]]], np.float32)
    loss = SoftmaxLoss(np.zeros(1, np.int64), 3)
    value, slope = loss.evaluate(scores.copy(), slice(0, 1))
    found_value, found = loss.on_device(CPU)(torch.from_numpy(scores.copy()), slice(0, 1))
    assert slope[0, 0, 0] < 0 and value[0] > 0
    np.testing.assert_allclose(found.numpy(), slope, rtol=1e-6)
    np.testing.assert_allclose(found_value.sum(), value[0], rtol=1e-6)


@pytest.mark.parametrize("family", ["logistic", "svm", "sgd", "mlp"])
def test_a_device_that_is_not_there_is_refused(features, monkeypatch, family):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    X, codes = features(40, 5, 3)
    with pytest.raises(ConfigError, match=rf"{family}: device: expected a CUDA device for 'cuda', found 0"):
        fit_grid(family, [{"device": "cuda"}], X, codes, kind="classes", seed=0)
    with pytest.raises(ConfigError, match="device: expected cpu, cuda or cuda:<number>, found 'gpu'"):
        fit_grid(family, [{"device": "gpu"}], X, codes, kind="classes", seed=0)


def test_the_processor_named_is_the_processor_taken(features):
    X, codes = features(60, 5, 3)
    named, plain = (
        fit_grid("logistic", [one], X, codes, kind="classes", seed=0)[0] for one in ({"device": "cpu"}, {})
    )
    np.testing.assert_array_equal(named.coef_, plain.coef_)
    assert head_options("mlp", {"device": "cuda"}).grid()["device"] == ("cuda",)
    assert "device" not in head_options("mlp", {}).grid()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["logistic", "svm", "sgd", "mlp"])
def test_cuda_gives_what_the_processor_does(features, family):
    X, codes = features(5000, 40, 5)
    params = {"epochs": 5, "patience": 0} if family in ("sgd", "mlp") else {"tol": 1e-8}
    near, far = (
        fit_grid(family, [{**params, "device": device}], X, codes, kind="classes", seed=0)[0]
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(far.predict_proba(X), near.predict_proba(X), atol=2e-3)
