"""Compute a block: read, forward, spool. The same passes whether the rows go to a writer or to a spool.

Knows nothing of who else computes, or of commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedpipe.extract.batches import Batch, Embedded, StepTimes
from embedpipe.extract.computer import Computer
from embedpipe.extract.pipeline import embed
from embedpipe.extract.samples import WantedSamples
from embedpipe.extract.spool import BlockSpool, BlockTask, SegmentTask, binding_of
from embedpipe.store.group import Group
from embedpipe.store.join import row_keys
from embedpipe.store.journal import Binding
from embedpipe.store.plan import Block, GrowthPlan


def batches_of(rows: np.ndarray, samples: np.ndarray, batch: int) -> Iterator[Batch]:
    """Consecutive batches; the last may be short."""
    for start in range(0, len(rows), batch):
        yield Batch(rows[start : start + batch], samples[start : start + batch])


def make_task(group: Group, plan: GrowthPlan, block: Block, wanted: WantedSamples, batch: int) -> BlockTask:
    """A block with the locators of its samples."""
    return PlannedBlock.of(group, plan, block, batch).task(plan, wanted)


@dataclass(frozen=True)
class PlannedBlock:
    """A block whose samples are looked up only when it is computed, also after the group was let go.

    Attributes
    ----------
    old_keys : uint8 array
        Keys of its rows that were there when it was planned, as `row_keys` gives them.
    """

    index: int
    num_rows: int
    binding: Binding
    old_keys: np.ndarray

    @classmethod
    def of(cls, group: Group, plan: GrowthPlan, block: Block, batch: int) -> PlannedBlock:
        keys = group.block_keys(plan, block)
        num_old = min(max(plan.num_rows_before, block.start), block.stop) - block.start
        binding = binding_of(plan, block, keys, batch)
        return cls(block.index, block.num_rows, binding, keys[:num_old].copy())

    @property
    def digest(self) -> str:
        return self.binding.plan

    def task(self, plan: GrowthPlan, wanted: WantedSamples) -> BlockTask:
        """The block with all that computing it needs."""
        block = plan.blocks[self.index]
        start = block.start + len(self.old_keys)
        new_keys = row_keys(plan.keys_between(start, block.stop), plan.parts_between(start, block.stop))
        keys = np.concatenate([self.old_keys, new_keys])
        segments = tuple(segment_task(wanted, plan, one.rows, one.taps) for one in block.segments)
        return BlockTask(self.binding, keys, segments)


def segment_task(
    wanted: WantedSamples, plan: GrowthPlan, rows: np.ndarray, taps: tuple[str, ...]
) -> SegmentTask:
    """Rows of a segment with where each is read."""
    chosen = plan.wanted_of_row[rows]
    return SegmentTask(
        rows,
        taps,
        wanted.source_index(chosen),
        tuple(wanted.locators(chosen)),
        tuple(wanted.names(chosen)),
        np.asarray(wanted.parts[chosen], np.int32),
    )


def compute_block(
    task: BlockTask,
    computer: Computer,
    folder: Path,
    *,
    decode_threads: int,
    sync_every_s: float,
    wait_s: float = 0.0,
    times: StepTimes | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[Embedded, SegmentTask], None] = lambda embedded, segment: None,
) -> StepTimes:
    """Compute a block and spool it; a part that is spooled already is kept.

    Parameters
    ----------
    folder
        Of all spooled blocks.
    on_batch
        Called for each batch, before it is spooled.
    """
    times = times or StepTimes()
    with BlockSpool(folder, task, sync_every_s=sync_every_s, wait_s=wait_s) as spool:
        for segment in task.segments:
            _compute_segment(segment, computer, spool, decode_threads, times, stop, on_batch)
            if stop():
                return times
        spool.finish()
    return times


def _compute_segment(
    segment: SegmentTask,
    computer: Computer,
    spool: BlockSpool,
    decode_threads: int,
    times: StepTimes,
    stop: Callable[[], bool],
    on_batch: Callable[[Embedded, SegmentTask], None],
) -> None:
    places = spool.missing(segment)

    def write(embedded: Embedded) -> None:
        on_batch(embedded, segment)
        ok = embedded.ok
        names = [segment.names[i] for i in embedded.batch.samples[ok].tolist()]
        spool.append(segment, embedded.batch.rows[ok], embedded.values, embedded.failures, names)

    embed(
        batches_of(segment.rows[places], places, computer.batch),
        computer.reader(segment.sources, segment.locators, segment.parts),
        computer.engine(segment.taps),
        write,
        decode_threads=decode_threads,
        times=times,
        stop=stop,
    )
