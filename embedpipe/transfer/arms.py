"""Fit one arm: on all labels, chosen by validation, or on the k labels a class of each draw alone.

Each function fills a folder of the memo; `load_fit` reads it back. Test images are predicted; test targets are never
seen here.
"""

# P predicted samples, K classes or labels (M numbers), R draws, Z source classes

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from embedpipe.errors import ConfigError, TrainingFailed
from embedpipe.evaluate.metrics import metric_of
from embedpipe.heads.module import head_module
from embedpipe.manifest.files import write_bytes
from embedpipe.progress import Progress, silent
from embedpipe.train.fit import best_of
from embedpipe.train.samples import Index
from embedpipe.training import Checkpoints, deterministic, interpolate, world
from embedpipe.training.averaging import State, copied
from embedpipe.transfer import direct
from embedpipe.transfer.images import outputs_of
from embedpipe.transfer.live import LiveModel
from embedpipe.transfer.network import Beginning, OpenedBackbone, build_network
from embedpipe.transfer.options import DirectOptions, FrozenOptions, TrainedOptions
from embedpipe.transfer.start import Start
from embedpipe.transfer.training import SCORE_BATCH, Setting, train_network

Float = npt.NDArray[np.float32]
RESULT, SCORES, MODEL, CARD, HISTORY = (
    "result.json",
    "scores.npy",
    "model.safetensors",
    "model.json",
    "history.json",
)


@dataclass(frozen=True)
class Job:
    """One arm on one backbone.

    Attributes
    ----------
    name : str
        Its name in params.yaml.
    opened : OpenedBackbone
    setting : Setting
    root, runs_dir : Path
        Folder of params.yaml; where the state of runs that are not done is kept.
    seed : int
        Of the run.
    """

    name: str
    opened: OpenedBackbone
    setting: Setting
    root: Path
    runs_dir: Path
    seed: int
    progress: Progress = silent

    @property
    def arm(self) -> str:
        """Its name in predictions: ``lp_ft@glyphnet``."""
        return f"{self.name}@{self.opened.name}"

    @property
    def where(self) -> str:
        """How the user finds the arm."""
        return f"task {self.setting.samples.task!r}, backbone {self.opened.name!r}: transfer.{self.name}"


@dataclass(frozen=True)
class ArmFit:
    """What a folder of the memo holds.

    Attributes
    ----------
    about : dict
        ``candidates`` and ``best`` at all labels, ``draws`` at k; ``said`` of the arm as a whole.
    scores : float32 [R, P, K]
    folder : Path
        Where the model and its history lie, where there are any.
    """

    about: dict[str, Any]
    scores: Float
    folder: Path


def load_fit(folder: Path) -> ArmFit:
    """Read back what a fit left."""
    about = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return ArmFit(about, np.load(folder / SCORES, allow_pickle=False), folder)


def is_whole(folder: Path) -> bool:
    """Whether a folder of the memo can be read back."""
    try:
        about = load_fit(folder).about
    except (OSError, ValueError, EOFError):
        return False
    return not about.get("has_model") or (folder / MODEL).is_file()


