"""What a worker process does: open the backbone once, compute the blocks that it is sent, spool them.

A worker shares the file system of the store with the coordinator and checks that; it neither commits nor publishes.
Knows nothing of how tasks reach it: progress goes through a callable.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.backbones.tokens import TokenInputs
from embedpipe.errors import ConfigError, SpecMismatch, StoreError
from embedpipe.extract.batches import Embedded, StepTimes
from embedpipe.extract.blocks import compute_block
from embedpipe.extract.computer import Computer
from embedpipe.extract.device import resolve_device
from embedpipe.extract.jpeg import decoder_like
from embedpipe.extract.options import ExtractOptions
from embedpipe.extract.probe import check_probe
from embedpipe.extract.resolve import Builtin, spec_of
from embedpipe.extract.spool import BlockTask, SegmentTask
from embedpipe.extract.windows import Windows, with_windows
from embedpipe.sources.base import Source
from embedpipe.spec import BackboneSpec
from embedpipe.store.group import probe_path

REPORT_EVERY_S = 0.5
WITNESS, RECIPE = "witness", "recipe"  # files on the coordinator's desk, beside the blocks
STEPS = ("decode_s", "forward_s", "write_s", "wait_read_s", "wait_write_s")


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to compute as the coordinator would.

    Attributes
    ----------
    spec : BackboneSpec
        What the worker's backbone, device and precision must come to.
    batch : int
        Samples a forward pass, resolved.
    sources : tuple of Source
    root, source_dir : Path
        As for `load_backbone`; absolute.
    group, spool : Path
        The working group, and the folder of its spooled blocks; absolute, on a file system that all share.
    windows : (tokens, overlap) or None
        How long texts are laid out.
    """

    name: str
    options: BackboneOptions
    extract: ExtractOptions
    spec: BackboneSpec
    batch: int
    sources: tuple[Source, ...]
    root: Path
    source_dir: Path
    group: Path
    spool: Path
    windows: Windows | None = None


@dataclass(frozen=True)
class Report:
    """How far a block is.

    Attributes
    ----------
    done : int
        Rows of it that are through, those spooled before included.
    failed : list of (row, reason)
        Samples that could not be read since the last report.
    """

    digest: str
    done: int
    failed: list[tuple[int, str]]


@dataclass(frozen=True)
class Computed:
    """What computing a block took.

    Attributes
    ----------
    whole : bool
        False where the worker was told to stop before the block's end.
    seconds : dict of str -> float
        Fields of `StepTimes` to be added up.
    num_failed : int
        Samples that could not be read, of those tried here.
    num_cut : int
        Texts that were longer than the backbone takes.
    """

    host: str
    whole: bool
    seconds: dict[str, float]
    num_samples: int
    num_failed: int
    num_cut: int = 0


def check_shared(desk: Path, token: str) -> None:
    """Whether this process sees the coordinator's file system.

    Raises
    ------
    StoreError
        If not; names the host and the folder.
    """
    try:
        found = (desk / WITNESS).read_text(encoding="utf-8")
    except OSError as error:
        found = f"none ({error.strerror})"
    if found != token:
        raise StoreError(
            f"worker on {socket.gethostname()}: {desk.parent}: expected the coordinator's working folder, with {token} "
            f"in {desk.name}/{WITNESS}, found {found}; mount it there under the same path, or move it with "
            "EMBEDPIPE_CACHE to a file system that all machines share"
        )


def open_computer(recipe: Recipe) -> Computer:
    """The backbone, and the proof that it computes what the store holds.

    Raises
    ------
    ConfigError, SpecMismatch, ProbeMismatch
        If this machine has another kind of device, other weights or another preprocessing, or computes something
        else; names the host.
    """
    here = f"worker on {socket.gethostname()}"
    device = resolve_device(recipe.extract.device)
    if device.type != recipe.spec.device_kind:
        raise ConfigError(
            f"{here}: expected a device of kind {recipe.spec.device_kind}, as the store was made with, found "
            f"{device.type}; start workers where there is one, or set extract.device"
        )
    backbone = load_backbone(recipe.name, recipe.options, recipe.root, source_dir=recipe.source_dir)
    backbone = with_windows(backbone, recipe.windows, "params.yaml: datasets: rows")
    backbone = backbone.resampling_as(recipe.spec.preprocessing)
    decoder = decoder_like(recipe.spec.decoder)
    found = spec_of(backbone, recipe.spec.precision, device, decoder)
    if found != recipe.spec:
        listed = "; ".join(str(difference) for difference in recipe.spec.differences(found))
        raise SpecMismatch(
            f"{here}: backbones.{recipe.name}: expected what the coordinator has, found: {listed}; install the same "
            "versions, and give both the same weights"
        )
    taps = backbone.tap_specs(recipe.extract.dtype)
    stored = {tap.name: np.load(recipe.group / probe_path(tap.name), allow_pickle=False) for tap in taps}
    builtin = Builtin(backbone, taps, device).features(recipe.spec.precision)
    check_probe(f"{here}: backbones.{recipe.name}", stored, builtin, recipe.spec.precision)
    return Computer(
        backbone,
        device,
        recipe.spec.precision,
        taps,
        recipe.batch,
        recipe.extract.compile,
        recipe.sources,
        decoder=decoder,
    )


