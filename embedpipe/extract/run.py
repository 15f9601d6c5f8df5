"""Embed what is missing and publish the store: the whole of one `extract`.

Reads manifests and their sources, the backbone, the working store; writes the working store and the
published one. Each part is elsewhere: what is wanted (`samples`), whether the backbone still computes what
it stored (`probe`), which rows and taps are missing (`store.plan`), how they are computed (`pipeline`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedpipe.backbones import BackboneOptions
from embedpipe.errors import Stopped, TooManyFailed
from embedpipe.extract.batches import Embedded, StepTimes
from embedpipe.extract.blocks import batches_of, segment_task
from embedpipe.extract.cluster import DaskBlocks
from embedpipe.extract.earlier import EarlierStore
from embedpipe.extract.options import ExtractOptions, seconds_of
from embedpipe.extract.pipeline import embed
from embedpipe.extract.samples import WantedSamples
from embedpipe.extract.saved import Saved, add_saved
from embedpipe.extract.session import Rows, Session, open_session
from embedpipe.extract.spool import SegmentTask, binding_of, clear_spool, spool_folder, take_over
from embedpipe.extract.stopping import Stopping
from embedpipe.extract.verdict import Verdict, judge, shares_text
from embedpipe.manifest.listed import ListedSamples
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import Source
from embedpipe.store.holes import Holes
from embedpipe.store.plan import GrowthPlan
from embedpipe.store.publishing import publish


@dataclass(frozen=True)
class ExtractSummary:
    """What one run of `extract` did.

    Attributes
    ----------
    num_samples, num_embedded, num_failed : int
        Distinct samples wanted, forward passes made, and samples that could not be decoded.
    notes : list of str
        What a person should know: a new group and why, constant columns, drift.
    saved : Saved
        What the cache has saved so far, over all runs.
    """

    backbone: str
    num_samples: int
    num_embedded: int
    num_failed: int
    verdict: Verdict
    notes: list[str]
    saved: Saved

    def sentence(self) -> str:
        """One line for the terminal."""
        kept = self.num_samples - self.num_embedded
        head = f"{self.backbone}: {self.num_embedded:,} embedded, {kept:,} already there"
        failed = f", {self.num_failed:,} unreadable" if self.num_failed else ""
        rate = f" at {self.verdict.rate:,.0f} samples/s; {self.verdict.advice}" if self.num_embedded else ""
        saved = self.saved.sentence()
        return f"{head}{failed}{rate}{'; ' if saved else ''}{saved}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "saved": self.saved.to_dict()}


def extract_backbone(
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
    limit: int | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> ExtractSummary:
    """Bring every wanted sample into every wanted tap and publish the store.

    Parameters
    ----------
    datasets
        Manifests with their sources; those without the backbone's modality are left out.
    root, source_dir
        Where relative paths of weights start, and where source models trained here lie.
    stores_dir, destination
        The folder of working stores, and the published store; they must share a filesystem.
    earlier
        Where this store was published before, to take from what the working store lacks.
    rows
        ``rows:`` of data sets by name, where long texts are windows.
    limit
        Most samples to embed in this run.

    Raises
    ------
    DataError, ConfigError, WeightsError
        If data sets, options or weights cannot be used; before anything is computed.
    StoreError
        If the store is held by another process, damaged, on another filesystem or full.
    ProbeMismatch
        If the backbone no longer computes what it stored.
    TooManyFailed
        If more than `max_failed` of the samples cannot be decoded. What is committed stays.
    Stopped
        If a signal, `stop_after` or `limit` ended the run before it was done; nothing is published then.
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
        for note in session.notes:
            say(note)
        whole = session.plan()
        plan = whole if limit is None else session.plan(limit=limit)
        session.check_disk(plan)
        failures = Failures(session.wanted, extract.max_failed, name)
        times = StepTimes()
        after_s = None if extract.stop_after is None else seconds_of(extract.stop_after)
        if plan.blocks:
            with Stopping(after_s) as stopping:
                _run_blocks(session, plan, failures, times, stopping, progress, say)
        session.remember_pass()
        for note in [*session.memory_notes(), *session.cut_notes()]:
            session.notes.append(note)
            say(note)
        left = whole.num_rows_to_compute - plan.num_rows_to_compute
        if left:
            raise Stopped(
                f"{name}: {plan.num_rows_to_compute:,} samples embedded, as many as --limit allows, {left:,} are left; "
                "nothing is published before all are there: run again without --limit"
            )
        group = session.group
        clear_spool(spool_folder(group.path), say)
        failed = failed_samples(session.wanted, group.taps[session.tap_names[0]].holes, whole)
        publish(
            group,
            session.tap_names,
            destination,
            {"card.json": _json_bytes(session.card()), "failed.csv": _failed_csv(failed)},
        )
        session.remember()
        num_samples = whole.num_samples
        num_embedded = (
            times.num_samples - failures.num_computed
        )  # a resumed run does not count what the journal held
        num_reused = num_samples - plan.num_rows_to_compute
        return ExtractSummary(
            backbone=name,
            num_samples=num_samples,
            num_embedded=num_embedded,
            num_failed=len(failed),
            verdict=judge(times, session.spec.device_kind),
            notes=session.notes,
            saved=add_saved(stores_dir, name, num_embedded, num_reused, times.total_s),
        )


