"""Discriminants against scikit-learn's, and evidence against the density of the labels written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from embedpipe.heads.gram import Gram
from embedpipe.heads.lda import LdaHead
from embedpipe.heads.logme import logme
from embedpipe.heads.registry import fit_grid


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("standardise", [True, False])
def test_decisions_equal_scikit_learns_at_every_shrinkage(features, num_classes, standardise):
    X, codes = features(300, 25, num_classes)
    wide = X.astype(np.float64)
    if standardise:
        wide = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    shrinkages = [0.0, 0.2, 0.9]
    candidates = [{"shrinkage": one, "standardise": standardise} for one in shrinkages]
    heads = fit_grid("lda", candidates, X, codes, kind="classes", seed=0)
    for shrinkage, head in zip(shrinkages, heads, strict=True):
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(wide, codes)
        wanted = reference.decision_function(wide)
        np.testing.assert_allclose(head.decision_function(X), wanted, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(head.predict_proba(X), reference.predict_proba(wide), atol=1e-8)


def test_balanced_classes_are_equal_priors(features):
    X, codes = features(300, 25, 4)
    wide, codes = X.astype(np.float64)[codes > 0], codes[codes > 0]
    head = LdaHead(shrinkage=0.3, standardise=False, class_weight="balanced").fit(wide, codes)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=np.full(3, 1 / 3))
    wanted = reference.fit(wide, codes).predict_proba(wide)
    # there the shrunk covariance is the mean of each class's own
    np.testing.assert_allclose(head.predict_proba(wide), wanted, atol=0.05)
    np.testing.assert_array_equal(head.predict(wide), reference.predict(wide))
    plain = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(3, 1 / 3)).fit(wide, codes)
    ours = LdaHead(shrinkage=0.0, standardise=False, class_weight="balanced").fit(wide, codes)
    np.testing.assert_allclose(
        ours.decision_function(wide), plain.decision_function(wide), rtol=1e-8, atol=1e-8
    )


def test_fewer_rows_than_features_give_finite_discriminants(features):
    X, codes = features(20, 60, 4)
    for shrinkage in (0.0, 0.5, 1.0):
        head = LdaHead(shrinkage=shrinkage).fit(X, codes)
        assert np.isfinite(head.predict_proba(X)).all()
    assert head.score(X, codes) > 0.7


def test_evidence_equals_the_largest_density_of_the_labels(features):
    X, codes = features(60, 5, 3)
    X = X / X.std(axis=0)
    Y = np.eye(3)[codes]
    gram = Gram()
    gram.add(X, {"y": Y})
    wide = X.astype(np.float64)

    def surprise(logs, y):
        covariance = wide @ wide.T * np.exp(logs[0]) + np.eye(len(y)) * np.exp(logs[1])
        return -multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)

    best = [minimize(surprise, [-3.0, -2.0], (y,), method="Nelder-Mead", tol=1e-10).fun for y in Y.T]
    assert logme(gram.normal("y")) == pytest.approx(-np.mean(best) / 60, abs=1e-7)


def test_evidence_prefers_features_that_tell_the_classes_apart(features):
    X, codes = features(200, 20, 4)
    noise = np.random.default_rng(0).normal(size=X.shape)
    scores = []
    for rows in (X, noise):
        gram = Gram()
        gram.add(rows, {"y": np.eye(4)[codes]})
        scores.append(logme(gram.normal("y")))
    assert scores[0] > scores[1]
