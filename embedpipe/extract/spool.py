"""Blocks that are computed elsewhere: spooled to a folder beside the journal, taken over by whoever commits.

``<group>/journal/spool/<digest>/`` holds one block: a journal, a lock while somebody fills it, and ``done`` once it
is whole. The digest is that of the block's keys, segments, taps and batch, so what was spooled for another plan is
never mistaken for this one's. A folder that a killed worker has left is gone on with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embedpipe.errors import StoreLocked
from embedpipe.store.commit import JOURNAL
from embedpipe.store.disk import make_folder, remove_tree, write_file
from embedpipe.store.gates import to_storage
from embedpipe.store.journal import Binding, Journal, read_journal
from embedpipe.store.lock import GroupLock
from embedpipe.store.plan import Block, GrowthPlan
from embedpipe.store.writer import BlockWriter, plan_digest

SPOOL = "spool"
ROWS = "rows.journal"
DONE = "done"


@dataclass(frozen=True)
class SegmentTask:
    """Rows that one forward pass fills, and where each is read.

    Attributes
    ----------
    rows : int64 array, shape (n,)
    taps : tuple of str
    sources : int64 array, shape (n,)
        Which source reads each.
    locators, names : tuple of str
    parts : int32 array, shape (n,)
        Which window of a text each row is.
    """

    rows: npt.NDArray[np.int64]
    taps: tuple[str, ...]
    sources: npt.NDArray[np.int64]
    locators: tuple[str, ...]
    names: tuple[str, ...]
    parts: npt.NDArray[np.int32]


@dataclass(frozen=True)
class BlockTask:
    """One block with all that a worker needs of it; can be sent to another machine.

    Attributes
    ----------
    binding : Binding
        What the block's journal belongs to; `plan` is the digest.
    keys : uint8 array, shape (stop - start, 20)
        With part numbers, as `Group.block_keys` gives them.
    """

    binding: Binding
    keys: npt.NDArray[np.uint8]
    segments: tuple[SegmentTask, ...]

    @property
    def digest(self) -> str:
        return self.binding.plan

    @property
    def num_rows(self) -> int:
        return sum(len(segment.rows) for segment in self.segments)


def binding_of(plan: GrowthPlan, block: Block, keys: npt.NDArray[np.uint8], batch: int) -> Binding:
    """What a spooled block belongs to."""
    taps = {tap.name: [tap.spec.dtype, *tap.row_shape] for tap in plan.taps}
    return Binding(plan_digest(block, keys, taps, batch), block.start, block.stop, batch, taps)


def spool_folder(group: Path) -> Path:
    """Folder of all spooled blocks of a group."""
    return group / JOURNAL / SPOOL


class BlockSpool:
    """Context manager that fills one spooled block; what was spooled before is kept.

    Parameters
    ----------
    folder
        As `spool_folder` gives it.
    wait_s
        Seconds to wait for another process that fills the same block.

    Raises
    ------
    StoreLocked
        On entering, if another process still fills it.
    """

    def __init__(
        self, folder: Path, task: BlockTask, *, sync_every_s: float = 5.0, wait_s: float = 0.0
    ) -> None:
        self._folder, self._task = folder / task.digest, task
        self._sync_every_s, self._wait_s = sync_every_s, wait_s
        self._stack = contextlib.ExitStack()
        self._journal: Journal | None = None

    def __enter__(self) -> Self:
        make_folder(self._folder)
        self._stack.enter_context(GroupLock(self._folder, wait_s=self._wait_s))
        path, options = self._folder / ROWS, {"sync_every_s": self._sync_every_s}
        self._journal = Journal.resume(path, self._task.binding, **options)
        if self._journal is None:
            self._journal = Journal(
                path, self._task.binding, self._task.keys, sync_every_s=self._sync_every_s
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._journal is not None
        try:
            self._journal.sync()
        finally:
            self._journal.close()
            self._stack.close()

    def missing(self, segment: SegmentTask) -> npt.NDArray[np.int64]:
        """Places of the rows of a segment that are not spooled yet, ascending."""
        assert self._journal is not None
        records = self._journal.records
        spooled = np.concatenate(
            [np.zeros(0, np.int64), *(r.rows for r in records), *(_hole_rows(r.holes) for r in records)]
        )
        return np.flatnonzero(~np.isin(segment.rows, spooled))

    def append(
        self,
        segment: SegmentTask,
        rows: npt.NDArray[np.int64],
        values: dict[str, npt.NDArray[Any]],
        holes: dict[int, str],
        names: Sequence[str],
    ) -> None:
        """Spool one batch of a segment; values are checked and cast as the store does."""
        assert self._journal is not None
        taps = self._task.binding.taps
        stored = {
            name: to_storage(values[name], np.dtype(taps[name][0]), name, names)
            for name in segment.taps
            if len(rows)
        }
        self._journal.append(rows, stored, holes)

    def finish(self) -> None:
        """Say that the block is whole."""
        assert self._journal is not None
        self._journal.sync()
        write_file(self._folder / DONE, f"{self._task.num_rows}\n".encode())


def is_spooled(folder: Path, digest: str) -> bool:
    """Whether a block is whole."""
    return (folder / digest / DONE).exists()


def take_over(folder: Path, binding: Binding, block: Block, writer: BlockWriter) -> dict[int, str]:
    """Give the writer of a block what was spooled of it, batch by batch.

    Returns
    -------
    dict of row -> reason
        The failed rows among them.
    """
    found = read_journal(folder / binding.plan / ROWS)
    if found is None or found.binding != binding:
        return {}
    failed: dict[int, str] = {}
    for index, segment in enumerate(block.segments):
        missing = writer.missing(index)
        for record in found.records:
            every = np.concatenate([record.rows, _hole_rows(record.holes)])
            if not len(every) or not np.isin(every, missing).all():
                continue
            values = {name: found.read(record, name) for name in segment.taps if len(record.rows)}
            writer.append(record.rows, values, record.holes)
            failed |= record.holes
            missing = missing[~np.isin(missing, every)]
    return failed


def clear_spool(folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
    """Remove what was spooled, once it is committed or of no plan any more; blocks that are being filled stay."""
    for path in sorted(folder.glob("*")) if folder.exists() else ():
        clear_block(path, say)
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()


def clear_block(path: Path, say: Callable[[str], None] = lambda text: None) -> None:
    """Remove one spooled block, unless it is being filled."""
    try:
        with GroupLock(path):
            for file in (DONE, ROWS):
                (path / file).unlink(missing_ok=True)
        remove_tree(path)
    except StoreLocked as error:
        say(f"{error}; what it computes is of no use any more")


def _hole_rows(holes: dict[int, str]) -> npt.NDArray[np.int64]:
    return np.fromiter(holes, np.int64, len(holes))
