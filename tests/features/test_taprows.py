"""Rows of a published store, as heads ask for them."""

from __future__ import annotations

import numpy as np
import pytest

from embedpipe.errors import DataError
from embedpipe.features.features import Features
from embedpipe.features.taprows import TapRows
from embedpipe.heads.rows import ArrayRows, Rows, cut
from embedpipe.store import FeatureStore


def test_rows_come_by_blocks_and_by_gather_as_they_do_from_memory(make_store, make_manifest):
    names = [f"s{i}" for i in range(40)]
    store = FeatureStore.open(make_store(names[::2], names[1::2]))
    manifest = make_manifest(names)
    for tap in store.taps:
        rows = TapRows.of([(store, tap)], manifest.keys, cut=cut, memory_nbytes=0)
        wanted = Features.of(manifest, [(store, tap)]).numpy()
        assert isinstance(rows, Rows) and rows.shape == wanted.shape
        blocks = list(rows.blocks())
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), wanted)
        assert [part for part, _ in blocks] == [part for part, _ in ArrayRows(wanted).blocks()]
        index = np.random.default_rng(0).permutation(40)
        np.testing.assert_array_equal(rows.gather(index), wanted[index])
        np.testing.assert_array_equal(rows.take(index[:7]).gather(np.array([6, 0])), wanted[index[[6, 0]]])


def test_a_sample_without_features_is_named_by_number(make_store, make_manifest):
    store = FeatureStore.open(make_store(["a", "b"]))
    with pytest.raises(DataError, match="expected features of 3 samples, found them for 2"):
        TapRows.of(
            [(store, next(iter(store.taps)))], make_manifest(["a", "b", "c"]).keys, cut=cut, memory_nbytes=0
        )
