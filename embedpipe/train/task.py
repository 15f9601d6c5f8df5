"""Train all heads of one task: `data/heads/<T>`, `data/predictions/<T>.parquet`, `data/scores/<T>.json`, and
what it cost, `data/cost/<T>.json`.

Reads published stores, a manifest and the open targets. The targets of test samples lie in a file that
nothing here names.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from embedpipe.errors import DataError
from embedpipe.evaluate.arms import ALL, MAJORITY, SHUFFLED, arm_dir
from embedpipe.evaluate.candidates import MOST_NBYTES, Candidates
from embedpipe.evaluate.files import write_json
from embedpipe.evaluate.metrics import metric_of
from embedpipe.evaluate.options import CompareOptions, SelectOptions, check_k_shot_heads
from embedpipe.evaluate.predictions import Predictions
from embedpipe.features.table import PublishedFeatures, open_features
from embedpipe.heads.options import HeadOptions
from embedpipe.heads.registry import takes_weights
from embedpipe.heads.rows import MEMORY_NBYTES, ArrayRows, Rows
from embedpipe.heads.stored import KeptRows
from embedpipe.manifest.kshot import k_shot_indices
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets
from embedpipe.progress import Progress, silent
from embedpipe.spec import digest
from embedpipe.train import fit
from embedpipe.train.cost import cost_row
from embedpipe.train.fitting import fitting_backbones, present_in
from embedpipe.train.keys import Keys, code_of_training
from embedpipe.train.memo import Memo
from embedpipe.train.places import seen_by_all
from embedpipe.train.plan import Part, Unit, learnable_units, plan_units
from embedpipe.train.reading import read_parts, seen_by
from embedpipe.train.rows import Results, Written, add_baseline, add_few, add_full, best_unit
from embedpipe.train.samples import Index, TaskSamples, task_samples
from embedpipe.train.screening import place_of, screen_memo, screen_tap

SMALL = 20_000_000
"""Entries of a feature matrix below which one thread fits fastest: 10,000 samples of 2,000 columns."""


@dataclass(frozen=True)
class TrainSummary:
    """What `train_task` did."""

    task: str
    num_arms: int
    num_fitted: int
    num_recalled: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TrainPaths:
    """Where the results of one task go.

    Attributes
    ----------
    heads_dir : Path
        `<head>@<backbone>/<tap>/` below it holds the saved head of that arm at k_shot all, and `arm.json`.
    predictions, scores : Path
    candidates : Path
        What every candidate says of the labelled validation samples.
    cost : Path
        Apart from the scores, since seconds differ from run to run.
    memo_dir : Path
        Finished units, in the working folder.
    moments_dir : Path, optional
        Moments of features that do not fit memory; kept nowhere by default.
    """

    heads_dir: Path
    predictions: Path
    scores: Path
    candidates: Path
    cost: Path
    memo_dir: Path
    moments_dir: Path | None = None


def train_task(
    task: str,
    *,
    heads: Mapping[str, HeadOptions],
    features: Mapping[str, Path],
    manifest: Manifest,
    targets_path: Path,
    paths: TrainPaths,
    baselines: Sequence[str] = (),
    select: SelectOptions | None = None,
    compare: CompareOptions | None = None,
    task_heads: Sequence[str] | None = None,
    task_backbones: Sequence[str] | None = None,
    seed: int = 0,
    memory_nbytes: int = MEMORY_NBYTES,
    progress: Progress = silent,
) -> TrainSummary:
    """Fit every head on every tap at every k_shot, and write heads, predictions and scores.

    Parameters
    ----------
    heads
        Options by name, in the order of params.yaml.
    features
        Published store of each backbone by name, in the order of params.yaml.
    targets_path
        `data/targets/<T>.parquet`: the open targets.
    task_heads, task_backbones
        What the task restricts itself to; None allows all.
    seed
        Of the run: decides draws, shuffles and whatever is random in a head.
    memory_nbytes
        A tap up to this many bytes, as float32, is read into memory once; a larger one is read by blocks, and
        only by families that stream. Heads are the same either way.

    Raises
    ------
    ConfigError
        If a name is unknown, or no head is left on any tap.
    DataError
        If there is nothing to train on or to choose by, or a class has no training sample.
    SpecMismatch
        If a store is of another spec than its card.
    """
    select, compare = select or SelectOptions(), compare or CompareOptions()
    targets = Targets.read(targets_path)
    stores = {name: open_features(path) for name, path in features.items()}
    fitting, left_out = fitting_backbones(task, manifest, stores, task_backbones)
    units, notes = plan_units(
        task,
        targets.kind,
        heads,
        {name: store.card for name, store in stores.items()},
        task_heads=task_heads,
        task_backbones=fitting if task_backbones is None else task_backbones,
    )
    notes = left_out + notes
    used = {part.backbone: stores[part.backbone] for unit in units for part in unit.parts}
    seen = seen_by_all({name: store.card for name, store in used.items()}) if targets.kind == "dense" else 1.0
    samples = task_samples(manifest, targets, present_in(manifest, used), seen=seen)
    notes += [str(one) for one in samples.dropped]
    if samples.kind == "dense":
        units, more = learnable_units(units, samples)
        notes += more
        if seen < 1:
            notes.append(
                f"judged on the square in the middle of each image of {seen:.1%} of its shorter side, which every "
                "backbone sees"
            )

    notes += _unweighted(units, samples)
    draws, more = _draws_of(samples, compare, seed)
    notes += more
    named = check_k_shot_heads(compare.heads, list(heads))
    k_shot_units, more = _k_shot_units(units, named, given=compare.heads is not None)
    notes += more if draws else []
    run = _Run(
        samples,
        used,
        Memo(paths.memo_dir, code_of_training(), fit.is_whole),
        screen_memo(paths.memo_dir),
        Keys(samples, select.by, seed, select.on),
        fit.How(select.by, seed, memory_nbytes, select.on),
        paths.moments_dir,
    )
    run.memo.sweep()
    results = run.fit_units(units, k_shot_units, draws, progress)

    metric = metric_of(samples.kind, select.by, samples.spec.box)
    written = Written(samples, notes=notes)
    add_full(written, results)
    run.add_baselines(written, results, baselines, metric, num_shuffles=compare.draws)
    add_few(written, results, metric)
    _write_heads(results, samples, paths.heads_dir)
    Predictions.of(task, samples.spec, written.arms).write(paths.predictions)
    about = {
        "task": task,
        **samples.spec.to_dict(),
        "metric": metric,
        **({} if select.on == "val" else {"on": select.on}),
        "seed": seed,
        "num": dict(samples.num),
        "num_candidates": sum(len(unit.candidates) for unit in units),
        "arms": written.rows,
        "screen": run.screens,
        "notes": written.notes,
    }
    write_json(paths.scores, about)
    Candidates(samples.sample_ids[samples.val], _shown(results)).write(paths.candidates)
    write_json(paths.cost, {"task": task, "arms": run.costs})
    run.memo.keep(f"fits.{task}")
    run.screen_memo.keep(f"screens.{task}")
    return TrainSummary(
        task, len(written.arms), run.memo.num_computed, run.memo.num_recalled, tuple(written.notes)
    )


def _unweighted(units: Sequence[Unit], samples: TaskSamples) -> list[str]:
    """A note on heads that learn from all samples alike, though these have weights."""
    if samples.weight is None:
        return []
    heads = {unit.head for unit in units if not takes_weights(unit.family, samples.kind)}
    named = ", ".join(dict.fromkeys(unit.head for unit in units if unit.head in heads))
    return [f"take no sample weights, so all samples count alike in them: {named}"] if heads else []


def _shown(results: Results) -> dict[str, fit.Float]:
    """What every candidate says of validation samples; nothing where it is too much to keep for all of them."""
    paths = {arm: fitted.shown for arm, fitted in results.full.items()}
    there = {arm: path for arm, path in paths.items() if path is not None}
    if len(there) < len(paths) or sum(path.stat().st_size for path in there.values()) > MOST_NBYTES:
        return {}
    return {arm: np.load(path, allow_pickle=False) for arm, path in there.items()}


def _k_shot_units(
    units: Sequence[Unit], names: Sequence[str], *, given: bool
) -> tuple[list[Unit], list[str]]:
    """Units that train at numeric k_shot too; the task's first head where it has none of those named.

    Returns
    -------
    units, and notes on heads that `compare.heads` gives and the task lacks.
    """
    chosen = [unit for unit in units if unit.head in names]
    have = {unit.head for unit in units}
    lacking = [name for name in names if name not in have]
    if not chosen:
        chosen = [unit for unit in units if unit.head == units[0].head]
    if not lacking or not given:
        return chosen, []
    instead = ", ".join(dict.fromkeys(unit.head for unit in chosen))
    return chosen, [
        f"compare.heads: {', '.join(lacking)} left out at each k_shot, as this task does not train "
        f"{'it' if len(lacking) == 1 else 'them'}; there it trains {instead}"
    ]


_HAS = {"number": "numbers", "multilabel": "several labels a sample", "dense": "a class at each place"}


def _draws_of(
    samples: TaskSamples, compare: CompareOptions, seed: int
) -> tuple[dict[int, list[Index]], list[str]]:
    """Labelled samples of each draw at each numeric k_shot, as positions among the task's samples.

    A k_shot that some class cannot give is left out, and a note says so.
    """
    if not compare.numeric_k_shot:
        return {}, []
    if samples.kind != "classes":
        return {}, [
            f"k_shot counts labels a class, and {samples.task!r} has {_HAS[samples.kind]}: trained on all labels alone"
        ]
    train = samples.train
    ids, codes = samples.sample_ids[train].tolist(), samples.truth[train]
    draws: dict[int, list[Index]] = {}
    notes = []
    for k in compare.numeric_k_shot:
        try:
            draws[k] = [
                train[k_shot_indices(ids, codes, k, draw=draw, seed=seed, classes=samples.classes)]
                for draw in range(compare.draws)
            ]
        except DataError as error:
            notes.append(f"left out: {error}")
    return draws, notes


@dataclass(frozen=True)
class _Run:
    """What every fit of one task shares."""

    samples: TaskSamples
    stores: Mapping[str, PublishedFeatures]
    memo: Memo
    screen_memo: Memo
    keys: Keys
    how: fit.How
    moments_dir: Path | None
    screens: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)

    def fit_units(
        self,
        units: Sequence[Unit],
        k_shot_units: Sequence[Unit],
        draws: Mapping[int, list[Index]],
        progress: Progress,
    ) -> Results:
        """Read each tap once and fit all that is wanted on it."""
        results = Results({unit.arm: unit for unit in units})
        few = {unit.arm for unit in k_shot_units}
        total = len(units) + len(draws) * len(few)
        done = 0
        screened: set[Part] = set()
        for parts, group in groupby(units, key=lambda unit: unit.parts):
            rows = self._rows(parts)
            of_features = self.keys.features(rows)
            # screens look at vectors, one a sample
            if len(parts) == 1 and parts[0] not in screened and self.samples.kind != "dense":
                self._screen(parts[0], rows, of_features)
                screened.add(parts[0])
            with _threads_for(rows):
                for unit in group:
                    results.full[unit.arm] = self._full(unit, rows, of_features)
                    progress(done := done + 1, total, "fits")
                    for k, of_k in draws.items() if unit.arm in few else ():
                        results.few[unit.arm, k] = self._few(unit, rows, of_features, k, of_k)
                        progress(done := done + 1, total, "fits")
        return results

    def add_baselines(
        self, written: Written, results: Results, baselines: Sequence[str], metric: str, *, num_shuffles: int
    ) -> None:
        """Arms that know no features, or no labels."""
        if MAJORITY in baselines:
            add_baseline(written, MAJORITY, fit.majority_scores(self.samples)[None], {}, "knows no features")
        if SHUFFLED in baselines:
            best = best_unit(results, metric, list(results.full))
            if best is None:
                written.notes.append(f"{SHUFFLED} is left out: no arm has a finite score on validation")
                return
            unit, fitted = results.units[best], results.full[best]
            params = fitted.candidates[fitted.best or 0]["params"]
            rows = self._rows(unit.parts, keep=False)
            with _threads_for(rows):
                entry = self.memo.unit(
                    self.keys.shuffled(unit, self.keys.features(rows), params, num_shuffles),
                    lambda folder: fit.fit_shuffled(
                        folder,
                        unit,
                        params,
                        seen_by(unit, rows),
                        self.samples,
                        self.how,
                        num_shuffles=num_shuffles,
                    ),
                )
            note = f"{best} on shuffled training labels"
            add_baseline(written, SHUFFLED, fit.load_scores(entry), params, note)

    def _full(self, unit: Unit, rows: Rows, of_features: str) -> fit.FullFit:
        entry = self.memo.unit(
            self.keys.full(unit, of_features),
            lambda folder: fit.fit_full(folder, unit, seen_by(unit, rows), self.samples, self.how),
        )
        fitted = fit.load_full(entry)
        self._note_cost(unit, ALL, entry, None if fitted.best is None else fitted.head_dir)
        return fitted

    def _few(self, unit: Unit, rows: Rows, of_features: str, k: int, draws: list[Index]) -> fit.FewFit:
        entry = self.memo.unit(
            self.keys.few(unit, of_features, k, len(draws)),
            lambda folder: fit.fit_few(folder, unit, seen_by(unit, rows), self.samples, draws, self.how),
        )
        self._note_cost(unit, k, entry)
        return fit.load_few(entry)

    def _screen(self, part: Part, rows: Rows, of_features: str) -> None:
        """What training samples say of the tap, before any head is trained on it."""
        found = screen_tap(
            self.screen_memo,
            self.keys,
            self.samples,
            rows,
            by=self.how.by,
            seed=self.how.seed,
            of_features=of_features,
        )
        self.screens.append({**place_of(part.backbone, part.role, part.tap), **found})

    def _note_cost(self, unit: Unit, k_shot: int, entry: Path, head_dir: Path | None = None) -> None:
        row_nbytes = sum(self.stores[part.backbone].row_nbytes(part.tap.name) for part in unit.parts)
        num_rows = len(self.samples.sample_ids)
        self.costs.append(cost_row(unit.arm, k_shot, entry, row_nbytes, num_rows, head_dir))

    def _rows(self, parts: tuple[Part, ...], *, keep: bool = True) -> Rows:
        """Features of the task's samples, shared by all heads; moments of shuffled labels are not worth keeping."""
        rows = read_parts(self.stores, parts, self.samples.keys, self.how.memory_nbytes)
        modalities = {self.stores[part.backbone].card.modality for part in parts}
        if not keep or self.moments_dir is None or isinstance(rows, ArrayRows) or len(rows.shape) > 2:
            return rows
        if len(modalities) > 1:  # moments are kept by the key of a sample, and this one has several
            return rows
        origin = digest([[self.stores[part.backbone].card.spec.fingerprint, part.tap.name] for part in parts])
        return KeptRows.of(rows, self.samples.keys[modalities.pop()], self.moments_dir / origin)


def _threads_for(rows: Rows) -> AbstractContextManager[object]:
    """One thread for small matrices: there threads wait for each other longer than they work."""
    limits: AbstractContextManager[object] = threadpool_limits(
        limits=1 if math.prod(rows.shape) < SMALL else None
    )
    return limits


def _write_heads(results: Results, samples: TaskSamples, heads_dir: Path) -> None:
    """Replace `heads_dir` by the heads of this run, each with a card of what it was trained on."""
    scratch = heads_dir.with_name(f".{heads_dir.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for arm, fitted in results.full.items():
        if fitted.best is None:
            continue
        unit, folder = results.units[arm], scratch / arm_dir(arm)
        shutil.copytree(fitted.head_dir, folder)
        card = {
            "task": samples.task,
            **samples.spec.to_dict(),
            "arm": arm,
            "family": unit.family,
            "params": fitted.candidates[fitted.best]["params"],
            "backbone": unit.backbone,
            "tap": unit.tap.name,
            **({"parts": [part.to_dict() for part in unit.parts]} if unit.is_joined else {}),
            "num_train": int(samples.num["train"]),
        }
        write_json(folder / "arm.json", card)
    shutil.rmtree(heads_dir, ignore_errors=True)
    scratch.rename(heads_dir)
