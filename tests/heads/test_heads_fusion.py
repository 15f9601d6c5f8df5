"""Fusion of taps: one tap is the linear model, the tap that matters is found, the group lasso is at its optimum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from embedpipe.errors import ShapeError
from embedpipe.heads.group_lasso import GroupLassoClassifierHead, GroupLassoRegressorHead
from embedpipe.heads.layerwise import LayerwiseClassifierHead, LayerwiseRegressorHead
from embedpipe.heads.nets import LinearNet
from embedpipe.heads.registry import fit_grid, load_head, save_head
from embedpipe.heads.rows import ArrayRows
from embedpipe.heads.stacked import Course, Recipe, Sampled, train_stack

WIDTHS = (6, 6, 6, 6)


@pytest.fixture(scope="module")
def planted():
    """Four taps, of which the third alone knows the class."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 400)
    X = rng.normal(size=(400, 24)).astype("f4")
    X[:, 12:18] += 2.0 * rng.normal(size=(3, 6))[codes]
    return X, codes


def test_fusion_of_one_tap_is_the_linear_model(planted):
    X, codes = planted
    scaled = (X - X.mean(0, dtype="f8")) / X.std(0, dtype="f8")
    (fused,) = fit_grid(
        "layerwise",
        [{"fusion": "mixture", "patience": 0, "epochs": 8, "lr": 0.01}],
        X,
        codes,
        kind="classes",
        seed=3,
    )
    (linear,) = train_stack(
        LinearNet(24, 3),
        "softmax",
        3,
        Sampled(ArrayRows(scaled.astype("f4")), codes, None, np.zeros(1), np.ones(1)),
        None,
        [Recipe(0.01, 1e-2)],
        Course("adamw", "constant", 8, None, 256, 3),
    )
    wanted = scaled @ linear.params["weights"].T + linear.params["bias"][:, 0]
    assert fused.layer_weights_.tolist() == [1.0]
    np.testing.assert_allclose(fused.predict_proba(X), softmax(wanted, axis=1), atol=2e-4)


@pytest.mark.parametrize("fusion", ["mixture", "attention"])
def test_the_tap_that_matters_has_the_largest_weight(planted, fusion):
    X, codes = planted
    options = {"widths": WIDTHS, "fusion": fusion, "lr": 0.03, "epochs": 60, "width": 8}
    (head,) = fit_grid("layerwise", [options], X[:300], codes[:300], kind="classes", seed=0)
    assert head.layer_weights_.argmax() == 2 and head.layer_weights_[2] > 0.5
    assert head.layer_weights_.sum() == pytest.approx(1, abs=1e-6)
    assert head.score(X[300:], codes[300:]) > 0.9


def test_taps_of_different_widths_are_projected_to_one(planted):
    X, codes = planted
    options = {"widths": (4, 8, 6, 6), "fusion": "mixture", "lr": 0.03, "epochs": 60}
    (head,) = fit_grid("layerwise", [options], X[:300], codes[:300], kind="classes", seed=0)
    assert head.layer_weights_.argmax() == 2 and head.score(X[300:], codes[300:]) > 0.9


@pytest.mark.parametrize("fusion", ["mixture", "attention"])
def test_a_grid_equals_a_loop_over_it(planted, fusion):
    X, codes = planted
    grid = [{"widths": WIDTHS, "fusion": fusion, "lr": lr, "epochs": 4, "queries": 2} for lr in (1e-3, 1e-2)]
    more = {"kind": "classes", "seed": 0, "X_val": X[200:], "y_val": codes[200:]}
    for candidate, head in zip(grid, fit_grid("layerwise", grid, X[:200], codes[:200], **more), strict=True):
        (alone,) = fit_grid("layerwise", [candidate], X[:200], codes[:200], **more)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("kind", ["classes", "number"])