def fit_trained(folder: Path, job: Job, options: TrainedOptions, start: Start) -> None:
    """Train at every learning rate on all labels; validation chooses the rate, the epoch and the share of the way.

    A rate at which the loss is no longer finite is reported and never chosen, unless it is the only one.
    """
    samples = job.setting.samples
    seed = seed_of(job.seed, 0, 0)
    alphas = options.alphas or (None,)
    metric = metric_of(samples.kind, job.setting.by, samples.spec.box)
    candidates: list[dict[str, Any]] = []
    kept: list[tuple[State, Float]] = []
    said: dict[str, Any] = {}
    history = None
    model: LiveModel | None = None
    failures: list[TrainingFailed] = []
    for place, rate in enumerate(options.learning_rate):
        with deterministic(seed, options.threads) as generator:
            model, begun, told = _begun(job, options, start, samples.train, seed)
            said |= told
            try:
                ran = train_network(
                    model,
                    job.setting,
                    samples.train,
                    options,
                    rate,
                    generator,
                    input_shape=job.opened.backbone.input_shape,
                    by_validation=True,
                    checkpoints=Checkpoints(job.runs_dir / str(place)),
                    where=job.where,
                    progress=job.progress,
                )
            except TrainingFailed as error:
                failures.append(error)
                failed = {"val": {metric: None}, "converged": False, "failure": str(error)}
                candidates.append({"params": {"learning_rate": rate}, **failed})
                continue
            trained = copied(model)
            for alpha in alphas:
                state = trained if alpha is None else interpolate(begun, trained, alpha)
                model.load_state_dict(state)
                shown = job.setting.say(model, samples.val)
                params = {"learning_rate": rate, **({} if alpha is None else {"alpha": alpha})}
                found = _finite(job.setting.judge(shown, samples.val))
                about = {"params": params, "val": found, "converged": True, "epoch": ran.best_epoch}
                candidates.append({**about, "num_epochs": len(ran.losses)})
                best = best_of([one["val"] for one in candidates], metric)
                if best == len(candidates) - 1:
                    kept[:] = [(state, job.setting.say(model, samples.predicted))]
                    history = ran
    if len(failures) == len(options.learning_rate):
        raise failures[0]
    best = best_of([one["val"] for one in candidates], metric)
    if best is None or model is None or history is None:
        _keep(folder, {"candidates": candidates, "best": None, "said": said}, np.zeros((0, 0, 0), np.float32))
        return
    state, scores_PK = kept[0]
    model.load_state_dict(state)
    save_model(folder, model, job, start, options)
    write_bytes(folder / HISTORY, json.dumps(history.to_dict()).encode())
    _keep(folder, {"candidates": candidates, "best": best, "said": said, "has_model": True}, scores_PK[None])


