"""Copy rows straight out of uncompressed local shards: the index is parsed once, rows come from a memory map.

Every inner chunk is compared with its checksum when it is first touched in a process. That it was right is
remembered for the file as it then was: by device, inode, time of modification and size, so that two names of
one file are checked once, and a file that was replaced or written to is checked again. What changes a file
without changing those (a failing disk) is found by `verify`, or by the next process.

Knows the one layout that `arrays` writes; reads no other, and holds no lock while it copies.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

CRC_NBYTES = 4
_INDEX_ENTRY_NBYTES = 16
ABSENT = np.uint64(2**64 - 1)
_COPY_NBYTES = 1 << 18
"""Bytes gathered at a time: they are written twice, the second time out of the cache."""
_RACY_NS = 50_000_000
"""A file changed less than this ago may change again within one tick of its clock: not yet remembered."""
_MAX_MAPPED = 256
"""Mapped shards a process keeps: each holds a file descriptor, and 1,024 are common."""


class Identity(NamedTuple):
    """What a file is remembered by."""

    device: int
    inode: int
    mtime_ns: int
    nbytes: int


class ChunkLayout(NamedTuple):
    """Layout of a shard: `shard_rows` rows in inner chunks of `chunk_rows`, each followed by its crc32c."""

    shard_rows: int
    chunk_rows: int
    row_shape: tuple[int, ...]
    dtype: str

    @property
    def num_chunks(self) -> int:
        return self.shard_rows // self.chunk_rows

    @property
    def row_nbytes(self) -> int:
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    @property
    def chunk_nbytes(self) -> int:
        return self.chunk_rows * self.row_nbytes

    @property
    def index_nbytes(self) -> int:
        return self.num_chunks * _INDEX_ENTRY_NBYTES + CRC_NBYTES


class Damaged(ValueError):
    """The bytes of a shard are not what was written."""


class UnknownLayout(ValueError):
    """A sound shard whose inner chunks do not lie one behind the other: for zarr-python to read."""


class Shard:
    """One mapped shard.

    Attributes
    ----------
    address : int
        Where the file is mapped.
    num_chunks : int
        Inner chunks that were written; those behind them hold no rows.
    """

    def __init__(self, identity: Identity, layout: ChunkLayout, mapping: mmap.mmap) -> None:
        self.identity = identity
        self.layout = layout
        self._mapping = mapping
        self._bytes = np.frombuffer(mapping, np.uint8)
        self.address = int(self._bytes.ctypes.data)
        self.num_chunks = self._read_index()
        step = layout.chunk_nbytes + CRC_NBYTES
        row_strides = np.empty(layout.row_shape, layout.dtype).strides
        self._chunks: npt.NDArray[Any] = np.ndarray(
            (self.num_chunks, layout.chunk_rows, *layout.row_shape),
            layout.dtype,
            buffer=mapping,
            strides=(step, layout.row_nbytes, *row_strides),
        )
        self._known = _known_chunks(identity, self.num_chunks)
        self._all_known = bool(self._known.all())

    def copy_slice(self, start: int, stop: int, out: npt.NDArray[Any]) -> int:
        """Rows [start, stop) of the shard into `out`, C-contiguous; how many of them were ever written.

        Raises
        ------
        Damaged
            If an inner chunk that they lie in is not what was written.
        """
        size = self.layout.chunk_rows
        stop = min(stop, self.num_chunks * size)
        first, last = -(-start // size), stop // size
        if start >= stop:
            return 0
        self._check(np.arange(start // size, -(-stop // size)))
        if first > last:  # within one chunk
            out[: stop - start] = self._chunks[start // size, start % size : start % size + stop - start]
            return stop - start
        head, body = first * size - start, (last - first) * size
        if head:
            out[:head] = self._chunks[first - 1, size - head :]
        if body:
            whole = out[head : head + body].reshape(last - first, size, *self.layout.row_shape)
            np.copyto(whole, self._chunks[first:last])
        if head + body < stop - start:
            out[head + body : stop - start] = self._chunks[last, : stop % size]
        return stop - start

    @property
    def is_checked(self) -> bool:
        """Whether every inner chunk was compared."""
        return self._all_known

    def check_rows(self, rows: npt.NDArray[np.int64]) -> None:
        """Compare the inner chunks that these rows of the shard lie in, where they were not yet.

        Raises
        ------
        Damaged
            If one is not what was written.
        """
        if not self._all_known:
            chunks = rows // self.layout.chunk_rows
            self._check(chunks[chunks < self.num_chunks], drop=True)

    def rows_from_here(self, stop: int) -> npt.NDArray[Any]:
        """Every place from the start of the mapping to address `stop` at which a row could lie.

        Shape ((stop - address) / itemsize, *row_shape): indexing it copies rows of any shard that is mapped
        behind this one, in one pass. Only places of rows may be indexed.
        """
        size = np.dtype(self.layout.dtype).itemsize
        row_strides = np.empty(self.layout.row_shape, self.layout.dtype).strides
        shape = ((stop - self.address - self.layout.row_nbytes) // size + 1, *self.layout.row_shape)
        start = self._bytes[: self.layout.row_nbytes].view(self.layout.dtype)
        return np.lib.stride_tricks.as_strided(start, shape, (size, *row_strides), writeable=False)

    def release(self) -> None:
        """Give back the memory that touched pages take; they are read again when needed."""
        self._drop(0, len(self._mapping))

    def _drop(self, start: int, nbytes: int) -> None:
        with contextlib.suppress(
            AttributeError, OSError, ValueError
        ):  # a platform without madvise keeps them
            self._mapping.madvise(mmap.MADV_DONTNEED, start, nbytes)

    def _read_index(self) -> int:
        layout = self.layout
        index = self._bytes[len(self._bytes) - layout.index_nbytes : -CRC_NBYTES]
        if google_crc32c.value(index.tobytes()) != int.from_bytes(self._bytes[-CRC_NBYTES:], "little"):
            raise Damaged("the checksum of its index differs")
        entries = index.view("<u8").reshape(-1, 2) if not index.ctypes.data % 8 else _aligned(index)
        present = entries[:, 0] != ABSENT
        num_chunks = int(present.sum())
        step = layout.chunk_nbytes + CRC_NBYTES
        regular = np.arange(num_chunks, dtype=np.uint64) * np.uint64(step)
        if not (
            present[:num_chunks].all()
            and np.array_equal(entries[:num_chunks, 0], regular)
            and (entries[:num_chunks, 1] == step).all()
            and num_chunks * step + layout.index_nbytes <= len(self._bytes)
        ):
            raise UnknownLayout("inner chunks do not lie one behind the other")
        return num_chunks

    def _check(self, chunks: npt.NDArray[np.int64], *, drop: bool = False) -> None:
        """`drop`: few rows of a chunk are wanted, so that its pages are given back once it was compared."""
        if self._all_known:
            return
        for chunk in np.unique(chunks[~self._known[chunks]]).tolist():
            start = chunk * (self.layout.chunk_nbytes + CRC_NBYTES)
            stop = start + self.layout.chunk_nbytes
            expected = int.from_bytes(self._bytes[stop : stop + CRC_NBYTES], "little")
            if google_crc32c.value(self._bytes[start:stop]) != expected:
                raise Damaged(f"the checksum of inner chunk {chunk} differs")
            self._known[chunk] = True
            if drop:
                first = start // mmap.PAGESIZE * mmap.PAGESIZE
                self._drop(first, stop - first)
        self._all_known = bool(self._known.all())


def gather(
    shards: Sequence[Shard],
    which: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    fill: float,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Row ``rows[i]`` of shard ``shards[which[i]]`` for every i; `fill` where it was never written.

    Shards lie anywhere in memory, so each row is found by its distance from the one that lies first. Numpy then
    copies all of them in one pass, as it would from one array.

    Raises
    ------
    Damaged
        If an inner chunk is not what was written. Check the shards one by one first, to know which.
    """
    layout = shards[0].layout
    addresses = [shard.address for shard in shards]
    base = min(addresses)
    first = shards[addresses.index(base)]
    stop = max(shard.address + shard.identity.nbytes for shard in shards)
    size = np.dtype(layout.dtype).itemsize
    row_nbytes = layout.row_nbytes
    chunk = rows // layout.chunk_rows
    # row r of the shard lies behind r rows and the checksums of the inner chunks before its own
    places = rows * row_nbytes
    places += chunk * CRC_NBYTES
    places += (np.array(addresses, np.int64) - base)[which]
    places //= size
    lacking = None
    if any(shard.num_chunks < layout.num_chunks for shard in shards):
        lacking = chunk >= np.array([shard.num_chunks for shard in shards])[which]
        places[lacking] = 0
    source = first.rows_from_here(stop)
    if out is None:
        out = source[places]
    else:
        step = max(1, _COPY_NBYTES // row_nbytes)
        for i in range(0, len(places), step):
            out[i : i + step] = source[places[i : i + step]]
    if lacking is not None and lacking.any():
        out[lacking] = fill
    return out


def open_shard(path: Path | str, layout: ChunkLayout, nbytes: int) -> Shard:
    """The shard in a file, mapped; the one that is mapped already where the file is still the same.

    Parameters
    ----------
    nbytes
        Size of the file as recorded.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    Damaged
        If its size or index is not what was written.
    UnknownLayout
        If zarr-python must read it.
    """
    identity = identify(path)
    if identity.nbytes != nbytes:
        raise Damaged(f"expected {nbytes} bytes, found {identity.nbytes}")
    held = _mapped.get(identity)
    if held is not None and held.layout == layout:
        return held
    if nbytes < layout.index_nbytes:
        raise Damaged(f"expected an index of {layout.index_nbytes} bytes, found {nbytes} in all")
    with open(path, "rb") as file:
        opened = os.fstat(file.fileno())
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if _identity(opened) != identity or len(mapping) != nbytes:
        raise Damaged("the file changes while it is read")
    shard = Shard(identity, layout, mapping)
    if not _is_racy(identity):
        _mapped.keep(shard)
    return shard


def release(identities: Iterable[Identity]) -> None:
    """Give back the memory that the pages of these files take; they are read again when needed."""
    for identity in identities:
        shard = _mapped.get(identity)
        if shard is not None:
            shard.release()


def forget() -> None:
    """Close what is mapped and check every inner chunk again when it is next touched."""
    _mapped.clear()
    _known.clear()


def close(path: Path | str) -> None:
    """Of a file that is about to be replaced or removed: a mapping would keep its space on disk taken."""
    with contextlib.suppress(OSError):
        identity = identify(path)
        _mapped.drop(identity)
        _known.pop(identity, None)


def identify(path: Path | str) -> Identity:
    """What the file is now."""
    return _identity(os.stat(path))


def is_supported() -> bool:
    """Shards are little-endian; so must the machine be."""
    return sys.byteorder == "little"


class _Mapped:
    """The shards that this process has mapped, the longest unused first."""

    def __init__(self) -> None:
        self._shards: OrderedDict[Identity, Shard] = OrderedDict()
        self.reset_lock()

    def reset_lock(self) -> None:
        """A forked child starts with a lock that no thread of its parent holds."""
        self._lock = threading.Lock()

    def get(self, identity: Identity) -> Shard | None:
        shard = self._shards.get(identity)
        if shard is not None and len(self._shards) > _MAX_MAPPED // 2:  # else nothing is closed soon
            with self._lock:
                if identity in self._shards:
                    self._shards.move_to_end(identity)
        return shard

    def keep(self, shard: Shard) -> None:
        # a mapping is closed when the last reader that copies from it is done
        with self._lock:
            self._shards[shard.identity] = shard
            while len(self._shards) > _MAX_MAPPED:
                self._shards.popitem(last=False)

    def drop(self, identity: Identity) -> None:
        with self._lock:
            self._shards.pop(identity, None)

    def clear(self) -> None:
        with self._lock:
            self._shards.clear()


_mapped = _Mapped()
_known: dict[Identity, npt.NDArray[np.bool_]] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mapped.reset_lock)


def _known_chunks(identity: Identity, num_chunks: int) -> npt.NDArray[np.bool_]:
    """Which inner chunks of a file were found right; shared by all who read it in this process."""
    fresh = np.zeros(num_chunks, bool)
    return fresh if _is_racy(identity) else _known.setdefault(identity, fresh)


def _is_racy(identity: Identity) -> bool:
    return abs(time.time_ns() - identity.mtime_ns) < _RACY_NS


def _identity(stat: os.stat_result) -> Identity:
    return tuple.__new__(Identity, (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size))


def _aligned(index: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(index.tobytes(), "<u8").reshape(-1, 2)