def test_the_group_lasso_keeps_the_planted_tap_alone(planted, kind):
    X, codes = planted
    y = codes if kind == "classes" else X[:, 12] - 2 * X[:, 14] + 10.0
    grid = [{"widths": WIDTHS, "strength": strength} for strength in (0.05, 0.5, 0.9)]
    weak, strong, stronger = fit_grid("group_lasso", grid, X, y, kind=kind, seed=0)
    assert strong.kept_layers_.tolist() == stronger.kept_layers_.tolist() == [2]
    assert strong.layer_weights_.tolist() == [0, 0, 1, 0] and strong.converged_
    assert len(weak.kept_layers_) >= 1 and weak.score(X, y) > 0.9


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_group_lasso_meets_its_conditions_of_optimality(planted, num_classes):
    X, codes = planted
    X, codes = X[codes < num_classes], codes[codes < num_classes]
    scaled = (X - X.mean(0, dtype="f8")) / X.std(0, dtype="f8")
    (head,) = fit_grid(
        "group_lasso",
        [{"widths": WIDTHS, "strength": 0.05, "standardise": True, "tol": 1e-9, "max_iter": 20_000}],
        X,
        codes,
        kind="classes",
        seed=0,
    )
    wanted = np.eye(num_classes)[codes]
    error = head.predict_proba(X) - wanted
    if num_classes == 2:
        error = error[:, 1:]
    weights = (head.coef_ * X.std(0, dtype="f8")).T
    gradient = scaled.T @ error / len(X)
    null = scaled.T @ (wanted.mean(0) - wanted)[:, -error.shape[1] :] / len(X)
    norms = [np.linalg.norm(part) / 6**0.5 for part in np.split(null, 4)]
    strength = 0.05 * max(norms)
    assert 0 < len(head.kept_layers_) < 4
    for layer, (slope, kept) in enumerate(zip(np.split(gradient, 4), np.split(weights, 4), strict=True)):
        if layer in head.kept_layers_:
            penalty = strength * 6**0.5 * kept / np.linalg.norm(kept)
            np.testing.assert_allclose(slope, -penalty, atol=1e-7)
        else:
            assert np.linalg.norm(slope) <= strength * 6**0.5 + 1e-9


def test_without_a_penalty_the_group_lasso_is_logistic_regression(planted):
    X, codes = planted
    noisy = np.where(np.arange(400) % 3 == 0, (codes + 1) % 3, codes)  # so that the optimum is finite
    scaled = (X - X.mean(0, dtype="f8")) / X.std(0, dtype="f8")
    (head,) = fit_grid(
        "group_lasso",
        [{"widths": WIDTHS, "strength": 1e-9, "tol": 1e-9, "max_iter": 5000}],
        X,
        noisy,
        kind="classes",
        seed=0,
    )
    reference = LogisticRegression(C=1e9, tol=1e-10, max_iter=5000).fit(scaled, noisy)
    np.testing.assert_allclose(head.predict_proba(X), reference.predict_proba(scaled), atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        LayerwiseClassifierHead(WIDTHS, epochs=2),
        LayerwiseRegressorHead(WIDTHS, epochs=2, fusion="attention"),
        GroupLassoClassifierHead(WIDTHS),
        GroupLassoRegressorHead(WIDTHS),
    ],
)
def test_a_saved_head_predicts_what_it_did_and_knows_its_taps(tmp_path, planted, head):
    X, codes = planted
    head.fit(X, codes.astype(float) if head.kind == "number" else codes)
    save_head(head, tmp_path)
    loaded = load_head(tmp_path)
    np.testing.assert_array_equal(loaded.predict(X), head.predict(X))
    np.testing.assert_array_equal(loaded.layer_weights_, head.layer_weights_)


@pytest.mark.parametrize("head", [LayerwiseClassifierHead((4, 5)), GroupLassoClassifierHead((4, 5))])
def test_widths_that_do_not_add_up_are_refused(planted, head):
    with pytest.raises(ShapeError, match=r"expected rows of 9 columns \(widths \[4, 5\]\), found 24"):
        head.fit(*planted)