def fit_trained_few(
    folder: Path,
    job: Job,
    options: TrainedOptions,
    starts: Sequence[Start],
    draws: Sequence[Index],
    k_shot: int,
) -> None:
    """Train on the labels of each draw, at the first rate, for a fixed number of epochs: nothing chooses."""
    rate = options.learning_rate[0]
    alpha = None if options.alphas is None else options.alphas[len(options.alphas) // 2]
    about: list[dict[str, Any]] = []
    scores = []
    for draw, (labelled, start) in enumerate(zip(draws, starts, strict=True)):
        seed = seed_of(job.seed, k_shot, draw)
        with deterministic(seed, options.threads) as generator:
            model, begun, _ = _begun(job, options, start, labelled, seed)
            train_network(
                model,
                job.setting,
                labelled,
                options,
                rate,
                generator,
                input_shape=job.opened.backbone.input_shape,
                by_validation=False,
                checkpoints=Checkpoints(job.runs_dir / f"{k_shot}.{draw}"),
                where=f"{job.where}, draw {draw} of {k_shot} labels a class",
                progress=job.progress,
            )
            if alpha is not None:
                model.load_state_dict(interpolate(begun, copied(model), alpha))
            scores.append(job.setting.say(model, job.setting.samples.predicted))
        params = {"learning_rate": rate, **({} if alpha is None else {"alpha": alpha})}
        about.append({"params": params, "inner": None, "converged": True, "tap": start.unit.tap.name})
    _keep(folder, {"draws": about}, np.stack(scores))


def fit_frozen(folder: Path, job: Job, options: FrozenOptions, start: Start) -> None:
    """The selected head on the live model, on all labels."""
    samples = job.setting.samples
    with deterministic(job.seed):
        model = _frozen_model(job, start)
        shown = job.setting.say(model, samples.val)
        scores_PK = job.setting.say(model, samples.predicted)
    found = _finite(job.setting.judge(shown, samples.val))
    save_model(folder, model, job, start, options)
    candidate = {"params": {}, "val": found, "converged": True}
    about = {"candidates": [candidate], "best": 0, "said": {"start": start.unit.arm}, "has_model": True}
    _keep(folder, about, scores_PK[None])


def fit_frozen_few(folder: Path, job: Job, starts: Sequence[Start]) -> None:
    """The head of each draw on the live model."""
    about: list[dict[str, Any]] = []
    scores = []
    for start in starts:
        with deterministic(job.seed):
            scores.append(job.setting.say(_frozen_model(job, start), job.setting.samples.predicted))
        about.append({"params": {}, "inner": None, "converged": True, "tap": start.unit.tap.name})
    _keep(folder, {"draws": about}, np.stack(scores))


def fit_direct(folder: Path, job: Job, options: DirectOptions, source_nZ: Float) -> None:
    """The source classifier with every kind of map; validation chooses among them."""
    samples = job.setting.samples
    maps = _maps(job, options, source_nZ, samples.train)
    num_classes = len(samples.classes)
    candidates: list[dict[str, Any]] = []
    for params, assigned_ZK in maps:
        shown = direct.mapped(source_nZ[samples.val].astype(np.float64), assigned_ZK).astype(np.float32)
        found = _finite(job.setting.judge(shown, samples.val))
        candidates.append({"params": params, "val": found, "converged": True})
    best = best_of(
        [one["val"] for one in candidates], metric_of(samples.kind, job.setting.by, samples.spec.box)
    )
    assigned_ZK = maps[best or 0][1]
    scores_PK = direct.mapped(source_nZ[samples.predicted].astype(np.float64), assigned_ZK)
    codes = samples.truth[samples.train]
    leep = direct.leep(source_nZ[samples.train].astype(np.float64), codes, num_classes)
    said = {"leep": round(leep, 6), "map": _shown_map(job, assigned_ZK)}
    about = {"candidates": candidates, "best": best, "said": said}
    _keep(folder, about, scores_PK[None].astype(np.float32))


def fit_direct_few(
    folder: Path, job: Job, options: DirectOptions, source_nZ: Float, draws: Sequence[Index]
) -> None:
    """The map estimated from the labels of each draw alone, in the first way."""
    samples = job.setting.samples
    about: list[dict[str, Any]] = []
    scores = []
    for labelled in draws:
        params, assigned_ZK = _maps(job, options, source_nZ, labelled)[0]
        scores.append(direct.mapped(source_nZ[samples.predicted].astype(np.float64), assigned_ZK))
        leep = direct.leep(
            source_nZ[labelled].astype(np.float64), samples.truth[labelled], len(samples.classes)
        )
        about.append({"params": params, "inner": None, "converged": True, "leep": round(leep, 6)})
    _keep(folder, {"draws": about}, np.stack(scores).astype(np.float32))


def source_probabilities(job: Job) -> Float:
    """What the source classifier says of every sample of the task, float32 [n, Z].

    Raises
    ------
    ConfigError
        If the backbone has no classifier, or its weights do not hold one.
    """
    backbone = job.opened.backbone
    if backbone.unloaded:
        raise ConfigError(
            f"{job.where}: the weights of {backbone.name!r} hold no classifier ({', '.join(sorted(backbone.unloaded))} "
            "do not fit), so there is nothing to transfer directly; give weights with one, or drop the arm"
        )

    device = job.setting.device
    module = backbone.module if device.type == "cpu" else copy.deepcopy(backbone.module).to(device)

    def say(pixels: torch.Tensor) -> torch.Tensor:
        outputs = module(backbone.normalise(pixels))
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
            raise ConfigError(
                f"{job.where}: {backbone.name!r} ends in no classifier: expected outputs (samples, classes), found "
                f"{tuple(getattr(outputs, 'shape', ())) or type(outputs).__name__}; drop the arm or name other "
                "backbones"
            )
        probabilities: torch.Tensor = outputs.softmax(dim=1)
        return probabilities

    every = np.arange(len(job.setting.samples.sample_ids))
    with deterministic(job.seed):
        found: Float = outputs_of(say, job.setting.images, every, device, SCORE_BATCH, job.progress).numpy()
    return found


def save_model(
    folder: Path, model: LiveModel, job: Job, start: Start, options: TrainedOptions | FrozenOptions
) -> None:
    """Write the network: tensors, and a card from which `embedpipe.transfer.saved` builds it again."""
    if not world().is_first:
        return
    state = {name: value.cpu().contiguous() for name, value in sorted(model.state_dict().items())}
    write_bytes(folder / MODEL, safetensors.torch.save(state))
    samples = job.setting.samples
    card = {
        "format_version": 1,
        "task": samples.task,
        "arm": job.arm,
        "recipe": options.recipe,
        **samples.spec.to_dict(),
        "backbone": job.opened.name,
        "architecture": job.opened.backbone.architecture,
        "preprocessing": job.opened.backbone.preprocessing,
        "taps": [part.tap.name for part in start.unit.parts],
        "row_shape": None if model.row_shape is None else list(model.row_shape),
        "head": model.head.describe(),
        "num_train": len(samples.train),
    }
    write_bytes(folder / CARD, card_bytes(card))


def card_bytes(card: Mapping[str, Any]) -> bytes:
    """The card of a trained arm as its file holds it."""
    return (json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def seed_of(seed: int, k_shot: int, draw: int) -> int:
    """Seed of one network: that of every arm at the same labels, so that arms differ in nothing else."""
    return int(np.random.SeedSequence([seed, 3, k_shot, draw]).generate_state(1)[0] % 10**9)


def _begun(
    job: Job, options: TrainedOptions, start: Start, labelled: Index, seed: int
) -> tuple[LiveModel, State, dict[str, Any]]:
    """A network before its first step, on the device; its state; and what is to be said of it."""
    samples = job.setting.samples
    beginning = Beginning(samples.spec, samples.truth[labelled], job.root, seed, job.where)
    model, report = build_network(job.opened, start, options, beginning)
    model.to(job.setting.device).eval()
    said: dict[str, Any] = {}
    if options.head == "selected":
        said["start"] = start.unit.arm
    if report is not None:
        said["load"] = report.to_dict()
        said["loaded"] = str(report)
    return model, copied(model), said


def _frozen_model(job: Job, start: Start) -> LiveModel:
    specs = [job.opened.store.store.tap(part.tap.name).spec for part in start.unit.parts]
    model = LiveModel(job.opened.backbone, specs, head_module(start.head), start.unit.row_shape)
    return model.to(job.setting.device).eval()


def _maps(
    job: Job, options: DirectOptions, source_nZ: Float, labelled: Index
) -> list[tuple[dict[str, Any], npt.NDArray[np.float64]]]:
    samples = job.setting.samples
    if options.map is not None:
        names = job.opened.source_classes or tuple(map(str, range(source_nZ.shape[1])))
        return [({"map": "given"}, direct.given_map(options.map, names, samples.classes, job.where))]
    estimators = {"eep": direct.expected_conditional, "hard": direct.hard_assignment}
    known_NZ = source_nZ[labelled].astype(np.float64)
    return [
        ({"map": name}, estimators[name](known_NZ, samples.truth[labelled], len(samples.classes)))
        for name in options.estimate
    ]


def _shown_map(job: Job, assigned_ZK: npt.NDArray[np.float64]) -> dict[str, str]:
    """The label that each source class stands for most, by name; at most 100."""
    names = job.opened.source_classes or tuple(map(str, range(len(assigned_ZK))))
    classes = job.setting.samples.classes
    shown = {
        name: classes[int(row.argmax())] for name, row in zip(names, assigned_ZK, strict=True) if row.any()
    }
    return dict(list(shown.items())[:100])


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in metrics.items()}


def _keep(folder: Path, about: dict[str, Any], scores: Float) -> None:
    (folder / RESULT).write_text(json.dumps(about, sort_keys=True, allow_nan=False), encoding="utf-8")
    np.save(folder / SCORES, scores, allow_pickle=False)
