"""Compute a block: read, forward, spool. The same passes whether the rows go to a writer or to a spool.

Knows nothing of who else computes, or of commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from embedpipe.extract.computer import Computer
from embedpipe.extract.pipeline import Batch, Embedded, StepTimes, embed
from embedpipe.extract.samples import WantedSamples
from embedpipe.extract.spool import BlockSpool, BlockTask, SegmentTask, binding_of
from embedpipe.store.group import Group
from embedpipe.store.plan import Block, GrowthPlan


def batches_of(rows: np.ndarray, samples: np.ndarray, batch: int) -> Iterator[Batch]:
    """Consecutive batches; the last may be short."""
    for start in range(0, len(rows), batch):
        yield Batch(rows[start : start + batch], samples[start : start + batch])


def make_task(group: Group, plan: GrowthPlan, block: Block, wanted: WantedSamples, batch: int) -> BlockTask:
    """A block with the locators of its samples."""
    keys = group.block_keys(plan, block)
    segments = []
    for segment in block.segments:
        chosen = plan.wanted_of_row[segment.rows]
        segments.append(
            SegmentTask(
                segment.rows,
                segment.taps,
                wanted.source_index[chosen],
                tuple(map(str, wanted.locators[chosen])),
                tuple(map(str, wanted.names[chosen])),
            )
        )
    return BlockTask(binding_of(plan, block, keys, batch), keys, tuple(segments))


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
            done = spool.done(segment)
            _compute_segment(segment, done, computer, spool, decode_threads, times, stop, on_batch)
            if stop():
                return times
        spool.finish()
    return times


def _compute_segment(
    segment: SegmentTask,
    done: int,
    computer: Computer,
    spool: BlockSpool,
    decode_threads: int,
    times: StepTimes,
    stop: Callable[[], bool],
    on_batch: Callable[[Embedded, SegmentTask], None],
) -> None:
    places = np.arange(len(segment.rows))

    def read(index: int) -> torch.Tensor:
        return computer.read(int(segment.sources[index]), segment.locators[index])

    def write(embedded: Embedded) -> None:
        on_batch(embedded, segment)
        ok = embedded.ok
        names = [segment.names[i] for i in embedded.batch.samples[ok].tolist()]
        spool.append(segment, embedded.batch.rows[ok], embedded.values, embedded.failures, names)

    embed(
        batches_of(segment.rows[done:], places[done:], computer.batch),
        read,
        computer.engine(segment.taps),
        write,
        decode_threads=decode_threads,
        times=times,
        stop=stop,
    )
