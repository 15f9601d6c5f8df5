"""A local HDF5 file of a few kilobytes that shows the arrays of a published store to plain h5py, without a copy.

The inner chunks of uncompressed shards become `external` segments of HDF5 data sets. HDF5 checks no checksum, and
reads a shard that was cut short or removed afterwards as zeros: so the store is verified before the view is made,
and the view is for this machine, now. It holds absolute paths; it is never an output of DVC. For a copy that
stands alone, export to hdf5.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from embedpipe.errors import ConfigError, StoreError
from embedpipe.store import FeatureStore, verify
from embedpipe.store.arrays import ArrayLayout, layout_of
from embedpipe.store.shards import CRC_NBYTES

MAX_SEGMENTS = 2500
"""HDF5 keeps a data set's segments in one object header message: 2,600 were accepted, 3,000 too large."""


def write_view(store_dir: Path, out: Path, taps: tuple[str, ...] = ()) -> Path:
    """Verify a local store, then write a view of its taps, with `keys` and `part` beside them.

    Raises
    ------
    StoreError
        If the store is damaged, or a tap has more inner chunks than one HDF5 data set can name.
    """
    import h5py

    report = verify(store_dir)
    if not report.ok:
        raise StoreError(
            f"{report.damages[0]}; a view of a damaged store would show zeros: restore the file first"
        )
    store = FeatureStore.open(store_dir)
    scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(scratch, "w") as file:
            file["keys"], file["part"] = store.keys, store.parts
            for tap in taps or tuple(store.taps):
                layout = layout_of(store.tap(tap))
                segments = _segments(store, layout)
                shape = (store.num_rows, *layout.row_shape)
                file.create_dataset(tap, shape, np.dtype(layout.dtype), external=segments)
        os.replace(scratch, out)
    finally:
        scratch.unlink(missing_ok=True)
    return out


def _segments(store: FeatureStore, layout: ArrayLayout) -> list[tuple[str, int, int]]:
    """(file, offset, bytes) of every inner chunk in order; the last one ends with the last row."""
    root, chunk = Path(str(store.path)).absolute(), layout.chunk_layout
    segments: list[tuple[str, int, int]] = []
    holes = store.holes(layout.name)
    for start in range(0, store.num_rows, chunk.chunk_rows):
        stop = min(start + chunk.chunk_rows, store.num_rows)
        shard, within = divmod(start, chunk.shard_rows)
        path = layout.shard_path(shard)
        offset = within // chunk.chunk_rows * (chunk.chunk_nbytes + CRC_NBYTES)
        nbytes = (stop - start) * chunk.row_nbytes
        record: Any = store.contents.files.get(path)
        if record is None or offset + nbytes > record.nbytes - chunk.index_nbytes:
            raise StoreError(
                f"{store.path}: tap {layout.name}: rows {start} to {stop - 1} were never written "
                f"({len(holes)} holes), which HDF5 would show as zeros; use `embedpipe export --format hdf5`"
            )
        segments.append((str(root / path), offset, nbytes))
    if len(segments) > MAX_SEGMENTS:
        raise ConfigError(
            f"{store.path}: tap {layout.name}: expected at most {MAX_SEGMENTS} inner chunks, found "
            f"{len(segments)}: more than one HDF5 data set can name; use `embedpipe export --format hdf5`"
        )
    return segments
