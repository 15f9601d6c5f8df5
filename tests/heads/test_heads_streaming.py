"""A head trained out of core equals the one trained in memory: to the bit, for every family that streams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from safetensors.numpy import save

from embedpipe.errors import DataError
from embedpipe.heads import tensors
from embedpipe.heads.registry import FAMILIES, fit_grid, head_class, load_head, save_head
from embedpipe.heads.rows import ArrayRows, array_of

GRIDS = {
    "ridge": [{"alpha": 1.0}, {"alpha": 10.0, "normalise": True, "pca": 3}],
    "logistic": [{"C": 0.1}, {"C": 1.0}, {"multi_class": "one_vs_rest", "pca": 3, "whiten": True}],
    "svm": [{"C": 0.01}],
    "lda": [{"shrinkage": 0.1}, {"standardise": False}],
    "centroid": [{"metric": "euclidean"}, {"metric": "cosine"}],
    "knn": [{"k": 3}, {"k": 20, "weights": "distance", "standardise": True}, {"k": 1}],
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


@pytest.mark.parametrize(
    ("family", "weighted"),
    [
        (family, weighted)
        for family in GRIDS
        for weighted in (False, True)
        if not (family == "knn" and weighted)
    ],
)
def test_rows_elsewhere_give_the_same_head_to_the_bit(features, family, weighted):
    X, codes = features(5000, 12, 4)  # two blocks
    weight = np.random.default_rng(0).integers(0, 3, 5000).astype(float) if weighted else None
    options = {"kind": "classes", "seed": 0, "sample_weight": weight}
    near = fit_grid(family, GRIDS[family], X, codes, **options)
    far = fit_grid(family, GRIDS[family], FarRows(X), codes, memory_nbytes=1000, **options)
    for ours, theirs in zip(far, near, strict=True):
        state = ours.state()
        found = {**state.tensors, **{name: array_of(rows) for name, rows in state.far.items()}}
        assert bool(state.far) == (family == "knn")
        for name, tensor in theirs.state().tensors.items():
            np.testing.assert_array_equal(found[name], tensor)
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
    name = "sklearn:svm.SVC"
    near = fit_grid(name, [{}], X, codes, kind="classes", seed=0)[0]
    far = fit_grid(name, [{}], FarRows(X), codes, kind="classes", seed=0)[0]
    np.testing.assert_array_equal(far.predict_proba(X), near.predict_proba(X))
    with pytest.raises(
        DataError, match=r"sklearn:svm.SVC: needs .* at most 1e-06 GB, found 1.2e-06 GB \(60 rows of 5 col"
    ):
        fit_grid(name, [{}], FarRows(X), codes, kind="classes", seed=0, memory_nbytes=1000)


@pytest.mark.parametrize("kind", ["classes", "number", "multilabel"])
def test_neighbours_beyond_memory_are_saved_as_those_in_memory_and_mapped_when_loaded(
    tmp_path, features, monkeypatch, kind
):
    X, codes = features(4500, 6, 3)
    y = {"classes": codes, "number": codes + X[:, 0], "multilabel": np.eye(3)[codes]}[kind]
    near = fit_grid("knn", [{"k": 4}], X, y, kind=kind, seed=0)[0]
    far = fit_grid("knn", [{"k": 4}], FarRows(X), y, kind=kind, seed=0, memory_nbytes=1000)[0]
    save_head(near, tmp_path / "near")
    save_head(far, tmp_path / "far")
    for name in ("head.safetensors", "head.json"):
        assert (tmp_path / "near" / name).read_bytes() == (tmp_path / "far" / name).read_bytes()
    monkeypatch.setattr(tensors, "MAPPED_NBYTES", 1000)
    mapped = load_head(tmp_path / "far")
    assert isinstance(mapped.rows_, np.memmap)
    np.testing.assert_array_equal(mapped.predict(X[:40]), near.predict(X[:40]))


@pytest.mark.parametrize("dtype", tensors._TYPES)
def test_what_is_written_by_blocks_has_the_bytes_that_safetensors_writes(tmp_path, dtype):
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, shape).astype(dtype) for name, shape in (("a", 3), ("é", (2, 1)))}
    rows = rng.normal(size=(4100, 2)).astype("f4")
    tensors.write_tensors(tmp_path / "ours", {**arrays, "z": np.ones(2)}, {"rows_": FarRows(rows)})
    assert (tmp_path / "ours").read_bytes() == save({**arrays, "z": np.ones(2), "rows_": rows})
