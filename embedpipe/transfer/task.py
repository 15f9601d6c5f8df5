"""Train the transfer arms of one task, and write their predictions and scores beside those of the heads.

Reads published stores, saved heads, the selection, images and the open targets; the targets of test samples lie in a
file that nothing here names. What is finished is kept by what it was computed from, and what is not goes on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedpipe.errors import DataError
from embedpipe.evaluate.arms import ALL, arm_dir
from embedpipe.evaluate.options import CompareOptions, SelectOptions
from embedpipe.evaluate.predictions import ArmScores
from embedpipe.manifest.files import write_bytes
from embedpipe.manifest.kshot import k_shot_indices
from embedpipe.progress import Progress, silent
from embedpipe.train.memo import Memo
from embedpipe.train.samples import Index
from embedpipe.training import find_device, torchrun, world
from embedpipe.training.processes import agreed, wait_for_all
from embedpipe.transfer import arms as fits
from embedpipe.transfer.agreement import MOST_SAMPLES, Agreement, check_agreement
from embedpipe.transfer.files import TransferPaths, write_index, write_results
from embedpipe.transfer.given import Given
from embedpipe.transfer.images import Images
from embedpipe.transfer.keys import Keys, code_of_transfer, digest_of, start_key
from embedpipe.transfer.network import OpenedBackbone
from embedpipe.transfer.options import (
    ArmOptions,
    DirectOptions,
    FrozenOptions,
    TrainedOptions,
)
from embedpipe.transfer.rows import arm_row, cost_row
from embedpipe.transfer.start import Start, Starts
from embedpipe.transfer.training import Setting

KINDS = ("classes", "multilabel", "number")
_CHOSEN_ON_VALIDATION = (
    "select.on: folds chose the heads; with all labels transfer arms choose rate and epoch on validation all the same, "
    "so their figures there are those of the best of many"
)


@dataclass(frozen=True)
class TransferSummary:
    """What `transfer_task` did."""

    task: str
    num_arms: int
    num_fitted: int
    num_recalled: int
    notes: tuple[str, ...]


def transfer_task(
    arms: Mapping[str, ArmOptions],
    given: Given,
    paths: TransferPaths,
    *,
    select: SelectOptions,
    compare: CompareOptions,
    only: str | None = None,
    progress: Progress = silent,
) -> TransferSummary:
    """Train what is not finished, and write models, predictions, scores, history and cost.

    Parameters
    ----------
    arms
        Options of every arm by name, in the order of params.yaml.
    only
        Train no other than this one; those that are finished are written all the same.

    Raises
    ------
    ConfigError
        If an arm names a tap, layer or number of labels that does not exist.
    SpecMismatch, ProbeMismatch
        If the live model is not the one that computed the cached features.
    WeightsError
        If weights cannot be loaded.
    TrainingFailed
        If the loss of an arm is no longer finite.
    """
    task = given.samples.task
    run = _Run(given, paths, select, compare, only, progress)
    wanted = {name: one for name, one in arms.items() if one.tasks is None or task in one.tasks}
    for device in sorted({options.device for options in wanted.values()}):
        with torchrun(find_device(device, "params.yaml: transfer device")) as (_, found):
            for name, options in wanted.items():
                if options.device == device:
                    run.add(name, options, found)
            is_first = world().is_first
    chosen = [one for row in run.rows for one in row.get("candidates", ())]
    if select.on == "folds" and any("epoch" in one for one in chosen):
        run.notes.append(_CHOSEN_ON_VALIDATION)
    if wanted and not is_first:
        return TransferSummary(task, len(run.rows), 0, 0, ())
    place = {name: number for number, name in enumerate(wanted)}
    rows = sorted(run.rows, key=lambda row: (place[row["head"]], row["backbone"], _order(row["k_shot"])))
    run.write_models()
    histories = {row["arm"]: run.histories[row["arm"]] for row in rows if row["arm"] in run.histories}
    write_results(
        paths,
        task,
        given.samples.spec,
        rows=rows,
        arms=run.scores,
        costs=run.costs,
        notes=run.notes,
        histories=histories,
    )
    if only is None:
        run.memo.keep(f"transfer.{task}")
    return TransferSummary(
        task, len(run.scores), run.memo.num_computed, run.memo.num_recalled, tuple(run.notes)
    )


@dataclass
class _Run:
    """The arms of one task, one after the other."""

    given: Given
    paths: TransferPaths
    select: SelectOptions
    compare: CompareOptions
    only: str | None
    progress: Progress
    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: list[ArmScores] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    histories: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    _opened: dict[str, OpenedBackbone] = field(default_factory=dict)
    _images: dict[str, Images] = field(default_factory=dict)
    _agreed: dict[Any, Agreement] = field(default_factory=dict)
    _source: dict[tuple[str, str], fits.Float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = self.given
        self.memo = Memo(self.paths.memo_dir, code_of_transfer(), fits.is_whole)
        if world().is_first:
            self.memo.sweep()
        self._starts = Starts(
            given.samples,
            given.stores,
            given.units,
            given.scores,
            given.chosen,
            given.heads_dir,
            seed=given.seed,
            memory_nbytes=given.memory_nbytes,
        )
        self._keys = Keys(given.samples, self.select.by, given.seed, given.root)

    def add(self, name: str, options: ArmOptions, device: torch.device) -> None:
        """One arm on every backbone that it adapts."""
        kind = self.given.samples.kind
        if kind not in (("classes",) if isinstance(options, DirectOptions) else KINDS):
            self.notes.append(
                f"transfer.{name} is left out: {options.recipe} does not fit tasks of kind {kind}"
            )
            return
        for backbone in self._backbones_of(name, options):
            self._add_on(name, options, backbone, device)

    def _backbones_of(self, name: str, options: ArmOptions) -> list[str]:
        found = []
        for backbone, store in self.given.stores.items():
            role, modality = store.card.role, store.card.modality
            named = options.backbones is not None and backbone in options.backbones
            if not named and (options.backbones is not None or role != "transferred"):
                continue
            if modality != "image":
                self.notes.append(
                    f"transfer.{name} is left out on {backbone}: it reads {modality}, and arms adapt models of images"
                )
                continue
            found.append(backbone)
        if not found:
            self.notes.append(f"transfer.{name} is left out: the task has no backbone for it")
        return found

    def _add_on(self, name: str, options: ArmOptions, backbone: str, device: torch.device) -> None:
        opened = self._open(backbone)
        if isinstance(options, DirectOptions) and not opened.backbone.is_traced:
            self.notes.append(
                f"transfer.{name} is left out on {backbone}: only models of torchvision and glyphnet are opened with "
                "their classifiers"
            )
            return
        job = fits.Job(
            name,
            opened,
            Setting(self.given.samples, self._images_of(opened), self.select.by, device),
            self.given.root,
            self.paths.runs_dir,
            self.given.seed,
            self._told(f"{name}@{backbone}"),
        )
        if "all" in options.k_shot:
            self._full(job, options, device)
        for k in options.numeric_k_shot:
            draws = self._draws(name, options, k)
            if draws:
                self._few(job, options, device, k, draws)

    def _full(self, job: fits.Job, options: ArmOptions, device: torch.device) -> None:
        parts = self._keys.fit(job, options, device, ALL)
        if isinstance(options, DirectOptions):
            probabilities = self._source_of(job)
            parts["source"] = digest_of(probabilities)
            fitted = self._unit(
                job, parts, lambda folder, job: fits.fit_direct(folder, job, options, probabilities)
            )
            self._write(job, options, None, ALL, fitted)
            return
        assert isinstance(options, (FrozenOptions, TrainedOptions))
        start = self._starts.full(job.opened.name, options.tap, job.where)
        self._check(job, options, start)
        parts["start"] = [start_key(start)]

        def compute(folder: Path, job: fits.Job) -> None:
            if isinstance(options, TrainedOptions):
                fits.fit_trained(folder, job, options, start)
            else:
                fits.fit_frozen(folder, job, options, start)

        self._write(job, options, start, ALL, self._unit(job, parts, compute))

    def _few(
        self, job: fits.Job, options: ArmOptions, device: torch.device, k: int, draws: Sequence[Index]
    ) -> None:
        parts = {
            **self._keys.fit(job, options, device, k),
            "draws": [digest_of(np.asarray(one)) for one in draws],
        }
        if isinstance(options, DirectOptions):
            probabilities = self._source_of(job)
            parts["source"] = digest_of(probabilities)
            fitted = self._unit(
                job,
                parts,
                lambda folder, job: fits.fit_direct_few(folder, job, options, probabilities, draws),
            )
            self._write(job, options, None, k, fitted)
            return
        assert isinstance(options, (FrozenOptions, TrainedOptions))
        starts = [
            self._starts.few(job.opened.name, options.tap, k, draw, labelled, job.where)
            for draw, labelled in enumerate(draws)
        ]
        for start in starts:
            self._check(job, options, start)
        parts["start"] = [start_key(start) for start in starts]

        def compute(folder: Path, job: fits.Job) -> None:
            if isinstance(options, TrainedOptions):
                fits.fit_trained_few(folder, job, options, starts, draws, k)
            else:
                fits.fit_frozen_few(folder, job, starts)

        self._write(job, options, starts[0], k, self._unit(job, parts, compute))

    def _unit(
        self, job: fits.Job, parts: dict[str, Any], compute: Callable[[Path, fits.Job], None]
    ) -> fits.ArmFit | None:
        """What a fit left; in several processes all compute, and the first one keeps. None if it was not asked for."""
        entry = self.memo.place(parts)
        is_there = entry.is_dir() and fits.is_whole(entry)
        recalled = bool(agreed(float(is_there), job.setting.device))
        if not recalled and self.only not in (None, job.name):
            return None
        # an arm that was changed after a kill does not go on from what it was
        job = dataclasses.replace(job, runs_dir=job.runs_dir / entry.name)
        found = None
        if world().is_first:
            folder = self.memo.unit(parts, lambda folder: compute(folder, job))
            if not recalled:
                shutil.rmtree(job.runs_dir, ignore_errors=True)
            found = fits.load_fit(folder)
        elif not recalled:
            with tempfile.TemporaryDirectory() as scratch:
                compute(Path(scratch), job)
                found = fits.load_fit(Path(scratch))
        wait_for_all()  # where it was recalled too: all come here, or the next exchange meets this one
        return found

    def _write(
        self, job: fits.Job, options: ArmOptions, start: Start | None, k: int, fitted: fits.ArmFit | None
    ) -> None:
        """Row, predictions and cost of one arm at one number of labels."""
        if fitted is None or not world().is_first:
            return
        arm = job.arm
        self.rows.append(arm_row(job, options, start, k, fitted))
        if len(fitted.scores):
            samples = self.given.samples
            ids, splits = samples.sample_ids[samples.predicted], samples.splits[samples.predicted]
            self.scores.append(ArmScores(arm, k, ids, splits, fitted.scores))
        if k == ALL and fitted.about.get("has_model"):
            self.models[arm] = fitted.folder
            if (fitted.folder / fits.HISTORY).is_file():
                history = json.loads((fitted.folder / fits.HISTORY).read_text(encoding="utf-8"))
                self.histories[arm] = history
        self.costs.append(cost_row(arm, k, fitted.folder))

    def write_models(self) -> None:
        """Replace the folder of models by those of this run."""
        target = self.paths.models_dir
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for arm, folder in self.models.items():
            (scratch / arm_dir(arm)).mkdir(parents=True)
            for name in (fits.MODEL, fits.HISTORY):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, scratch / arm_dir(arm) / name)
            # what is kept goes by what it was computed from: another name then stands in its card
            card = json.loads((folder / fits.CARD).read_text(encoding="utf-8"))
            named = {**card, "task": self.given.samples.task, "arm": arm}
            write_bytes(scratch / arm_dir(arm) / fits.CARD, fits.card_bytes(named))
        write_index(scratch, self.models)
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)

    def _draws(self, name: str, options: ArmOptions, k: int) -> list[Index]:
        samples = self.given.samples
        if samples.kind != "classes":
            self.notes.append(
                f"transfer.{name}: {k} labels a class are left out, as tasks of kind {samples.kind} have no classes to "
                "draw by"
            )
            return []
        train = samples.train
        ids, codes = samples.sample_ids[train].tolist(), samples.truth[train]
        try:
            return [
                train[k_shot_indices(ids, codes, k, draw=draw, seed=self.given.seed, classes=samples.classes)]
                for draw in range(options.draws or self.compare.draws)
            ]
        except DataError as error:
            self.notes.append(f"transfer.{name} left out: {error}")
            return []

    def _check(self, job: fits.Job, options: FrozenOptions | TrainedOptions, start: Start) -> None:
        """Refuse where the live model does not compute what the head has learnt from."""
        if isinstance(options, TrainedOptions) and options.load == "none" and options.head == "new":
            return
        samples, opened = self.given.samples, job.opened
        places = samples.predicted[:MOST_SAMPLES]
        for part in start.unit.parts:
            if (opened.name, part.tap.name) in self._agreed:
                continue
            spec = opened.store.store.tap(part.tap.name).spec
            forward = opened.backbone.forward([spec])
            live = [
                forward(job.setting.images.pixels(places[at : at + 64]))[spec.name].numpy()
                for at in range(0, len(places), 64)
            ]
            cached = opened.store.read(part.tap.name, samples.keys[opened.store.card.modality][places])
            self._agreed[opened.name, part.tap.name] = check_agreement(
                np.concatenate(live), cached, opened.store.card, part.tap.name, job.where
            )

    def _open(self, backbone: str) -> OpenedBackbone:
        if backbone not in self._opened:
            self._opened[backbone] = self.given.open_backbone(backbone)
        return self._opened[backbone]

    def _images_of(self, opened: OpenedBackbone) -> Images:
        if opened.name not in self._images:
            manifest = self.given.manifest.of("image")
            locator_of = dict(zip(manifest.sample_ids.tolist(), manifest.locators.tolist(), strict=True))
            locators = [locator_of[one] for one in self.given.samples.sample_ids.tolist()]
            self._images[opened.name] = Images(
                opened.backbone, self.given.source, locators, self.given.memory_nbytes
            )
        return self._images[opened.name]

    def _source_of(self, job: fits.Job) -> fits.Float:
        key = job.opened.name, job.setting.device.type
        if key not in self._source:
            self._source[key] = fits.source_probabilities(job)
        return self._source[key]

    def _told(self, arm: str) -> Progress:
        def told(done: int, total: int, what: str, detail: str = "") -> None:
            if world().is_first:
                self.progress(done, total, what, detail or arm)

        return told


def _order(k_shot: int | str) -> float:
    return -1 if k_shot == "all" else float(k_shot)
