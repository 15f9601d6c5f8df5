"""Several numbers a sample, and labels by every family that learns them: as if each were fitted by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from embedpipe.heads.module import head_module
from embedpipe.heads.registry import FAMILIES, fit_grid, load_head, save_head, supports

PLAIN = {"epochs": 6, "patience": 0}
PARAMS = {
    "sgd": PLAIN,
    "mlp": {"epochs": 40, "hidden": 16, "lr": 0.02},
    "conv": {"epochs": 40, "hidden": 8, "lr": 0.01},
    "attentive": {"epochs": 40, "queries": 2, "width": 8, "lr": 0.01},
    "layerwise": {"epochs": 40, "widths": (8, 8), "fusion": "attention", "width": 8, "lr": 0.01},
    "group_lasso": {"widths": (8, 8), "strength": 1e-3, "tol": 1e-8, "max_iter": 5000},
    "greedy": {"widths": (8, 8)},
    "logistic": {"C": 1.0},
    "ridge": {"alpha": 1.0},
    "knn": {"k": 7},
}


def of(kind):
    return [name for name in FAMILIES if supports(name, kind)]


@pytest.fixture
def made():
    """Features of 16 columns, three numbers of very different units, and three labels, some unknown."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 16)).astype(np.float32)
    channels = 2 * X.reshape(240, 4, 4).mean(axis=2)  # which heads of maps see too
    latent = channels @ rng.normal(size=(4, 3)) + 0.1 * rng.normal(size=(240, 3))
    labels = (latent > 0).astype(float)
    labels[rng.random(labels.shape) < 0.3] = np.nan
    return X, latent * [1.0, 1e3, 1e-3] + [0.0, 5e3, 1.0], labels, (latent > 0).astype(float)


def shaped(family, X):
    return X.reshape(len(X), 4, 2, 2) if FAMILIES[family].inputs in ("maps", "tokens") else X


@pytest.mark.parametrize("family", of("number"))
def test_several_numbers_are_each_in_their_own_units_and_survive_saving(made, family, tmp_path):
    X, Y, _, _ = made
    X = shaped(family, X)
    (head,) = fit_grid(family, [PARAMS[family]], X, Y, kind="number", seed=0)
    found = head.predict(X)
    assert found.shape == Y.shape
    explained = 1 - np.square(Y - found).mean(axis=0) / Y.var(axis=0)
    assert explained.min() > 0.5, explained
    save_head(head, tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).predict(X), found)
    module = head_module(head, dtype=torch.float64, trainable=family != "knn")
    answers = module.predict_proba(torch.from_numpy(X).double()).detach().numpy()
    np.testing.assert_allclose(answers / Y.std(axis=0), found / Y.std(axis=0), atol=1e-4)


@pytest.mark.parametrize("family", ["ridge", "knn", "sgd"])
def test_several_numbers_equal_each_fitted_alone(made, family):
    X, Y, _, _ = made
    together = fit_grid(family, [PARAMS[family]], X, Y, kind="number", seed=0)[0].predict(X)
    for column in range(3):
        (alone,) = fit_grid(family, [PARAMS[family]], X, Y[:, column], kind="number", seed=0)
        spread = Y[:, column].std()
        np.testing.assert_allclose(together[:, column] / spread, alone.predict(X) / spread, atol=1e-5)


def test_a_column_of_one_number_is_that_number(made):
    X, Y, _, _ = made
    flat, column = (
        fit_grid("ridge", [{}], X, y, kind="number", seed=0)[0].predict(X) for y in (Y[:, 0], Y[:, :1])
    )
    np.testing.assert_array_equal(flat, column)


@pytest.mark.parametrize("family", of("multilabel"))
def test_labels_are_learned_where_they_are_known_and_told_where_not(made, family, tmp_path):
    X, _, labels, truth = made
    X = shaped(family, X)
    (head,) = fit_grid(
        family, [PARAMS[family]], X, labels, kind="multilabel", seed=0, X_val=X[:40], y_val=labels[:40]
    )
    found = head.predict_proba(X)
    assert found.shape == labels.shape and (found >= 0).all() and (found <= 1).all()
    unknown = np.isnan(labels)
    areas = [roc_auc_score(truth[unknown[:, k], k], found[unknown[:, k], k]) for k in range(3)]
    assert min(areas) > 0.75, areas
    save_head(head, tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).predict_proba(X), found)
    if family != "knn":
        module = head_module(head, dtype=torch.float64)
        answers = module.predict_proba(torch.from_numpy(X).double()).detach().numpy()
        np.testing.assert_allclose(answers, found, atol=1e-5)


def test_the_group_lasso_of_labels_is_logistic_regression_of_each_without_a_penalty(made):
    X, _, _, _ = made
    rng = np.random.default_rng(1)
    labels = (X[:, :2] + rng.normal(size=(240, 2)) > 0).astype(float)
    labels[::6, 0] = np.nan
    options = {"kind": "multilabel", "seed": 0}
    lasso = fit_grid(
        "group_lasso", [{"strength": 1e-9, "tol": 1e-11, "max_iter": 20_000}], X, labels, **options
    )
    plain = fit_grid("logistic", [{"C": 1e7, "tol": 1e-14}], X, labels, **options)
    np.testing.assert_allclose(lasso[0].predict_proba(X), plain[0].predict_proba(X), atol=1e-4)


def test_neighbours_that_know_nothing_of_a_label_leave_it_at_its_share():
    X = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.01, 1.0]])
    labels = np.array([[np.nan, 1.0], [np.nan, 0.0], [1.0, 1.0], [0.0, 1.0]])
    (head,) = fit_grid("knn", [{"k": 2, "weights": "uniform"}], X, labels, kind="multilabel", seed=0)
    np.testing.assert_allclose(head.predict_proba(X[:1]), [[0.5, 0.5]])
    np.testing.assert_allclose(head.predict_proba(X[2:3]), [[0.5, 1.0]])
