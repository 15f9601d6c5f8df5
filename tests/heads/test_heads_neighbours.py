"""Nearest centroid and nearest neighbours against scikit-learn and formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid
from sklearn.preprocessing import StandardScaler, normalize

from embedpipe.heads.bank import Bank
from embedpipe.heads.centroid import CentroidHead
from embedpipe.heads.knn import KnnClassifierHead, KnnRegressorHead
from embedpipe.heads.registry import fit_grid
from embedpipe.heads.rows import ArrayRows
from embedpipe.heads.temperature import fit_inverse_temperature


def test_centroid_predicts_what_nearest_centroid_predicts(features):
    X, codes = features(200, 20, 4)
    scaler = StandardScaler().fit(X[:100].astype(np.float64))
    reference = NearestCentroid().fit(scaler.transform(X[:100].astype(np.float64)), codes[:100])
    head = CentroidHead().fit(X[:100], codes[:100])
    wanted = reference.predict(scaler.transform(X[100:].astype(np.float64)))
    np.testing.assert_array_equal(head.predict(X[100:]), wanted)


def test_cosine_centroid_picks_the_mean_at_the_smallest_angle(features):
    X, codes = features(200, 20, 4)
    unit = normalize(X.astype(np.float64))
    means = normalize(np.stack([unit[:100][codes[:100] == c].mean(axis=0) for c in range(4)]))
    head = CentroidHead(metric="cosine", standardise=False).fit(X[:100], codes[:100])
    np.testing.assert_array_equal(head.predict(X[100:]), (unit[100:] @ means.T).argmax(axis=1))


def test_a_centroid_head_of_one_row_a_class_gives_finite_probabilities(features):
    X, codes = features(5, 12, 5)
    for metric in ("euclidean", "cosine"):
        proba = CentroidHead(metric=metric).fit(X, codes).predict_proba(X)
        np.testing.assert_allclose(proba.sum(axis=1), 1.0)
        np.testing.assert_array_equal(proba.argmax(axis=1), codes)


def softmax_weights(distances):
    raw = np.exp(-distances / 0.07)
    return raw / raw.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("ours", "theirs"), [("softmax", softmax_weights), ("uniform", "uniform")])
def test_neighbours_vote_as_scikit_learns_do(features, ours, theirs):
    X, codes = features(150, 20, 4)
    y = codes + np.random.default_rng(2).normal(size=len(codes))
    options = {"n_neighbors": 7, "metric": "cosine", "weights": theirs, "algorithm": "brute"}
    classifier = KNeighborsClassifier(**options).fit(X[:100].astype(np.float64), codes[:100])
    regressor = KNeighborsRegressor(**options).fit(X[:100].astype(np.float64), y[:100])
    np.testing.assert_allclose(
        KnnClassifierHead(k=7, weights=ours).fit(X[:100], codes[:100]).predict_proba(X[100:]),
        classifier.predict_proba(X[100:].astype(np.float64)),
        atol=2e-5,
    )
    np.testing.assert_allclose(
        KnnRegressorHead(k=7, weights=ours).fit(X[:100], y[:100]).predict(X[100:]),
        regressor.predict(X[100:].astype(np.float64)),
        atol=1e-4,
    )


@pytest.mark.parametrize("k", [1, 7, 5000])
def test_the_nearest_are_those_of_a_full_sort_and_equal_ones_go_by_the_order_of_rows(k):
    rng = np.random.default_rng(0)
    unit = rng.choice([-0.5, 0.0, 0.5], (9000, 4)).astype("f4")  # products are exact: many are equal
    asked = unit[rng.integers(0, 9000, 50)]
    index, similarity = Bank(ArrayRows(unit), k).nearest(asked, k)  # three blocks
    exact = asked @ unit.T
    for row, (place, found) in enumerate(zip(index, similarity, strict=True)):
        wanted = np.sort(np.lexsort((np.arange(9000), -exact[row]))[:k])
        np.testing.assert_array_equal(place, wanted)
        np.testing.assert_array_equal(found, exact[row, wanted])


def test_neighbours_do_not_depend_on_what_was_asked_before_or_beside(features):
    X, codes = features(300, 10, 3)
    few, many = fit_grid("knn", [{"k": 1}, {"k": 9}], X, codes, kind="classes", seed=0)
    asked = X[:40].copy()
    wanted = many.predict_proba(asked)
    asked[:] = X[40:80]  # in the same memory
    np.testing.assert_array_equal(many.predict_proba(asked), many.predict_proba(X[:80])[40:])
    np.testing.assert_array_equal(many.predict_proba(X[:40]), wanted)
    (alone,) = fit_grid("knn", [{"k": 1}], X, codes, kind="classes", seed=0)
    np.testing.assert_array_equal(few.predict_proba(X), alone.predict_proba(X))


def test_more_neighbours_than_rows_are_all_rows(features):
    X, codes = features(12, 6, 3)
    many, all_rows = (KnnClassifierHead(k=k).fit(X, codes).predict_proba(X) for k in (500, 12))
    np.testing.assert_array_equal(many, all_rows)


def test_temperature_is_the_one_of_highest_likelihood():
    rng = np.random.default_rng(0)
    scores, codes = rng.normal(size=(400, 5)), np.zeros(400, dtype=np.int64)
    shares = np.exp(3.0 * scores) / np.exp(3.0 * scores).sum(axis=1, keepdims=True)
    codes = np.array([rng.choice(5, p=p) for p in shares])
    grid = np.linspace(0.5, 8, 15001)

    def likelihood(b):
        return (b * scores[np.arange(400), codes] - np.logaddexp.reduce(b * scores, axis=1)).sum()

    best = grid[np.argmax([likelihood(b) for b in grid[::50]]) * 50]
    assert fit_inverse_temperature(scores, codes) == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize(("codes", "wanted"), [([0, 1], 100.0), ([1, 0], 0.1)])
def test_temperature_stays_within_its_range_where_likelihood_has_no_peak(codes, wanted):
    assert fit_inverse_temperature(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array(codes)) == wanted
