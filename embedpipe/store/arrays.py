"""How an array lies on disk, and reading its rows: by `shards` where it can, else by zarr-python.

zarr is imported inside the functions: importing it takes most of a second, and reading needs it only for what
`shards` does not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ShapeError, StoreError
from embedpipe.remote import RemoteFolder
from embedpipe.store import metadata, shards
from embedpipe.store.disk import FileRecord
from embedpipe.store.layout import KEYS, PART, TABLE_CHUNK_ROWS, TABLE_SHARD_ROWS, TapState

METADATA = "zarr.json"
_NAN = float("nan")  # one object, so that layouts are equal
_MAX_TOGETHER = 128  # shards of one gather: each holds a file descriptor while it is mapped
FAULT_NBYTES = 2 << 20  # what Linux may map around a page that is touched: one entry of its middle page table


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

    @property
    def chunk_layout(self) -> shards.ChunkLayout:
        """What the shards look like inside."""
        return shards.ChunkLayout(self.shard_rows, self.chunk_rows, self.row_shape, self.dtype)

    @property
    def row_nbytes(self) -> int:
        return self.chunk_layout.row_nbytes

    def empty_rows(self, num_rows: int) -> npt.NDArray[Any]:
        """Rows of nothing but the fill value."""
        return np.full((num_rows, *self.row_shape), self.fill_value, self.dtype)


KEYS_LAYOUT = ArrayLayout(KEYS, (16,), "uint8", TABLE_SHARD_ROWS, TABLE_CHUNK_ROWS, 0)
PART_LAYOUT = ArrayLayout(PART, (), "int32", TABLE_SHARD_ROWS, TABLE_CHUNK_ROWS, 0)


def layout_of(tap: TapState) -> ArrayLayout:
    """A feature array. It fills with NaN, since a missing shard must not read as zeros."""
    attributes = (("node", tap.spec.node), ("reduction", tap.spec.reduction))
    return ArrayLayout(
        tap.name, tap.row_shape, tap.spec.dtype, tap.shard_rows, tap.chunk_rows, _NAN, attributes
    )


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
        self._touched: dict[shards.Identity, int] = {}
        self._paths = cache(layout.shard_path)
        self._prefix = f"{root}/"  # a path's text takes as long as looking at the file
        self._chunk_layout = layout.chunk_layout
        self._is_raw: bool | None = None
        self._nbytes: int | None = None

    @property
    def is_raw(self) -> bool:
        """Whether the shards are read without zarr."""
        # no cached_property: until Python 3.12 it holds a lock, which a process forked meanwhile waits for
        if self._is_raw is None:
            local = isinstance(self.root, Path) and shards.is_supported()
            self._is_raw = local and self._has_raw_shards(Path(str(self.root)))
        return self._is_raw

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
        if not len(rows):
            return self._buffer(0, out)
        if out is not None:
            out = self._buffer(len(rows), out)
        if self.is_raw:
            found = self._gather_raw(rows, out)
            if found is not None:
                return found
        out = self._buffer(len(rows), out)
        shard_of = rows // self.layout.shard_rows
        for shard in np.unique(shard_of).tolist():
            places = np.flatnonzero((shard_of == shard) & (rows < self.num_rows))
            if self._paths(shard) in self._files:
                self._gather_zarr(rows[places], out, places)
            else:
                out[places] = self.layout.fill_value
        out[rows >= self.num_rows] = self.layout.fill_value
        return out

    def release(self) -> None:
        """Give back the memory of mapped pages, so that reading on takes no more than a few shards."""
        shards.release(self._touched)
        self._touched = {}

    def mapped_nbytes(self, num_more: int = 0) -> int:
        """Bytes of pages that reading has mapped since the last `release`, at most.

        Parameters
        ----------
        num_more
            Rows anywhere that are about to be read too.
        """
        if self._nbytes is None:
            shards_of = f"{self.layout.name}/c/"
            self._nbytes = sum(
                file.nbytes for path, file in self._files.items() if path.startswith(shards_of)
            )
        return min(sum(self._touched.copy().values()) + num_more * FAULT_NBYTES, self._nbytes)

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

    def _gather_raw(
        self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any] | None
    ) -> npt.NDArray[Any] | None:
        """Rows out of mapped shards; None where zarr must read one of them."""
        shard_of, local = np.divmod(rows, self.layout.shard_rows)
        wanted = np.flatnonzero(np.bincount(shard_of)).tolist()
        exist = [shard for shard in wanted if self._paths(shard) in self._files]
        if len(exist) < len(wanted) or len(exist) > _MAX_TOGETHER or int(rows.max()) >= self.num_rows:
            return self._gather_parts(rows, shard_of, exist, self._buffer(len(rows), out))
        mapped = []
        place = np.zeros(wanted[-1] + 1, np.int64)
        for i, shard in enumerate(wanted):
            path = self._paths(shard)
            try:
                found = self._shard(path, FAULT_NBYTES * len(rows) // len(wanted))
                if found is None:
                    return None
                if not found.is_checked:
                    found.check_rows(local[shard_of == shard])
            except StoreError:
                raise
            except Exception as error:
                raise self._damaged(path, error) from error
            mapped.append(found)
            place[shard] = i
        return shards.gather(mapped, place[shard_of], local, self.layout.fill_value, out)

    def _gather_parts(
        self,
        rows: npt.NDArray[np.int64],
        shard_of: npt.NDArray[np.int64],
        exist: list[int],
        out: npt.NDArray[Any],
    ) -> npt.NDArray[Any] | None:
        """The same a few shards at a time; the fill value where there is none."""
        out[...] = self.layout.fill_value
        for i in range(0, len(exist), _MAX_TOGETHER):
            here = np.flatnonzero(np.isin(shard_of, exist[i : i + _MAX_TOGETHER]) & (rows < self.num_rows))
            if len(here):
                found = self._gather_raw(rows[here], None)
                if found is None:
                    return None
                out[here] = found
        return out

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
        if not (self._is_raw or self.is_raw):
            return None
        try:
            shard = shards.open_shard(self._prefix + path, self._chunk_layout, self._files[path].nbytes)
        except shards.UnknownLayout:
            return None
        touched = self._touched.get(shard.identity, 0) + nbytes
        self._touched[shard.identity] = min(touched, shard.identity.nbytes)
        return shard

    def _has_raw_shards(self, root: Path) -> bool:
        path = root / self.layout.metadata_path
        try:
            found = json.loads(path.read_bytes())
            described = metadata.describe(found)
        except Exception as error:  # JSON can be wrong in as many ways as there are errors
            raise damaged(path, error) from error
        self._check_layout(path, found["shape"][0], described)
        return (
            found["codecs"] == metadata.raw_codecs(self._chunk_layout) and self._chunk_layout.row_nbytes > 0
        )

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
            array = zarr.open_array(metadata.zarr_store(self.root / self.layout.name), mode="r")
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


class ArrayTable:
    """An array that is read in pieces one after the other; what it has mapped is given back on the way.

    Parameters
    ----------
    mapped_nbytes
        Bytes of pages that may stay mapped.
    """

    def __init__(self, reader: ArrayReader, mapped_nbytes: int = 64 << 20) -> None:
        self.shape = (reader.num_rows, *reader.layout.row_shape)
        self.dtype = np.dtype(reader.layout.dtype)
        self._reader, self._mapped_nbytes = reader, mapped_nbytes

    def __getitem__(self, some: slice, /) -> npt.NDArray[Any]:
        start, stop, _ = some.indices(self.shape[0])
        found = self._reader.read(start, stop)
        if self._reader.mapped_nbytes() > self._mapped_nbytes or stop == self.shape[0]:
            self._reader.release()
        return found


def damaged(path: Path | RemoteFolder, reason: object) -> StoreError:
    """The error that every reader raises for a damaged file."""
    return StoreError(
        f"{path}: damaged: {reason}; run `embedpipe verify` for a list, then remove or restore the file"
    )
