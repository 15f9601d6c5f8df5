"""The journal of one block: features as they are computed, on disk every few seconds before the block is whole.

What was not yet written is held in memory: a block that is whole before the first few seconds are over is never
written twice. A record is a length, a JSON header, raw bytes and a checksum. The first record says which block of
which plan the journal belongs to and holds the keys of its rows with their part numbers. A torn tail, left by a
kill, is cut off.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embedpipe.spec import canonical_json
from embedpipe.store.disk import sync_folder, telling_full, write_all
from embedpipe.store.join import ROW_KEY_NBYTES
from embedpipe.store.plan import Block, Segment

FORMAT = 2
HELD_NBYTES = 256 << 20
"""Bytes of features held in memory at most: a block of one tap is a shard of 64 MB."""
SUFFIX = ".journal"
_PREFIX = struct.Struct("<4sIQ")  # magic, bytes of header, bytes of payload
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"EPJ1"


@dataclass(frozen=True)
class Binding:
    """What a journal belongs to: equal bindings mean that its records are the block's own.

    Attributes
    ----------
    plan : str
        Digest of the block's keys, segments, taps and batch.
    start, stop : int
        Rows of the block.
    batch : int
        Samples a forward pass: features are bit-equal only for one batch grid.
    taps : dict of tap name -> [dtype, *row_shape]
    """

    plan: str
    start: int
    stop: int
    batch: int
    taps: dict[str, list[Any]]

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Spooled:
    """One micro-batch of a journal.

    Attributes
    ----------
    rows : int64 array, shape (n,)
    holes : dict of row -> reason
        Rows that were tried and failed; not in `rows`.
    places : dict of tap name -> int or array [n, ...]
        Where the tap's values lie in the file; or, until they are written there, the values.
    """

    rows: npt.NDArray[np.int64]
    holes: dict[int, str]
    places: Mapping[str, int | npt.NDArray[Any]]


class Journal:
    """Hold micro-batches and append them to a file, fsynced, every few seconds; read them back.

    Parameters
    ----------
    sync_every_s
        Seconds of work that a kill may cost at most.
    clock
        Monotonic seconds.

    Attributes
    ----------
    records : list of Spooled
    """

    def __init__(
        self,
        path: Path,
        binding: Binding,
        keys: npt.NDArray[np.uint8],
        *,
        sync_every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.binding = binding
        self.records: list[Spooled] = []
        self._keys = keys
        self._sync_every_s = sync_every_s
        self._clock = clock
        self._synced_at = clock()
        self._num_written = 0  # of the records
        self._held_nbytes = 0
        self._end = 0
        self._fd = -1

    @classmethod
    def resume(cls, path: Path, binding: Binding, **options: Any) -> Self | None:
        """Open the journal at `path` if it belongs to `binding`; its torn tail is cut off."""
        found = read_journal(path)
        if found is None or found.binding != binding:
            return None
        journal = cls(path, binding, found.keys, **options)
        journal.records, journal._end = found.records, found.end
        journal._num_written = len(found.records)
        journal._fd = os.open(path, os.O_RDWR)
        os.ftruncate(journal._fd, found.end)
        os.lseek(journal._fd, found.end, os.SEEK_SET)
        return journal

    def append(
        self, rows: npt.NDArray[np.int64], values: dict[str, npt.NDArray[Any]], holes: dict[int, str]
    ) -> None:
        """Take one micro-batch: `values` are [n, ...] in storage dtype, C-contiguous, and not changed after."""
        nbytes = sum(value.nbytes for value in values.values())
        self.records.append(Spooled(rows, holes, values))
        self._held_nbytes += nbytes
        if self._clock() - self._synced_at < self._sync_every_s and self._held_nbytes < HELD_NBYTES:
            return
        try:
            self.sync()
        except OSError:
            if self._num_written < len(self.records):  # not this one: it may be appended again
                self.records.pop()
                self._held_nbytes -= nbytes
            raise

    def sync(self) -> None:
        """What was appended survives a kill of the machine after this."""
        if self._num_written < len(self.records):
            is_new = self._fd < 0
            if is_new:
                self._create()
            for i in range(self._num_written, len(self.records)):
                self.records[i] = self._written(self.records[i])
                self._num_written = i + 1
            self._held_nbytes = 0
            with telling_full(self.path):
                os.fsync(self._fd)
            if is_new:
                sync_folder(self.path.parent)
        self._synced_at = self._clock()

    @property
    def is_on_disk(self) -> bool:
        """Whether anything was written yet."""
        return self._fd >= 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def values(self, name: str) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
        """(rows, values [n, ...]) of one tap, record by record."""
        return _values(self.path, self.records, name, self.binding.taps[name])

    def _create(self) -> None:
        """Start the file, replacing what is there."""
        with telling_full(self.path):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._fd, self._end = fd, 0
        try:
            self._write(self.binding.to_dict(), [np.ascontiguousarray(self._keys)])
        except BaseException:
            self.close()
            raise

    def _written(self, record: Spooled) -> Spooled:
        """Append a held record; gives it with the places of its values in the file."""
        values = {name: value for name, value in record.places.items() if not isinstance(value, int)}
        header = {
            "rows": record.rows.tolist(),
            "holes": {str(row): reason for row, reason in record.holes.items()},
            "taps": [[name, value.nbytes] for name, value in values.items()],
        }
        start = self._write(header, list(values.values()))
        places = {}
        for name, value in values.items():
            places[name] = start
            start += value.nbytes
        return Spooled(record.rows, record.holes, places)

    def _write(self, header: dict[str, Any], payload: list[npt.NDArray[Any]]) -> int:
        """Append one record; returns where its payload starts. A failed write leaves no torn record."""
        head = canonical_json(header).encode()
        views = [memoryview(array.reshape(-1).view(np.uint8).data) for array in payload if array.size]
        nbytes = sum(view.nbytes for view in views)
        prefix = _PREFIX.pack(_MAGIC, len(head), nbytes)
        checksum = zlib.crc32(head, zlib.crc32(prefix))
        for view in views:
            checksum = zlib.crc32(view, checksum)
        total = len(prefix) + len(head) + nbytes + _CHECKSUM.size
        try:
            with telling_full(self.path, total):
                for part in (memoryview(prefix + head), *views, memoryview(_CHECKSUM.pack(checksum))):
                    write_all(self._fd, part)
        except OSError:
            os.ftruncate(self._fd, self._end)
            os.lseek(self._fd, self._end, os.SEEK_SET)
            raise
        payload_start = self._end + len(prefix) + len(head)
        self._end += total
        return payload_start


@dataclass(frozen=True)
class FoundJournal:
    """A journal as it lies on disk: whole records only.

    Attributes
    ----------
    keys : uint8 array, shape (stop - start, 20)
        Of the block's rows, with part numbers, as `join.row_keys` gives them.
    end : int
        Bytes of whole records.
    """

    path: Path
    binding: Binding
    keys: npt.NDArray[np.uint8]
    records: list[Spooled]
    end: int

    def read(self, record: Spooled, name: str) -> npt.NDArray[Any]:
        """Values of one tap in one record, shape (n, ...)."""
        return next(_values(self.path, [record], name, self.binding.taps[name]))[1]


def reuse(
    path: Path, journal: Journal, block: Block, keys: npt.NDArray[np.uint8], *, any_order: bool = False
) -> int:
    """Take over from another plan's journal the leading whole batches of each segment, by key.

    So samples or taps that were added, or taken away, after a kill do not cost what was computed before it. A
    batch counts only where it stands on the new plan's batch grid and has all taps of the segment.

    Parameters
    ----------
    any_order
        Rows do not depend on which stood in their batch: each counts, wherever it stands.

    Returns
    -------
    int
        Rows taken over.
    """
    found = read_journal(path)
    batch, taps = journal.binding.batch, journal.binding.taps
    if found is None or found.binding.batch != batch:
        return 0
    row_of_key = {key.tobytes(): row for row, key in enumerate(keys, start=block.start)}  # parts included
    new_rows = np.array([row_of_key.get(key.tobytes(), -1) for key in found.keys], np.int64)
    taken = {row for record in journal.records for row in [*record.rows.tolist(), *record.holes]}
    num_reused = 0
    for segment in block.segments:
        if any(found.binding.taps.get(name) != taps[name] for name in segment.taps):
            continue
        if any_order:
            missing = segment.rows[~np.isin(segment.rows, list(taken))]
            num_reused += _reuse_rows(found, journal, segment, missing, new_rows)
            continue
        done = sum(row in taken for row in segment.rows.tolist())
        for record in found.records:
            expected = segment.rows[done : done + batch]
            rows = new_rows[record.rows - found.binding.start]
            holes = {int(new_rows[r - found.binding.start]): reason for r, reason in record.holes.items()}
            if not np.array_equal(np.sort([*rows.tolist(), *holes]), expected) or not len(expected):
                continue
            if len(rows) and not all(name in record.places for name in segment.taps):
                continue
            values = {name: found.read(record, name) for name in segment.taps if len(rows)}
            journal.append(rows, values, holes)
            done += len(expected)
            num_reused += len(expected)
    return num_reused


def _reuse_rows(
    found: FoundJournal,
    journal: Journal,
    segment: Segment,
    missing: npt.NDArray[np.int64],
    new_rows: npt.NDArray[np.int64],
) -> int:
    """Take over every missing row of a segment that has all its taps."""
    num_reused = 0
    for record in found.records:
        rows = new_rows[record.rows - found.binding.start]
        chosen = np.flatnonzero(np.isin(rows, missing))
        chosen = chosen[np.argsort(rows[chosen])]
        if not all(name in record.places for name in segment.taps):
            chosen = chosen[:0]
        holes = {int(new_rows[row - found.binding.start]): reason for row, reason in record.holes.items()}
        holes = {row: reason for row, reason in holes.items() if row in missing}
        if not len(chosen) and not holes:
            continue
        values = {name: found.read(record, name)[chosen] for name in segment.taps if len(chosen)}
        journal.append(rows[chosen], values, holes)
        num_reused += len(chosen) + len(holes)
        missing = missing[~np.isin(missing, [*rows[chosen].tolist(), *holes])]
    return num_reused


def read_journal(path: Path) -> FoundJournal | None:
    """Read a journal up to its first torn record; None if not even its head is whole."""
    try:
        data = np.memmap(path, np.uint8, mode="r")
    except (FileNotFoundError, ValueError):  # absent, or empty
        return None
    records: list[Spooled] = []
    end, head = _record(data, 0)
    if head is None or head[0].pop("format", None) != FORMAT:
        return None
    binding, start = head
    try:
        bound = Binding(**binding)
    except TypeError:
        return None
    num_rows = bound.stop - bound.start
    if end - _CHECKSUM.size - start != num_rows * ROW_KEY_NBYTES:
        return None
    keys = np.array(data[start : end - _CHECKSUM.size]).reshape(num_rows, ROW_KEY_NBYTES)
    while True:
        next_end, found = _record(data, end)
        if found is None:
            return FoundJournal(path, bound, keys, records, end)
        header, offset = found
        places = {}
        for name, nbytes in header["taps"]:
            places[name] = offset
            offset += nbytes
        rows = np.array(header["rows"], np.int64)
        records.append(Spooled(rows, {int(row): why for row, why in header["holes"].items()}, places))
        end = next_end


def _record(data: npt.NDArray[np.uint8], start: int) -> tuple[int, tuple[dict[str, Any], int] | None]:
    """(end, (header, payload offset)) of the record at `start`; (start, None) if it is not whole."""
    head_start = start + _PREFIX.size
    if head_start > len(data):
        return start, None
    magic, head_nbytes, payload_nbytes = _PREFIX.unpack(data[start:head_start].tobytes())
    payload_start = head_start + head_nbytes
    end = payload_start + payload_nbytes + _CHECKSUM.size
    if magic != _MAGIC or end > len(data):
        return start, None
    (expected,) = _CHECKSUM.unpack(data[end - _CHECKSUM.size : end].tobytes())
    if zlib.crc32(data[start : end - _CHECKSUM.size].data) != expected:
        return start, None
    return end, (json.loads(data[head_start:payload_start].tobytes()), payload_start)


def _values(
    path: Path, records: list[Spooled], name: str, layout: list[Any]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    dtype, row_shape = np.dtype(layout[0]), tuple(layout[1:])
    row_nbytes = int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize
    data = None
    for record in records:
        place = record.places.get(name)
        if place is None or not len(record.rows):
            continue
        if isinstance(place, np.ndarray):
            yield record.rows, place
            continue
        data = np.memmap(path, np.uint8, mode="r") if data is None else data
        raw = data[place : place + len(record.rows) * row_nbytes]
        yield record.rows, np.frombuffer(raw, dtype).reshape(len(record.rows), *row_shape)
