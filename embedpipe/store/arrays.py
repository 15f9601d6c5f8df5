"""The only module that touches zarr-python: encode metadata and shards, read slices.

Every byte of an array is made by zarr-python, in memory, and written by `disk`: so it is hashed once,
fsynced, and leaves no temporaries of zarr's. Codecs: sharding, with bytes + crc32c on the inner chunks and
on the index. zarr is imported inside the functions: importing it takes most of a second, and reading a
ledger does not need it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.errors import StoreError
from embedpipe.store.disk import FileRecord
from embedpipe.store.layout import KEYS, PART, TABLE_CHUNK_ROWS, TABLE_SHARD_ROWS, TapState

METADATA = "zarr.json"


@dataclass(frozen=True)
class ArrayLayout:
    """All that zarr needs to know of an array but its length."""

    name: str
    row_shape: tuple[int, ...]
    dtype: str
    shard_rows: int
    chunk_rows: int
    fill_value: float
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def metadata_path(self) -> str:
        return f"{self.name}/{METADATA}"

    def shard_path(self, shard: int) -> str:
        """Path of a shard in its group: ``<name>/c/<shard>/0``, Zarr v3's default key encoding."""
        return "/".join([self.name, "c", str(shard), *["0"] * len(self.row_shape)])

    def empty_rows(self, num_rows: int) -> npt.NDArray[Any]:
        """Rows of nothing but the fill value."""
        return np.full((num_rows, *self.row_shape), self.fill_value, self.dtype)


KEYS_LAYOUT = ArrayLayout(KEYS, (16,), "uint8", TABLE_SHARD_ROWS, TABLE_CHUNK_ROWS, 0)
PART_LAYOUT = ArrayLayout(PART, (), "int32", TABLE_SHARD_ROWS, TABLE_CHUNK_ROWS, 0)


def layout_of(tap: TapState) -> ArrayLayout:
    """A feature array. It fills with NaN, since a missing shard must not read as zeros."""
    attributes = (("node", tap.spec.node), ("reduction", tap.spec.reduction))
    nan = float("nan")
    return ArrayLayout(
        tap.name, tap.row_shape, tap.spec.dtype, tap.shard_rows, tap.chunk_rows, nan, attributes
    )


def encode_metadata(layout: ArrayLayout, num_rows: int) -> bytes:
    """zarr.json of an array of `num_rows` rows."""
    held: dict[str, Any] = {}
    _create(held, layout, num_rows)
    return bytes(held[METADATA].to_bytes())


def encode_shard(layout: ArrayLayout, rows: npt.NDArray[Any]) -> bytes:
    """One shard holding `rows`, shape (n, ...), n <= shard_rows.

    A short shard stays small: zarr writes only the inner chunks that rows fall into.
    """
    assert 0 < len(rows) <= layout.shard_rows and rows.shape[1:] == layout.row_shape
    held: dict[str, Any] = {}
    _create(held, layout, len(rows))[...] = rows
    return bytes(held["/".join(["c", "0", *["0"] * len(layout.row_shape)])].to_bytes())


def encode_group(layouts: Iterable[tuple[ArrayLayout, int]] = ()) -> bytes:
    """zarr.json of the group that holds the arrays.

    Given arrays, their metadata are consolidated into it, so that zarr lists them without taking
    the files beside them for broken arrays.
    """
    import zarr

    held: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(held)
    zarr.create_group(store=store)
    arrays = list(layouts)
    for layout, num_rows in arrays:
        _create(held, layout, num_rows, path=layout.name)
    if arrays:
        with warnings.catch_warnings():
            # "not part of the Zarr v3 specification": a reader that ignores it loses nothing
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(store)
    return bytes(held[METADATA].to_bytes())


class ArrayReader:
    """Read rows of one array; damage is an error that names the file, never other values.

    Parameters
    ----------
    root
        Folder of the group.
    num_rows
        Length of the array; what the shards hold beyond it is not read.
    files : mapping of path in the group -> FileRecord
        Committed files: a shard that is not among them was never written and reads as the fill value.
    """

    def __init__(
        self, root: Path, layout: ArrayLayout, num_rows: int, files: Mapping[str, FileRecord]
    ) -> None:
        self.root = root
        self.layout = layout
        self.num_rows = num_rows
        self._files = files
        self._array: Any = None
        self._checked: set[int] = set()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop), crc-checked; rows beyond the array's length are the fill value.

        Raises
        ------
        StoreError
            If a shard that the rows fall into is missing or damaged; names the file.
        """
        out = self.layout.empty_rows(max(0, stop - start))
        step = self.layout.shard_rows
        for shard in range(start // step, -(-min(stop, self.num_rows) // step)):
            low, high = max(start, shard * step), min(stop, (shard + 1) * step, self.num_rows)
            path = self.layout.shard_path(shard)
            if path not in self._files or low >= high:
                continue
            if shard not in self._checked:
                self._check(path)
                self._checked.add(shard)
            try:
                out[low - start : high - start] = self._opened()[low:high]
            except StoreError:
                raise
            except Exception as error:  # a checksum is a ValueError, a torn index anything
                raise damaged(self.root / path, error) from error
        return out

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Rows in the order asked, repeats allowed: each run of neighbouring chunks is read once."""
        out = np.empty((len(rows), *self.layout.row_shape), self.layout.dtype)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        chunk, shard = ascending // self.layout.chunk_rows, ascending // self.layout.shard_rows
        breaks = np.flatnonzero((np.diff(chunk) > 1) | (np.diff(shard) > 0)) + 1
        for run in np.split(np.arange(len(rows)), breaks):
            if len(run):
                first, last = int(ascending[run[0]]), int(ascending[run[-1]])
                out[order[run]] = self.read(first, last + 1)[ascending[run] - first]
        return out

    def _opened(self) -> Any:
        if self._array is None:
            self._array = self._open()
        return self._array

    def _open(self) -> Any:
        import zarr

        path = self.root / self.layout.metadata_path
        try:
            store = zarr.storage.LocalStore(self.root / self.layout.name, read_only=True)
            array = zarr.open_array(store, mode="r")
        except Exception as error:  # JSON can be broken in as many ways as zarr raises errors
            raise damaged(path, error) from error
        expected = (self.layout.row_shape, self.layout.dtype, self.layout.shard_rows, self.layout.chunk_rows)
        found = (array.shape[1:], str(array.dtype), (array.shards or (0,))[0], array.chunks[0])
        if expected != found or array.shape[0] < self.num_rows:
            raise damaged(
                path, f"expected {self.num_rows} rows of {expected}, found {array.shape[0]} of {found}"
            )
        return array

    def _check(self, path: str) -> None:
        # zarr reads a missing shard as fill value, so that must be seen here
        try:
            nbytes = (self.root / path).stat().st_size
        except FileNotFoundError as error:
            raise damaged(self.root / path, "the file is missing") from error
        if nbytes != self._files[path].nbytes:
            raise damaged(self.root / path, f"expected {self._files[path].nbytes} bytes, found {nbytes}")


def damaged(path: Path, reason: object) -> StoreError:
    """The error that every reader raises for a damaged file."""
    return StoreError(
        f"{path}: damaged: {reason}; run `embedpipe verify` for a list, then remove or restore the file"
    )


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
