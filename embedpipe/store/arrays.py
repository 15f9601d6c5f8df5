"""The only module that touches zarr-python: encode metadata and shards, read slices.

Every byte of an array is made by zarr-python, in memory, and written by `disk`: so it is hashed once,
fsynced, and leaves no temporaries of zarr's. Codecs: sharding, with bytes + crc32c on the inner chunks and
on the index. zarr is imported inside the functions: importing it takes most of a second, and reading a
ledger does not need it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ShapeError, StoreError
from embedpipe.store import shards
from embedpipe.store.disk import FileRecord
from embedpipe.store.layout import KEYS, PART, TABLE_CHUNK_ROWS, TABLE_SHARD_ROWS, TapState
from embedpipe.store.remote import RemoteFolder

METADATA = "zarr.json"
_FAULT_NBYTES = 1 << 16  # the kernel maps up to 16 pages around one that is touched


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

    Local uncompressed shards are read by `shards`, without zarr; all others, and remote ones, by zarr-python.

    Parameters
    ----------
    root : Path or RemoteFolder
        Folder of the group.
    num_rows
        Length of the array; what the shards hold beyond it is not read.
    files : mapping of path in the group -> FileRecord
        Committed files: a shard that is not among them was never written and reads as the fill value.
    """

    def __init__(
        self, root: Path | RemoteFolder, layout: ArrayLayout, num_rows: int, files: Mapping[str, FileRecord]
    ) -> None:
        self.root = root
        self.layout = layout
        self.num_rows = num_rows
        self._files = files
        self._array: Any = None
        self._sound: set[str] = set()
        self._touched: set[shards.Identity] = set()
        self._touched_nbytes = 0
        self._paths = cache(layout.shard_path)

    @cached_property
    def is_raw(self) -> bool:
        """Whether the shards are read without zarr."""
        return isinstance(self.root, Path) and shards.is_supported() and self._has_raw_shards(self.root)

    def read(self, start: int, stop: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Rows [start, stop), crc-checked; rows beyond the array's length are the fill value.

        Parameters
        ----------
        out : array, shape (stop - start, *row_shape), in stored dtype, optional
            Filled and returned. Where blocks are read one after the other, a buffer of 4,096 rows that is
            used again is several times as fast as fresh memory.

        Raises
        ------
        StoreError
            If a shard that the rows fall into is missing or damaged; names the file.
        """
        out = self._buffer(max(0, stop - start), out)
        step, position = self.layout.shard_rows, start
        while position < stop:
            shard = position // step
            high = min(stop, (shard + 1) * step)
            here = out[position - start : high - start]
            known = min(high, self.num_rows)
            path = self._paths(shard)
            if position >= known or path not in self._files:
                here[...] = self.layout.fill_value
            else:
                num = self._read_shard(shard, path, position, known, here)
                here[num:] = self.layout.fill_value
            position = high
        return out

    def gather(self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Rows in the order asked, repeats allowed.

        Parameters
        ----------
        out : array, shape (n, *row_shape), in stored dtype, optional
            Filled and returned.
        """
        out = self._buffer(len(rows), out)
        if not len(rows):
            return out
        shard_of = rows // self.layout.shard_rows
        order = np.argsort(shard_of, kind="stable")
        ordered = shard_of[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        for low, high in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            path, places = self._paths(int(ordered[low])), order[low:high]
            if path not in self._files:
                out[places] = self.layout.fill_value
                continue
            wanted = rows[places]
            if int(wanted.max()) >= self.num_rows:
                known = wanted < self.num_rows
                out[places[~known]] = self.layout.fill_value
                places, wanted = places[known], wanted[known]
            try:
                self._gather(path, wanted, out, places)
            except StoreError:
                raise
            except Exception as error:
                raise self._damaged(path, error) from error
        return out

    def release(self) -> None:
        """Give back the memory of mapped pages, so that reading on takes no more than a few shards."""
        shards.release(self._touched)
        self._touched, self._touched_nbytes = set(), 0

    @property
    def touched_nbytes(self) -> int:
        """Bytes of pages that reading has mapped since the last `release`, at most."""
        return self._touched_nbytes

    def _buffer(self, num_rows: int, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        shape = (num_rows, *self.layout.row_shape)
        if out is None:
            return np.empty(shape, self.layout.dtype)
        if out.shape != shape or out.dtype != np.dtype(self.layout.dtype) or not out.flags.c_contiguous:
            raise ShapeError(
                f"{self.layout.name}: out: expected a contiguous {self.layout.dtype} array of shape {shape}, "
                f"found {out.dtype} of shape {out.shape}"
            )
        return out

    def _read_shard(self, shard: int, path: str, start: int, stop: int, out: npt.NDArray[Any]) -> int:
        """Rows [start, stop) of the array, all of one shard; how many of them were written."""
        try:
            mapped = self._shard(path, (stop - start) * self._chunk_layout.row_nbytes)
            if mapped is not None:
                low = shard * self.layout.shard_rows
                return mapped.copy_slice(start - low, stop - low, out)
            self._check_size(path)
            out[: stop - start] = self._opened()[start:stop]
            return stop - start
        except StoreError:
            raise
        except Exception as error:  # a checksum is a ValueError, a torn index anything
            raise self._damaged(path, error) from error

    def _gather(
        self, path: str, rows: npt.NDArray[np.int64], out: npt.NDArray[Any], places: npt.NDArray[np.int64]
    ) -> None:
        """``out[places] = rows`` of one shard."""
        mapped = self._shard(path, len(rows) * max(_FAULT_NBYTES, self._chunk_layout.row_nbytes))
        if mapped is not None:
            mapped.copy_rows(rows % self.layout.shard_rows, out, places, self.layout.fill_value)
        else:
            self._gather_zarr(rows, out, places)

    def _gather_zarr(
        self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any], places: npt.NDArray[np.int64]
    ) -> None:
        """Each run of neighbouring inner chunks is read once."""
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        breaks = np.flatnonzero(np.diff(ascending // self.layout.chunk_rows) > 1) + 1
        for run in np.split(np.arange(len(rows)), breaks):
            first, last = int(ascending[run[0]]), int(ascending[run[-1]])
            out[places[order[run]]] = self.read(first, last + 1)[ascending[run] - first]

    def _shard(self, path: str, nbytes: int) -> shards.Shard | None:
        """The mapped shard, of which `nbytes` will be touched; None where zarr must read it."""
        if not self.is_raw:
            return None
        try:
            shard = shards.open_shard(f"{self.root}/{path}", self._chunk_layout, self._files[path].nbytes)
        except shards.UnknownLayout:
            return None
        self._touched.add(shard.identity)
        self._touched_nbytes += min(nbytes, shard.identity.nbytes)
        return shard

    @cached_property
    def _chunk_layout(self) -> shards.ChunkLayout:
        layout = self.layout
        return shards.ChunkLayout(layout.shard_rows, layout.chunk_rows, layout.row_shape, layout.dtype)

    def _has_raw_shards(self, root: Path) -> bool:
        path = root / self.layout.metadata_path
        try:
            found = json.loads(path.read_bytes())
            described = describe(found)
        except Exception as error:  # JSON can be wrong in as many ways as there are errors
            raise damaged(path, error) from error
        self._check_layout(path, found["shape"][0], described)
        return found["codecs"] == _raw_codecs(self.layout) and self._chunk_layout.row_nbytes > 0

    def _check_layout(self, path: Path | RemoteFolder, num_rows: int, found: tuple[Any, ...]) -> None:
        layout = self.layout
        expected = (layout.row_shape, layout.dtype, layout.shard_rows, layout.chunk_rows)
        if found != expected or num_rows < self.num_rows:
            raise damaged(path, f"expected {self.num_rows} rows of {expected}, found {num_rows} of {found}")

    def _opened(self) -> Any:
        if self._array is None:
            self._array = self._open()
        return self._array

    def _open(self) -> Any:
        import zarr

        path = self.root / self.layout.metadata_path
        try:
            array = zarr.open_array(zarr_store(self.root / self.layout.name), mode="r")
        except Exception as error:  # JSON can be broken in as many ways as zarr raises errors
            raise damaged(path, error) from error
        found = (array.shape[1:], str(array.dtype), (array.shards or (0,))[0], array.chunks[0])
        self._check_layout(path, array.shape[0], found)
        return array

    def _check_size(self, path: str) -> None:
        # zarr reads a missing shard as fill value, so that must be seen here
        if path in self._sound:
            return
        target = self.root / path
        nbytes = target.nbytes() if isinstance(target, RemoteFolder) else target.stat().st_size
        if nbytes != self._files[path].nbytes:
            raise shards.Damaged(f"expected {self._files[path].nbytes} bytes, found {nbytes}")
        if not isinstance(self.root, Path):  # a local file may be removed at any time
            self._sound.add(path)

    def _damaged(self, path: str, error: Exception) -> StoreError:
        gone = isinstance(error, FileNotFoundError)
        return damaged(self.root / path, "the file is missing" if gone else error)


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


def _raw_codecs(layout: ArrayLayout) -> list[dict[str, Any]]:
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


def damaged(path: Path | RemoteFolder, reason: object) -> StoreError:
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
