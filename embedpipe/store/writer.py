"""Fill one block: spool micro-batches to the journal, then assemble shards from it and commit.

Knows nothing of what computed the features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ShapeError, StoreError
from embedpipe.spec import canonical_json
from embedpipe.store.assemble import write_keys, write_tap
from embedpipe.store.commit import JOURNAL, Transaction
from embedpipe.store.gates import remarks, to_storage
from embedpipe.store.holes import Holes
from embedpipe.store.journal import SUFFIX, Binding, Journal, reuse
from embedpipe.store.ledger import Entry, LedgerState
from embedpipe.store.plan import Block, GrowthPlan, Segment

IntArray = npt.NDArray[np.int64]


class WritableGroup(Protocol):
    """What a writer needs of its group."""

    path: Path

    @property
    def state(self) -> LedgerState: ...

    def block_keys(self, plan: GrowthPlan, block: Block) -> npt.NDArray[np.uint8]: ...

    def check_writable(self) -> None: ...

    def committed(self, entry: Entry) -> None: ...

    def interrupted(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Committed:
    """What a commit did.

    Attributes
    ----------
    num_rows : int
        Rows of the group after it.
    num_features : int
        (row, tap) pairs that got features.
    num_failed : int
        Rows of the block that were tried and failed.
    nbytes : int
        Bytes of the files written.
    remarks : tuple of str
        Sentences on constant columns and norm drift.
    """

    num_rows: int
    num_features: int
    num_failed: int
    nbytes: int
    remarks: tuple[str, ...]


class BlockWriter:
    """Context manager that fills one block of a plan. Made by `Group.writer`.

    Leaving it without `commit` keeps what was appended in the journal: the same plan resumes there.

    Attributes
    ----------
    num_reused : int
        Rows taken over from the journal of another plan, of samples and taps that it shares with this one.
    """

    def __init__(
        self,
        group: WritableGroup,
        plan: GrowthPlan,
        block: Block,
        *,
        batch: int,
        any_order: bool = False,
        sync_every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.block = block
        self.num_reused = 0
        self._group = group
        self._plan = plan
        self._batch, self._any_order = batch, any_order
        self._options: dict[str, Any] = {"sync_every_s": sync_every_s, "clock": clock}
        self._taps = {tap.name: tap for tap in plan.taps}
        self._segment_of = np.full(block.stop - block.start, -1, np.int64)
        for i, segment in enumerate(block.segments):
            self._segment_of[segment.rows - block.start] = i
        self._is_spooled = np.zeros(block.stop - block.start, bool)
        self._journal: Journal | None = None

    def __enter__(self) -> Self:
        self._group.check_writable()
        state = self._group.state
        if max(self.block.start, self._plan.num_rows_before) > state.num_rows:
            raise StoreError(
                f"{self._group.path}: the plan starts from {self._plan.num_rows_before} rows and block "
                f"{self.block.index} from row {self.block.start}, found {state.num_rows} rows; plan again, "
                "and commit blocks in order"
            )
        self._journal = self._open_journal()
        for record in self._journal.records:
            self._mark(record.rows, record.holes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._journal is not None:
            try:
                if error is None or isinstance(error, (Exception, KeyboardInterrupt)):
                    self._journal.sync()
            finally:
                self._journal.close()
                self._journal = None

    def done(self, segment_index: int) -> int:
        """How many leading rows of a segment are spooled already, failed ones counted."""
        segment = self.block.segments[segment_index]
        spooled = self._is_spooled[segment.rows - self.block.start]
        return len(spooled) if spooled.all() else int(np.argmin(spooled))

    def missing(self, segment_index: int) -> IntArray:
        """Rows of a segment that are not spooled, ascending."""
        segment = self.block.segments[segment_index]
        return segment.rows[~self._is_spooled[segment.rows - self.block.start]]

    def append(
        self,
        rows: npt.ArrayLike,
        values: dict[str, npt.NDArray[Any]],
        holes: dict[int, str] | None = None,
        *,
        names: Sequence[str] | None = None,
        handed_over: bool = False,
    ) -> None:
        """Spool one micro-batch of one segment.

        Parameters
        ----------
        rows : int64 array, shape (n,)
            Rows that have values, ascending.
        values : dict of tap name -> float array, shape (n, ...)
            Exactly the taps of the segment; cast to the storage dtype here.
        holes : dict of row -> reason
            Rows of the segment that failed; not in `rows`.
        names
            Sample of each of `rows`, for the errors.
        handed_over
            The caller changes `values` no more: what needs no cast is held without a copy.

        Raises
        ------
        FeatureValueError
            If values cannot be stored; nothing of the batch is spooled.
        ShapeError
            If rows, taps or shapes are not the segment's.
        DiskFullError
            If the disk is full; what was spooled before is kept.
        """
        assert self._journal is not None, "append outside of `with`"
        rows = np.array(rows, np.int64).reshape(-1)
        failed = {int(row): str(reason) for row, reason in (holes or {}).items()}
        if not len(rows) and not failed:
            return
        segment = self._segment(rows, failed)
        if set(values) != set(segment.taps) and len(rows):
            raise ShapeError(
                f"rows {rows[:1].tolist()}...: expected taps {', '.join(segment.taps)}, "
                f"found {', '.join(values) or 'none'}"
            )
        stored = {}
        for name in segment.taps if len(rows) else ():
            expected = (len(rows), *self._taps[name].row_shape)
            if values[name].shape != expected:
                raise ShapeError(f"tap {name}: expected shape {expected}, found {values[name].shape}")
            stored[name] = to_storage(values[name], self._taps[name].dtype, name, names)
            if not handed_over and np.may_share_memory(stored[name], values[name]):
                stored[name] = stored[name].copy()
        self._journal.append(rows, stored, failed)
        self._mark(rows, failed)

    def commit(self) -> Committed:
        """Assemble the block's shards from the journal and commit them with its keys.

        Raises
        ------
        StoreError
            If a row of a segment was neither appended nor recorded as failed.
        DiskFullError
            If the disk is full; nothing committed is lost and the journal is kept.
        """
        journal = self._journal
        assert journal is not None, "commit outside of `with`"
        self._group.check_writable()
        open_rows = np.flatnonzero((self._segment_of >= 0) & ~self._is_spooled)
        if len(open_rows):
            raise StoreError(
                f"{self._group.path}: block {self.block.index}: expected every row before the commit, "
                f"{len(open_rows)} are missing, the first is {int(open_rows[0]) + self.block.start}"
            )
        state = self._group.state
        transaction = Transaction(self._group.path)
        try:
            entry = self._write(transaction, state, journal)
            if transaction.files or state.after([entry]).taps != state.taps:
                transaction.commit(entry, remove=journal.path if journal.is_on_disk else None)
                self._group.committed(entry)
            else:  # rows that failed before failed again
                transaction.abandon()
                journal.path.unlink(missing_ok=True)
        except BaseException as error:
            self._group.interrupted()
            transaction.stop()
            if isinstance(error, Exception):
                transaction.abandon()
            raise
        journal.close()
        self._journal = None
        return self._summary(state, journal, entry)

    def _segment(self, rows: IntArray, failed: dict[int, str]) -> Segment:
        every = np.concatenate([rows, np.fromiter(failed, np.int64, len(failed))])
        offsets = every - self.block.start
        inside = (offsets >= 0) & (offsets < len(self._segment_of))
        of = self._segment_of[offsets[inside]]
        ascending = bool((rows[1:] > rows[:-1]).all()) and not (failed and np.isin(rows, list(failed)).any())
        if not inside.all() or of[0] < 0 or (of != of[0]).any() or not ascending:
            raise ShapeError(
                f"rows {every[:3].tolist()}...: expected ascending rows of one segment of block "
                f"{self.block.index} (rows {self.block.start} to {self.block.stop})"
            )
        if self._is_spooled[offsets].any():
            row = int(every[self._is_spooled[offsets]][0])
            raise ShapeError(f"row {row}: appended already; start each segment at done(segment)")
        return self.block.segments[int(of[0])]

    def _mark(self, rows: IntArray, failed: dict[int, str]) -> None:
        self._is_spooled[rows - self.block.start] = True
        self._is_spooled[np.fromiter(failed, np.int64, len(failed)) - self.block.start] = True

    def _open_journal(self) -> Journal:
        keys = self._group.block_keys(self._plan, self.block)
        taps = {name: [tap.spec.dtype, *tap.row_shape] for name, tap in self._taps.items()}
        digest = plan_digest(self.block, keys, taps, self._batch)
        binding = Binding(digest, self.block.start, self.block.stop, self._batch, taps)
        folder = self._group.path / JOURNAL
        path = folder / f"block-{digest}{SUFFIX}"
        journal = Journal.resume(path, binding, **self._options)
        others = [other for other in sorted(folder.glob(f"*{SUFFIX}")) if other != path]
        if journal is None:
            journal = Journal(path, binding, keys, **self._options)
            for other in others:
                self.num_reused += reuse(other, journal, self.block, keys, any_order=self._any_order)
            journal.sync()
        for other in others:
            other.unlink()
        return journal

    def _write(self, transaction: Transaction, state: LedgerState, journal: Journal) -> Entry:
        changes = []
        for name, tap in self._taps.items():
            new = dataclasses.replace(tap, num_rows=0, holes=Holes.empty())
            failed = {
                row: reason
                for record in journal.records
                for row, reason in record.holes.items()
                if name in self.block.segments[int(self._segment_of[row - self.block.start])].taps
            }
            batches = list(journal.values(name))
            before, block = state.taps.get(name, new), self.block
            changes.append(write_tap(transaction, state, before, block.stop, batches, failed, block.start))
        num_rows = max(state.num_rows, self.block.stop)
        added = state.num_rows, num_rows
        write_keys(transaction, state, self._plan.keys_between(*added), self._plan.parts_between(*added))
        return Entry(state.num_entries, "block", num_rows, tuple(changes), transaction.files)

    def _summary(self, state: LedgerState, journal: Journal, entry: Entry) -> Committed:
        said: list[str] = []
        for change in entry.taps:
            if change.statistics is not None:
                earlier = state.statistics.get(change.tap.name, ())
                said += remarks(change.tap.name, change.statistics, earlier)
        taps_of = [len(segment.taps) for segment in self.block.segments]
        return Committed(
            num_rows=entry.num_rows,
            num_features=sum(  # a record is of one segment
                taps_of[int(self._segment_of[record.rows[0] - self.block.start])] * len(record.rows)
                for record in journal.records
                if len(record.rows)
            ),
            num_failed=sum(len(record.holes) for record in journal.records),
            nbytes=sum(record.nbytes for record in entry.files.values()),
            remarks=tuple(said),
        )


def plan_digest(block: Block, keys: npt.NDArray[np.uint8], taps: dict[str, list[Any]], batch: int) -> str:
    """32 hex digits of what a block is to hold and of its batch grid: equal where spooled rows are its own."""
    out = hashlib.blake2b(digest_size=16)
    out.update(canonical_json([block.start, block.stop, taps, batch]).encode())
    out.update(np.ascontiguousarray(keys).tobytes())  # with part numbers: parts of one sample are told apart
    for segment in block.segments:
        out.update(canonical_json(segment.taps).encode())
        out.update(segment.rows.tobytes())
    return out.hexdigest()