def _run_blocks(
    session: Session,
    plan: GrowthPlan,
    failures: Failures,
    times: StepTimes,
    stopping: Stopping,
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    total, done = plan.num_rows_to_compute, 0
    options, folder = session.extract, spool_folder(session.group.path)
    with contextlib.ExitStack() as stack:
        dask = None
        if options.executor == "dask":
            dask = stack.enter_context(DaskBlocks(session, plan, failures, times, stopping, progress, say))
        else:
            session.warm_up(plan)
        for block in plan.blocks:
            digest = "" if dask is None else dask.wait_for(block, done)
            with session.group.writer(
                plan,
                block,
                batch=session.batch,
                any_order=bool(session.backbone.staging.lengths),
                sync_every_s=options.journal_s,
            ) as writer:
                if folder.exists():
                    binding = binding_of(plan, block, session.group.block_keys(plan, block), session.batch)
                    failures.add(take_over(folder, binding, block, writer), plan, computed=False)
                for index, segment in enumerate(block.segments):
                    rows = writer.missing(index)
                    done += len(segment.rows) - len(rows)
                    progress(done, total, "samples")
                    if not len(rows):
                        continue
                    task = segment_task(session.wanted, plan, rows, segment.taps)

                    def write(embedded: Embedded, task: SegmentTask = task) -> None:
                        nonlocal done
                        failures.add(embedded.failures, plan)
                        batch, ok = embedded.batch, embedded.ok
                        names = [task.names[i] for i in batch.samples[ok].tolist()]
                        writer.append(batch.rows[ok], embedded.values, embedded.failures, names=names)
                        done += len(batch.rows)
                        progress(done, total, "samples", shares_text(times))

                    embed(
                        batches_of(rows, np.arange(len(rows)), session.batch),
                        session.computer.reader(task.sources, task.locators, task.parts),
                        session.engine(segment.taps),
                        write,
                        decode_threads=options.decode_threads,
                        times=times,
                        stop=stopping.asked,
                    )
                    if stopping.asked():
                        raise stopping.error(session.name, done, total)
                remarks = [f"{session.name}: {remark}" for remark in writer.commit().remarks]
                session.notes.extend(remarks)
                for remark in remarks:
                    say(remark)
            if dask is not None:
                dask.committed(digest)
            if done < total and stopping.due():
                raise stopping.error(session.name, done, total)


class Failures:
    """Counts samples that could not be decoded, and stops the run before it wastes a night."""

    def __init__(self, wanted: WantedSamples, max_failed: float, backbone: str) -> None:
        self._wanted, self._max_failed, self._backbone = wanted, max_failed, backbone
        self._reasons: dict[str, str] = {}
        self.num_computed = 0  # of them, those that this run tried itself

    def add(self, failed: Mapping[int, str], plan: GrowthPlan, *, computed: bool = True) -> None:
        self.num_computed += len(failed) if computed else 0
        rows = np.fromiter(failed, np.int64, len(failed))
        names = self._wanted.names(plan.wanted_of_row[rows])
        self._reasons.update(zip(names, failed.values(), strict=True))
        if len(self._reasons) > self._max_failed * len(self._wanted):
            some = "; ".join(f"{name}: {reason}" for name, reason in list(self._reasons.items())[:3])
            raise TooManyFailed(
                f"{self._backbone}: expected at most {self._max_failed:.2%} of {len(self._wanted):,} samples to be "
                f"unreadable, found {len(self._reasons)} so far ({some}); mend or remove them, or raise "
                "extract.max_failed; what is embedded so far is kept"
            )


def failed_samples(wanted: WantedSamples, holes: Holes, plan: GrowthPlan) -> list[tuple[str, str]]:
    """Wanted samples that stand in a hole of the store, with the reason, in manifest order."""
    if not len(holes):
        return []
    bad = np.flatnonzero(holes.mask(0, plan.num_rows_after)[plan.rows_of_wanted])
    reasons = [holes[row] for row in plan.rows_of_wanted[bad].tolist()]
    return list(zip(wanted.names(bad), reasons, strict=True))


def _failed_csv(failed: Sequence[tuple[str, str]]) -> bytes:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", "reason"])
    writer.writerows(failed)
    return text.getvalue().encode()


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
