"""Moments by fold, and ridge on top of them, against scikit-learn refitted without what is held out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedpipe.errors import ConfigError, DataError, ShapeError
from embedpipe.heads.gram import Gram
from embedpipe.heads.registry import fit_grid
from embedpipe.heads.ridge import RidgeClassifierHead, RidgeRegressorHead
from embedpipe.heads.ridge_path import PrimalPath, TridiagonalPath, fold_scores, ridge_path
from embedpipe.heads.rows import ArrayRows

ALPHAS = [0.1, 3.0, 100.0]


def moments(X, Y, weight):
    X, mean = X.astype(np.float64), np.average(X.astype(np.float64), axis=0, weights=weight)
    centred, apart = X - mean, Y - np.average(Y, axis=0, weights=weight)
    return weight.sum(), mean, (centred.T * weight) @ centred, (centred.T * weight) @ apart


def agree(normal, wanted):
    for found, reference in zip((normal.weight, normal.mean, normal.gram, normal.cross), wanted, strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-9, atol=1e-9 * np.abs(reference).max())


@pytest.fixture
def task(features):
    X, codes = features(300, 20, 4)
    rng = np.random.default_rng(3)
    Y = np.eye(4)[codes] + rng.normal(size=(300, 4))
    return X + 100, Y, rng.integers(0, 5, 300), rng.integers(1, 4, 300).astype(float)


def blocks(gram, X, targets, folds, weight):
    for at in range(0, len(X), 70):
        part = slice(at, at + 70)
        gram.add(X[part], {k: Y[part] for k, Y in targets.items()}, folds=folds[part], weight=weight[part])


def test_moments_without_a_fold_are_those_of_the_other_rows(task):
    X, Y, folds, weight = task
    gram = Gram(5)
    blocks(gram, X, {"a": Y}, folds, weight)
    agree(gram.normal("a"), moments(X, Y, weight))
    for fold in range(5):
        kept = folds != fold
        agree(gram.normal("a", without=fold), moments(X[kept], Y[kept], weight[kept]))


def test_tasks_with_missing_labels_share_the_moments_of_the_features(task):
    X, Y, folds, weight = task
    holey = Y[:, :1].copy()
    holey[::7] = np.nan
    gram = Gram(5)
    blocks(gram, X, {"whole": Y, "holey": holey}, folds, weight)
    kept = ~np.isnan(holey[:, 0])
    agree(gram.normal("whole"), moments(X, Y, weight))
    agree(gram.normal("holey"), moments(X[kept], holey[kept], weight[kept]))
    kept &= folds != 2
    agree(gram.normal("holey", without=2), moments(X[kept], holey[kept], weight[kept]))


def test_a_label_fix_reads_the_changed_rows_alone(task):
    X, Y, folds, weight = task
    fixed = Y.copy()
    changed = np.array([4, 9, 200])
    fixed[changed] += 3.0
    fixed[9] = np.nan
    gram = Gram(5)
    blocks(gram, X, {"a": Y}, folds, weight)
    gram.relabel("a", X[changed], Y[changed], fixed[changed], folds=folds[changed], weight=weight[changed])
    kept = np.arange(len(X)) != 9
    agree(gram.normal("a"), moments(X[kept], fixed[kept], weight[kept]))


def test_blocks_that_do_not_fit_are_refused(task):
    X, Y, _, _ = task
    gram = Gram()
    gram.add(X, {"digit": Y})
    with pytest.raises(ShapeError, match=r"expected rows of 20 features, found \(300, 3\)"):
        gram.add(X[:, :3], {"digit": Y})
    with pytest.raises(DataError, match="expected targets of digit as in the first block, found slant"):
        gram.add(X, {"slant": Y})
    with pytest.raises(DataError, match=r"no targets 'digt' were added .did you mean 'digit'"):
        gram.normal("digt")


@pytest.mark.parametrize("shape", [(300, 20), (300, 1), (40, 60)])
@pytest.mark.parametrize("standardise", [True, False])
def test_scores_of_folds_equal_scikit_learns_refitted_for_each(features, shape, standardise):
    X, codes = features(*shape, 3)
    Y = np.eye(3)[codes]
    folds = np.arange(len(X)) % 4
    wide = X.astype(np.float64)
    for held, scores in fold_scores(X, Y, folds, ALPHAS, standardise=standardise):
        kept = folds != folds[held[0]]
        for alpha, found in zip(ALPHAS, scores, strict=True):
            steps = [StandardScaler()] if standardise else []
            reference = make_pipeline(*steps, Ridge(alpha=alpha, solver="svd")).fit(wide[kept], Y[kept])
            np.testing.assert_allclose(found, reference.predict(wide[held]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(300, 20), (40, 60)])
def test_weighted_ridge_equals_scikit_learns(features, shape):
    X, codes = features(*shape, 3)
    rng = np.random.default_rng(1)
    y, weight = codes + rng.normal(size=len(codes)), rng.uniform(0.1, 3.0, len(codes))
    wide = X.astype(np.float64)
    heads = fit_grid(
        "ridge",
        [{"alpha": alpha, "standardise": False} for alpha in ALPHAS],
        X, y, kind="number", seed=0, sample_weight=weight,
    )  # fmt: skip
    for alpha, head in zip(ALPHAS, heads, strict=True):
        reference = Ridge(alpha=alpha, solver="svd").fit(wide, y, weight)
        np.testing.assert_allclose(head.predict(X), reference.predict(wide), rtol=1e-8, atol=1e-8)


def test_balanced_classes_weigh_as_scikit_learns_do(features):
    X, codes = features(200, 20, 4)
    codes = np.where(np.random.default_rng(0).random(200) < 0.6, 0, codes)
    head = RidgeClassifierHead(alpha=2.0, class_weight="balanced", standardise=False).fit(X, codes)
    reference = RidgeClassifier(alpha=2.0, class_weight="balanced", solver="svd")
    reference.fit(X.astype(np.float64), codes)
    wanted = reference.decision_function(X.astype(np.float64))
    # scikit-learn's targets are -1 and 1, ours 0 and 1
    np.testing.assert_allclose(2 * head.decision_function(X) - 1, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(60, 10), (25, 30)])
def test_weighted_leave_one_out_leaves_out_one_copy_of_a_row(features, shape):
    X, codes = features(*shape, 3)
    Y, weight = np.eye(3)[codes], np.random.default_rng(5).integers(1, 4, len(X))
    path = ridge_path(X, Y, standardise=False, weight=weight.astype(float))
    found = path.left_out(ArrayRows(X), Y, np.arange(len(X)), None).scores(2.0)
    copies = np.repeat(np.arange(len(X)), weight)
    for i in (0, 7, len(X) - 1):
        kept = np.delete(copies, np.flatnonzero(copies == i)[0])
        reference = Ridge(alpha=2.0, solver="svd").fit(X[kept].astype(np.float64), Y[kept])
        wanted = reference.predict(X[i : i + 1].astype(np.float64))[0]
        np.testing.assert_allclose(found[i], wanted, rtol=1e-7, atol=1e-7)


def test_both_forms_give_the_same_weights(features):
    X, codes = features(30, 30, 3)
    dual = ridge_path(X[:29], np.eye(3)[codes[:29]], standardise=True)
    gram = Gram()
    gram.add(X[:29], {"y": np.eye(3)[codes[:29]]})
    primal = PrimalPath.of(gram.normal("y"), standardise=True)
    for ours, theirs in zip(dual.weights(ALPHAS), primal.weights(ALPHAS), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


def test_a_family_without_sample_weights_refuses_them(features):
    X, codes = features(30, 5, 3)
    with pytest.raises(ConfigError, match="KnnClassifierHead: takes no sample weights"):
        fit_grid("knn", [{}], X, codes, kind="classes", seed=0, sample_weight=np.ones(30))


def test_sample_weights_that_leave_nothing_are_refused(features):
    X, codes = features(30, 5, 3)
    with pytest.raises(DataError, match="must contain at least one non-zero"):
        RidgeRegressorHead().fit(X, codes.astype(float), np.zeros(30))
    with pytest.raises(DataError, match="cannot be fitted: Negative values"):
        RidgeRegressorHead().fit(X, codes.astype(float), -np.ones(30))


def test_the_tridiagonal_form_gives_the_same_weights_even_where_columns_are_equal(features):
    X, codes = features(200, 15, 3)
    gram = Gram()
    gram.add(np.concatenate([X, X], axis=1), {"y": np.eye(3)[codes]})
    normal = gram.normal("y")
    alphas = [1e-4, *ALPHAS]
    for forms in zip(
        TridiagonalPath.of(normal, standardise=True).weights(alphas),
        PrimalPath.of(normal, standardise=True).weights(alphas),
        strict=True,
    ):
        np.testing.assert_allclose(*forms, rtol=1e-6, atol=1e-8)
