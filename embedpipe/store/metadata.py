"""What an array's zarr.json says, and zarr's own stores to open one with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedpipe.remote import RemoteFolder
from embedpipe.store.shards import ChunkLayout


def zarr_store(folder: Path | RemoteFolder) -> Any:
    """zarr's own store of a folder, read-only."""
    import zarr

    if isinstance(folder, RemoteFolder):
        return zarr.storage.FsspecStore.from_url(
            folder.url, storage_options=dict(folder.options), read_only=True
        )
    return zarr.storage.LocalStore(folder, read_only=True)


def describe(metadata: Mapping[str, Any]) -> tuple[tuple[int, ...], str, int, int]:
    """Row shape, dtype, rows a shard and rows an inner chunk, as an array's zarr.json has them."""
    outer = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    inner = metadata["codecs"][0]["configuration"]["chunk_shape"]
    return tuple(metadata["shape"][1:]), metadata["data_type"], outer[0], inner[0]


def raw_codecs(layout: ChunkLayout) -> list[dict[str, Any]]:
    """The codecs of an array whose shards need no zarr: inner chunks as they lie in memory."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    plain = little if np.dtype(layout.dtype).itemsize > 1 else {"name": "bytes"}
    checked = {"name": "crc32c"}
    sharding = {
        "chunk_shape": [layout.chunk_rows, *layout.row_shape],
        "codecs": [plain, checked],
        "index_codecs": [little, checked],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharding}]
