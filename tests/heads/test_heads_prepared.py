"""Preprocessing inside heads: equal to a pipeline fitted on the training rows, and folded into the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from embedpipe.errors import ConfigError
from embedpipe.heads.module import head_module
from embedpipe.heads.registry import fit_grid, load_head, save_head

CHOICES = [
    {"pca": 5},
    {"pca": 5, "whiten": True},
    {"normalise": True},
    {"normalise": True, "pca": 5, "whiten": True, "standardise": False},
]


def pipeline(choice, estimator):
    steps = [Normalizer()] if choice.get("normalise") else []
    steps += [StandardScaler()] if choice.get("standardise", True) else []
    if "pca" in choice:
        steps += [PCA(choice["pca"], whiten=False, svd_solver="full")]
        # PCA(whiten=True) divides by N - 1, everything else here by N
        steps += [StandardScaler()] if choice.get("whiten") else []
    return make_pipeline(*steps, estimator)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("shape", [(200, 20), (30, 50)])
def test_ridge_predicts_what_a_pipeline_does(features, choice, shape):
    X, codes = features(*shape, 3)
    y = codes + np.random.default_rng(1).normal(size=len(codes))
    wide = X.astype(np.float64)
    (head,) = fit_grid("ridge", [{"alpha": 2.0, **choice}], X, y, kind="number", seed=0)
    reference = pipeline(choice, Ridge(alpha=2.0, solver="svd")).fit(wide, y)
    np.testing.assert_allclose(head.predict(X), reference.predict(wide), rtol=1e-8, atol=1e-8)
    assert head.coef_.shape == (shape[1],)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_classifiers_decide_as_pipelines_do(features, choice, num_classes):
    X, codes = features(200, 20, num_classes)
    wide = X.astype(np.float64)
    (head,) = fit_grid("lda", [{"shrinkage": 0.2, **choice}], X, codes, kind="classes", seed=0)
    reference = pipeline(choice, LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2)).fit(wide, codes)
    np.testing.assert_allclose(head.predict_proba(X), reference.predict_proba(wide), atol=1e-8)
    (head,) = fit_grid("logistic", [{"C": 0.5, "tol": 1e-14, **choice}], X, codes, kind="classes", seed=0)
    reference = pipeline(choice, LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000)).fit(wide, codes)
    np.testing.assert_allclose(head.predict_proba(X), reference.predict_proba(wide), atol=1e-5)


def test_a_saved_head_prepares_rows_as_it_did(features, tmp_path):
    X, codes = features(100, 20, 3)
    (head,) = fit_grid("ridge", [{"normalise": True, "pca": 4}], X, codes, kind="classes", seed=0)
    save_head(head, tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).predict_proba(X), head.predict_proba(X))


def test_a_grid_of_preparations_equals_each_fitted_alone(features):
    X, codes = features(100, 20, 3)
    candidates = [{"C": C, **choice} for choice in CHOICES for C in (0.1, 1.0)]
    heads = fit_grid("logistic", candidates, X, codes, kind="classes", seed=0)
    for candidate, head in zip(candidates, heads, strict=True):
        (alone,) = fit_grid("logistic", [candidate], X, codes, kind="classes", seed=0)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-3)
        assert {name: head.get_params()[name] for name in candidate} == candidate


def test_whitening_needs_components(features):
    X, codes = features(30, 5, 3)
    with pytest.raises(ConfigError, match="whiten: expected a number of components"):
        fit_grid("ridge", [{"whiten": True}], X, codes, kind="classes", seed=0)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("family", ["sgd", "mlp"])
@pytest.mark.parametrize("kind", ["classes", "number"])
def test_heads_trained_by_steps_equal_those_trained_on_prepared_rows(
    features, family, kind, choice, tmp_path
):
    X, codes = features(150, 20, 3)
    y = codes if kind == "classes" else codes * 3.0
    wide, unseen = X[:100].astype(np.float64), X[100:]
    params = {"epochs": 8, "patience": 3, **({"hidden": 8} if family == "mlp" else {})}
    options = {"kind": kind, "seed": 0}
    (head,) = fit_grid(family, [{**params, **choice}], wide, y[:100], X_val=unseen, y_val=y[100:], **options)
    steps = pipeline(choice, "passthrough").fit(wide)
    seen, seen_val = steps.transform(wide), steps.transform(unseen.astype(np.float64))
    plain = (
        {**params, "standardise": False} if "pca" in choice or not choice.get("standardise", True) else params
    )
    (reference,) = fit_grid(family, [plain], seen, y[:100], X_val=seen_val, y_val=y[100:], **options)
    ask = "predict_proba" if kind == "classes" else "predict"
    found = getattr(head, ask)(unseen)
    # components are known but for their sign, which the first weights of a perceptron do not share
    if family == "sgd" or "pca" not in choice:
        np.testing.assert_allclose(found, getattr(reference, ask)(seen_val), atol=2e-4)
    save_head(head, tmp_path)
    np.testing.assert_array_equal(getattr(load_head(tmp_path), ask)(unseen), found)
    module = head_module(head, dtype=torch.float64)
    np.testing.assert_allclose(
        module.predict_proba(torch.from_numpy(unseen).double()).detach().numpy(), found, atol=1e-9
    )
