"""One task of several that share an extraction without a scheduler between them, such as a SLURM array.

All plan the same blocks, each spools those that are its own, and the task that finds all of them spooled commits and
publishes. They share a file system and nothing else; the group is held while a task plans or commits, never while it
computes. A task that was killed is started again and goes on where it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedpipe.backbones import BackboneOptions
from embedpipe.errors import ConfigError
from embedpipe.extract.batches import Embedded, StepTimes
from embedpipe.extract.blocks import PlannedBlock, compute_block
from embedpipe.extract.earlier import EarlierStore
from embedpipe.extract.options import ExtractOptions, seconds_of
from embedpipe.extract.run import ExtractSummary, Failures, extract_backbone
from embedpipe.extract.session import Rows, open_session
from embedpipe.extract.spool import SegmentTask, is_spooled, spool_folder
from embedpipe.extract.stopping import Stopping
from embedpipe.extract.verdict import shares_text
from embedpipe.manifest.listed import ListedSamples
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import Source


@dataclass(frozen=True)
class TaskOf:
    """Which task of how many: 1/8 to 8/8."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_task(text: str) -> TaskOf:
    """``3/8``.

    Raises
    ------
    ConfigError
        If it is no task.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    number, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise ConfigError(f"--task: expected i/n with 1 ≤ i ≤ n, such as 3/8, found {text!r}")
    return TaskOf(number, count)


def extract_task(
    task: TaskOf,
    name: str,
    options: BackboneOptions,
    extract: ExtractOptions,
    datasets: Sequence[tuple[ListedSamples, Source]],
    *,
    root: Path,
    source_dir: Path,
    stores_dir: Path,
    destination: Path,
    earlier: Sequence[EarlierStore] = (),
    rows: Rows | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> ExtractSummary | None:
    """Spool this task's blocks; commit and publish if they were the last.

    Parameters and errors are those of `extract.run.extract_backbone`.

    Returns
    -------
    ExtractSummary or None
        None where blocks of other tasks are still to come.
    """
    with open_session(
        name,
        options,
        extract,
        datasets,
        root,
        source_dir,
        stores_dir,
        destination,
        earlier=earlier,
        rows=rows,
        say=say,
    ) as session:
        plan = session.plan()
        session.check_disk(plan)
        group, batch, computer = session.group, session.batch, session.computer
        digests, mine = [], []
        for block in plan.blocks:
            planned = PlannedBlock.of(group, plan, block, batch)
            digests.append(planned.digest)
            if block.index % task.count == task.number - 1:
                mine.append(planned)
        failures = Failures(session.wanted, extract.max_failed, name)
    folder = spool_folder(group.path)
    num_mine = len(mine)
    mine = [planned for planned in mine if not is_spooled(folder, planned.digest)]
    total, done, times = sum(planned.num_rows for planned in mine), 0, StepTimes()
    after_s = None if extract.stop_after is None else seconds_of(extract.stop_after)

    def on_batch(embedded: Embedded, segment: SegmentTask) -> None:
        nonlocal done
        failures.add(embedded.failures, plan)
        done += len(embedded.batch.rows)
        progress(done, total, "samples", shares_text(times))

    with Stopping(after_s) as stopping:
        for planned in mine:
            compute_block(
                planned.task(plan, session.wanted),
                computer,
                folder,
                decode_threads=extract.decode_threads,
                sync_every_s=extract.journal_s,
                wait_s=extract.wait_s,
                times=times,
                stop=stopping.asked,
                on_batch=on_batch,
            )
            if stopping.due() and done < total:
                raise stopping.error(f"{name}, task {task}", done, total)
    for note in session.cut_notes():
        say(note)
    num_left = sum(not is_spooled(folder, digest) for digest in digests)
    if num_left and folder.exists():  # it is gone where another task has committed meanwhile
        say(
            f"{name}: task {task} has spooled its {num_mine:,} blocks; "
            f"{num_left:,} of {len(digests):,} are still to come from other tasks, and the last of them commits all"
        )
        return None
    return extract_backbone(
        name,
        options,
        extract,
        datasets,
        root=root,
        source_dir=source_dir,
        stores_dir=stores_dir,
        destination=destination,
        earlier=earlier,
        rows=rows,
        progress=progress,
        say=say,
    )
