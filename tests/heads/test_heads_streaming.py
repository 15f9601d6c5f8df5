"""A head trained out of core equals the one trained in memory: to the bit, for every family that streams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from embedpipe.errors import DataError
from embedpipe.heads.registry import FAMILIES, fit_grid, head_class
from embedpipe.heads.rows import ArrayRows

GRIDS = {
    "ridge": [{"alpha": 1.0}, {"alpha": 10.0, "normalise": True, "pca": 3}],
    "logistic": [{"C": 0.1}, {"C": 1.0}, {"multi_class": "one_vs_rest", "pca": 3, "whiten": True}],
    "svm": [{"C": 0.01}],
    "lda": [{"shrinkage": 0.1}, {"standardise": False}],
    "centroid": [{"metric": "euclidean"}, {"metric": "cosine"}],
    "greedy": [{"widths": (4, 8)}, {"widths": (4, 8), "class_weight": "balanced", "most": 1}],
}


@dataclass(frozen=True)
class FarRows:
    """Rows that lie elsewhere: each reading makes new arrays."""

    X: np.ndarray

    @property
    def shape(self):
        return self.X.shape

    def blocks(self):
        for part, block in ArrayRows(self.X).blocks():
            yield part, block.copy()

    def gather(self, index):
        return self.X[index]

    def take(self, index):
        return FarRows(self.X[index])


def test_every_convex_family_that_streams_is_tried_here():
    convex = ("ridge", "logistic", "svm", "lda", "centroid", "knn", "greedy")
    assert [name for name in convex if head_class(name, "classes").streams] == list(GRIDS)
    assert set(convex) <= set(FAMILIES)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", GRIDS)
def test_rows_elsewhere_give_the_same_head_to_the_bit(features, family, weighted):
    X, codes = features(5000, 12, 4)  # two blocks
    weight = np.random.default_rng(0).integers(0, 3, 5000).astype(float) if weighted else None
    options = {"kind": "classes", "seed": 0, "sample_weight": weight}
    near = fit_grid(family, GRIDS[family], X, codes, **options)
    far = fit_grid(family, GRIDS[family], FarRows(X), codes, memory_nbytes=1000, **options)
    for ours, theirs in zip(far, near, strict=True):
        for name, tensor in theirs.state().tensors.items():
            np.testing.assert_array_equal(ours.state().tensors[name], tensor)
        np.testing.assert_array_equal(ours.predict_proba(X[:50]), theirs.predict_proba(X[:50]))


def test_passes_in_float32_give_the_same_head_too(features):
    X, codes = features(4200, 520, 3)
    grid = [{"C": 1e-3, "tol": 1e-5}, {"C": 1e-2, "tol": 1e-5}]
    near = fit_grid("logistic", grid, X, codes, kind="classes", seed=0)
    far = fit_grid("logistic", grid, FarRows(X), codes, kind="classes", seed=0, memory_nbytes=1000)
    for ours, theirs in zip(far, near, strict=True):
        assert ours.converged_
        np.testing.assert_array_equal(ours.coef_, theirs.coef_)


def test_fewer_rows_than_features_stream_in_the_dual_form(features):
    X, codes = features(60, 90, 3)
    near = fit_grid("ridge", [{"alpha": 2.0}], X, codes, kind="classes", seed=0)[0]
    far = fit_grid("ridge", [{"alpha": 2.0}], FarRows(X), codes, kind="classes", seed=0, memory_nbytes=10)[0]
    np.testing.assert_array_equal(far.coef_, near.coef_)


def test_values_that_are_not_finite_are_found_while_streaming(features):
    X, codes = features(60, 5, 3)
    X[31, 2] = np.inf
    with pytest.raises(DataError, match="features hold NaN or infinity"):
        fit_grid("ridge", [{}], FarRows(X), codes, kind="classes", seed=0, memory_nbytes=10)


def test_rows_that_fit_are_held_for_families_that_do_not_stream(features):
    X, codes = features(60, 5, 3)
    near = fit_grid("knn", [{}], X, codes, kind="classes", seed=0)[0]
    far = fit_grid("knn", [{}], FarRows(X), codes, kind="classes", seed=0)[0]
    np.testing.assert_array_equal(far.predict_proba(X), near.predict_proba(X))
    with pytest.raises(
        DataError, match=r"knn: needs .* at most 1e-06 GB, found 1.2e-06 GB \(60 rows of 5 col"
    ):
        fit_grid("knn", [{}], FarRows(X), codes, kind="classes", seed=0, memory_nbytes=1000)