class Workbench:
    """The backbone of the last recipe, kept between blocks. One block at a time, whatever the number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[str, Recipe, Computer] | None = None
        self._stopped: str | None = None

    def stop(self, token: str) -> None:
        """Finish the batches in hand, and begin nothing more of this run."""
        self._stopped = token

    def compute(
        self,
        desk: Path,
        token: str,
        digest: str,
        share: int,
        report: Callable[[Report], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> Computed:
        """Compute and spool one block.

        Parameters
        ----------
        desk
            The folder in which the coordinator has laid the recipe and the blocks.
        token
            Of the coordinator's run.
        digest
            Of the block.
        share
            Workers on this machine: its cores are divided among them.

        Raises
        ------
        As `check_shared`, `open_computer` and `compute_block`.
        """
        with self._lock:
            if self._stopped == token:
                return Computed(socket.gethostname(), False, {}, 0, 0)
            check_shared(desk, token)
            if self._kept is None or self._kept[0] != token:
                self._kept = None  # the memory of the one before is given back first
                recipe: Recipe = pickle.loads((desk / RECIPE).read_bytes())
                self._kept = (token, recipe, open_computer(recipe))
            task: BlockTask = pickle.loads((desk / digest).read_bytes())
            return self._compute(token, *self._kept[1:], task, share, report, clock)

    def _compute(
        self,
        token: str,
        recipe: Recipe,
        computer: Computer,
        task: BlockTask,
        share: int,
        report: Callable[[Report], None],
        clock: Callable[[], float],
    ) -> Computed:
        num_cores = max(1, _num_cores() // share)
        torch.set_num_threads(num_cores)
        before = {id(s): sum(len(t.rows) for t in task.segments[:i]) for i, s in enumerate(task.segments)}
        failed: list[tuple[int, str]] = []
        num_failed, reported = 0, clock()
        inputs = computer.backbone.inputs
        cut_before = inputs.cut.num if isinstance(inputs, TokenInputs) else 0

        def on_batch(embedded: Embedded, segment: SegmentTask) -> None:
            nonlocal num_failed, reported
            failed.extend(embedded.failures.items())
            num_failed += len(embedded.failures)
            if clock() - reported >= REPORT_EVERY_S:
                done = before[id(segment)] + int(embedded.batch.samples[-1]) + 1
                report(Report(task.digest, done, list(failed)))
                failed.clear()
                reported = clock()

        times = compute_block(
            task,
            computer,
            recipe.spool,
            decode_threads=min(recipe.extract.decode_threads, max(2, num_cores)),
            sync_every_s=recipe.extract.journal_s,
            wait_s=recipe.extract.wait_s,
            times=StepTimes(),
            stop=lambda: self._stopped == token,
            on_batch=on_batch,
        )
        num_cut = inputs.cut.num - cut_before if isinstance(inputs, TokenInputs) else 0
        seconds = {step: float(getattr(times, step)) for step in STEPS}
        whole = self._stopped != token
        return Computed(socket.gethostname(), whole, seconds, times.num_samples, num_failed, num_cut)


BENCH = Workbench()  # one a process, for that is what holds a model


def compute_on_dask(desk: str, token: str, digest: str, share: int) -> Computed | Exception:
    """`Workbench.compute` as a task of dask; reports go to the topic named by the token."""
    from distributed import get_worker

    worker = get_worker()

    def report(one: Report) -> None:
        worker.log_event(token, {"digest": one.digest, "done": one.done, "failed": one.failed})

    try:
        return BENCH.compute(Path(desk), token, digest, share, report)
    except Exception as error:  # sent as a value: dask would send the traceback too, which not all can be
        return error.with_traceback(None)


def stop_on_dask(token: str) -> None:
    """Ask this process to stop what it computes for a run."""
    BENCH.stop(token)


def _num_cores() -> int:
    """Cores that this process may run on: what a cluster's scheduler has given it, not what the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
