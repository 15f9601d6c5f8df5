"""Make the bytes of metadata and shards, in memory: metadata by zarr-python, shards as it makes them.

`disk` writes them: so they are hashed once, fsynced, and leave no temporaries of zarr's. Codecs: sharding, with bytes +
crc32c on the inner chunks and on the index.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from embedpipe.store import shards
from embedpipe.store.arrays import METADATA, ArrayLayout
from embedpipe.store.disk import NUM_HELD
from embedpipe.store.shards import ABSENT, CRC_NBYTES, ChunkLayout

Put = Callable[[npt.NDArray[Any], int], None]


def encode_metadata(layout: ArrayLayout, num_rows: int) -> bytes:
    """zarr.json of an array of `num_rows` rows."""
    described = json.loads(_empty_metadata(layout))
    described["shape"][0] = num_rows
    return json.dumps(described, indent=2).encode()


@lru_cache(maxsize=64)
def _empty_metadata(layout: ArrayLayout) -> bytes:
    """As zarr writes it; asked for once, since it takes zarr milliseconds and a commit needs several."""
    held: dict[str, Any] = {}
    _create(held, layout, 0)
    return bytes(held[METADATA].to_bytes())


def encode_shard(layout: ArrayLayout, rows: npt.NDArray[Any]) -> bytes:
    """One shard holding `rows`, shape (n, ...), n <= shard_rows."""
    assert rows.shape[1:] == layout.row_shape

    def put(out: npt.NDArray[Any], start: int) -> None:
        out[...] = rows[start : start + len(out)]

    return b"".join(bytes(part) for part in shard_parts(layout, len(rows), put))


def shard_parts(layout: ArrayLayout, num_rows: int, put: Put) -> Iterator[memoryview]:
    """The parts of a shard of `num_rows` rows, which `put` writes where it is told, inner chunk by inner chunk.

    A short shard stays small: only the inner chunks that rows fall into are written. The same bytes as zarr
    makes, which a test holds it to; but made and written part by part, so that hashing and writing go on meanwhile.

    Parameters
    ----------
    put
        Called with (array [n, *row_shape] to fill, row of the shard that it begins at).
    """
    assert 0 < num_rows <= layout.shard_rows
    if shards.is_supported() and layout.row_nbytes:
        yield from _encode(layout.chunk_layout, num_rows, layout.fill_value, put)
        return
    rows = layout.empty_rows(num_rows)
    put(rows, 0)
    held: dict[str, Any] = {}
    _create(held, layout, num_rows)[...] = rows
    yield memoryview(held["/".join(["c", "0", *["0"] * len(layout.row_shape)])].to_bytes())


def encode_group(layouts: Iterable[tuple[ArrayLayout, int]] = ()) -> bytes:
    """zarr.json of the group that holds the arrays.

    Given arrays, their metadata are consolidated into it, so that zarr lists them without taking
    the files beside them for broken arrays.
    """
    return _group_metadata(tuple(layouts))


@lru_cache(maxsize=4)
def _group_metadata(arrays: tuple[tuple[ArrayLayout, int], ...]) -> bytes:
    import zarr

    held: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(held)
    zarr.create_group(store=store)
    for layout, num_rows in arrays:
        _create(held, layout, num_rows, path=layout.name)
    if arrays:
        with warnings.catch_warnings():
            # "not part of the Zarr v3 specification": a reader that ignores it loses nothing
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(store)
    return bytes(held[METADATA].to_bytes())


def _encode(layout: ChunkLayout, num_rows: int, fill: float, put: Put) -> Iterator[memoryview]:
    """The parts of a shard of `num_rows` rows: inner chunks as they are made, the last one filled up; the index.

    Parameters
    ----------
    put
        Called with an array [n, *row_shape] for each inner chunk and the row of the shard that it begins at:
        writes the rows there, each exactly once. Rows are copied no second time.

    Yields
    ------
    memoryview
        Valid until `disk.NUM_HELD` more were asked for: memory that is used again stays in the cache.
    """
    num_chunks = -(-num_rows // layout.chunk_rows)
    step = layout.chunk_nbytes + CRC_NBYTES
    buffers = np.empty((min(num_chunks, NUM_HELD + 1), step), np.uint8)
    for i in range(num_chunks):
        part = buffers[i % len(buffers)]
        plain, start = part[:-CRC_NBYTES], i * layout.chunk_rows
        chunk = plain.view(layout.dtype).reshape(layout.chunk_rows, *layout.row_shape)
        here = min(layout.chunk_rows, num_rows - start)
        put(chunk[:here], start)
        chunk[here:] = fill
        part[-CRC_NBYTES:] = _crc(plain)
        yield part.data
    index = np.full((layout.num_chunks, 2), ABSENT, "<u8")
    index[:num_chunks, 0] = np.arange(num_chunks) * step
    index[:num_chunks, 1] = step
    encoded = index.reshape(-1).view(np.uint8)
    yield np.concatenate([encoded, _crc(encoded)]).data


def _crc(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(int(google_crc32c.value(data)).to_bytes(CRC_NBYTES, "little"), np.uint8)


def _create(held: dict[str, Any], layout: ArrayLayout, num_rows: int, path: str = "") -> Any:
    import zarr
    from zarr.codecs import Crc32cCodec

    return zarr.create_array(
        store=zarr.storage.MemoryStore(held),
        name=path or None,
        shape=(num_rows, *layout.row_shape),
        dtype=layout.dtype,
        chunks=(layout.chunk_rows, *layout.row_shape),
        shards=(layout.shard_rows, *layout.row_shape),
        compressors=[Crc32cCodec()],
        fill_value=layout.fill_value,
        attributes=dict(layout.attributes),
        # zarr's check whether a float16 chunk is all fill value takes four times as long as writing it
        config={"write_empty_chunks": True},
    )
