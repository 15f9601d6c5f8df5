"""Logistic, ridge and SVM against scikit-learn at tight tolerance, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from embedpipe.errors import DataError, NotFitted, ShapeError
from embedpipe.heads.logistic import LogisticHead
from embedpipe.heads.registry import fit_grid
from embedpipe.heads.ridge import RidgeClassifierHead, RidgeRegressorHead
from embedpipe.heads.svm import SvmHead

SHAPES = [(200, 30), (40, 90), (60, 60)]
STRENGTHS = [1e-3, 0.1, 10.0]


def logistic_objective(head, scaled, codes, C):
    """Recomputed in float64 from the weights over raw features, brought back to the scaled ones."""
    scaler, X = scaled
    weights = head.coef_ * scaler.scale_
    scores = X.astype(np.float64) @ head.coef_.T + head.intercept_
    if len(weights) == 1:
        losses = np.logaddexp(0, -np.where(codes == 1, 1, -1) * scores[:, 0])
    else:
        losses = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(codes)), codes]
    return C * losses.sum() + 0.5 * (weights**2).sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_classes", [2, 5])
def test_logistic_reaches_scikit_learns_objective_at_every_strength(features, shape, num_classes):
    X, codes = features(*shape, num_classes)
    scaler = StandardScaler().fit(X.astype(np.float64))
    heads = fit_grid("logistic", [{"C": C} for C in STRENGTHS], X, codes, kind="classes", seed=0)
    for C, head in zip(STRENGTHS, heads, strict=True):
        reference = LogisticRegression(C=C, tol=1e-10, max_iter=100_000)
        reference.fit(scaler.transform(X.astype(np.float64)), codes)
        reference.coef_ = reference.coef_ / scaler.scale_
        reference.intercept_ = reference.intercept_ - reference.coef_ @ scaler.mean_
        wanted = logistic_objective(reference, (scaler, X), codes, C)
        found = logistic_objective(head, (scaler, X), codes, C)
        assert head.converged_
        assert found <= wanted * (1 + 1e-6)
        assert found == pytest.approx(head.objective_, rel=1e-9)


def test_a_grid_of_strengths_equals_the_strengths_fitted_alone(features):
    X, codes = features(80, 40, 4)
    heads = fit_grid(
        "logistic", [{"C": C, "tol": 1e-12} for C in STRENGTHS], X, codes, kind="classes", seed=0
    )
    for C, head in zip(STRENGTHS, heads, strict=True):
        alone = LogisticHead(C=C, tol=1e-12).fit(X, codes)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-6)


def test_a_fit_that_runs_out_of_steps_says_that_it_has_not_converged(features):
    X, codes = features(80, 40, 4)
    short, long = fit_grid(
        "logistic", [{"C": 100.0, "max_iter": 2}, {"C": 100.0}], X, codes, kind="classes", seed=0
    )
    assert not short.converged_ and short.n_iter_ == 2
    assert long.converged_


@pytest.mark.parametrize("num_classes", [2, 4])
def test_weighted_logistic_reaches_scikit_learns_optimum(features, num_classes):
    X, codes = features(150, 12, num_classes)
    weight = np.random.default_rng(2).uniform(0.2, 3.0, len(codes))
    options = {"C": 0.3, "standardise": False, "class_weight": "balanced"}
    scaled = X / X.std(axis=0)
    (head,) = fit_grid(
        "logistic",
        [{**options, "tol": 1e-12}],
        scaled, codes, kind="classes", seed=0, sample_weight=weight,
    )  # fmt: skip
    # scikit-learn's own balance follows the number of rows, ours the sum of their weights
    mass = np.bincount(codes, weight)
    of_class = weight.sum() / (num_classes * mass)
    reference = LogisticRegression(C=0.3, tol=1e-10, max_iter=100_000)
    reference.fit(scaled.astype(np.float64), codes, weight * of_class[codes])
    np.testing.assert_allclose(head.predict_proba(scaled), reference.predict_proba(scaled), atol=1e-5)


def test_one_against_the_rest_equals_scikit_learns(features):
    X, codes = features(150, 12, 4)
    scaled = X / X.std(axis=0)
    head = LogisticHead(C=0.3, standardise=False, tol=1e-12, multi_class="one_vs_rest").fit(scaled, codes)
    wide = scaled.astype(np.float64)
    reference = OneVsRestClassifier(LogisticRegression(C=0.3, tol=1e-10, max_iter=100_000)).fit(wide, codes)
    np.testing.assert_allclose(head.predict_proba(scaled), reference.predict_proba(wide), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [0.5, 50.0])
def test_ridge_coefficients_equal_scikit_learns(features, shape, alpha):
    X, codes = features(*shape, 3)
    y = codes + np.random.default_rng(1).normal(size=len(codes))
    scaler = StandardScaler().fit(X.astype(np.float64))
    reference = Ridge(alpha=alpha, solver="svd").fit(scaler.transform(X.astype(np.float64)), y)
    head = RidgeRegressorHead(alpha=alpha).fit(X, y)
    np.testing.assert_allclose(head.coef_ * scaler.scale_, reference.coef_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(
        head.predict(X), reference.predict(scaler.transform(X.astype(np.float64))), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("num_classes", [2, 4])
def test_ridge_predicts_the_class_that_ridge_classifier_predicts(features, num_classes):
    X, codes = features(120, 30, num_classes)
    X_new, _ = features(120, 30, num_classes, seed=0)
    reference = make_pipeline(StandardScaler(), RidgeClassifier(alpha=3.0)).fit(X.astype(np.float64), codes)
    head = RidgeClassifierHead(alpha=3.0).fit(X, codes)
    np.testing.assert_array_equal(head.predict(X_new), reference.predict(X_new.astype(np.float64)))


@pytest.mark.parametrize("shape", [(50, 10), (20, 30)])
def test_leave_one_out_of_ridge_equals_refitting_without_each_row(features, shape):
    X, codes = features(*shape, 3)
    y = codes + np.random.default_rng(1).normal(size=len(codes))
    wide = X.astype(np.float64)
    head = RidgeRegressorHead(alpha=2.0, standardise=False)
    wanted = [
        Ridge(alpha=2.0, solver="svd").fit(np.delete(wide, i, 0), np.delete(y, i)).predict(wide[i : i + 1])
        for i in range(len(y))
    ]
    np.testing.assert_allclose(head.loo_scores(X, y), np.ravel(wanted), rtol=1e-6, atol=1e-6)


def test_ridges_probabilities_are_no_worse_than_the_raw_softmax_on_new_rows(features):
    X, codes = features(600, 30, 5)
    head = RidgeClassifierHead(alpha=1.0).fit(X[:300], codes[:300])
    rows = np.arange(300)
    fitted = head.predict_proba(X[300:])[rows, codes[300:]]
    scores = head.decision_function(X[300:])
    raw = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))[rows, codes[300:]]
    assert -np.log(fitted).mean() < -np.log(raw).mean()


@pytest.mark.parametrize("num_classes", [2, 4])
def test_svm_reaches_the_objective_of_linear_svc(features, num_classes):
    X, codes = features(100, 20, num_classes)
    scaler = StandardScaler().fit(X.astype(np.float64))
    scaled = scaler.transform(X.astype(np.float64))
    # a large intercept_scaling leaves liblinear's intercept nearly unpenalised, as ours is
    reference = LinearSVC(C=0.1, tol=1e-10, intercept_scaling=1e3, dual=False, max_iter=100_000).fit(
        scaled, codes
    )
    head = SvmHead(C=0.1, tol=1e-8).fit(X, codes)

    def objective(weights, intercept):
        classes = [1] if num_classes == 2 else range(num_classes)
        signs = np.stack([np.where(codes == c, 1, -1) for c in classes], axis=1)
        short = np.maximum(1 - signs * (scaled @ weights.T + intercept), 0)
        return 0.1 * (short**2).sum() + 0.5 * (weights**2).sum()

    weights = head.coef_ * scaler.scale_
    intercept = head.intercept_ + head.coef_ @ scaler.mean_
    assert head.converged_
    assert objective(weights, intercept) <= objective(reference.coef_, reference.intercept_) * (1 + 1e-6)
    assert objective(weights, intercept) == pytest.approx(head.objective_, rel=1e-9)


@pytest.mark.parametrize("family", ["logistic", "ridge", "svm"])
def test_a_constant_column_and_equal_columns_change_nothing(features, family):
    X, codes = features(80, 10, 3)
    wide = np.concatenate([X, np.full((80, 1), 1e4, np.float32)], axis=1)
    plain, padded = (fit_grid(family, [{}], x, codes, kind="classes", seed=0)[0] for x in (X, wide))
    np.testing.assert_allclose(padded.predict_proba(wide), plain.predict_proba(X), atol=1e-3)


def test_a_spatial_map_is_refused_with_the_reductions_that_would_help(features):
    with pytest.raises(ShapeError, match=r"found \(6, 4, 3, 3\).*gap or grid:2"):
        LogisticHead().fit(np.zeros((6, 4, 3, 3), np.float32), np.arange(6) % 2)


def test_one_class_only_is_an_error_that_says_so():
    with pytest.raises(DataError, match="one class only, 3: expected at least two"):
        LogisticHead().fit(np.eye(4), np.full(4, 3))


def test_values_that_are_not_finite_are_refused():
    X = np.eye(4)
    X[2, 2] = np.nan
    with pytest.raises(DataError, match="cannot be fitted: Input X contains NaN"):
        LogisticHead().fit(X, [0, 1, 0, 1])


def test_predicting_before_fitting_says_what_to_do():
    with pytest.raises(NotFitted, match="call fit before predict"):
        LogisticHead().predict(np.eye(3))
