"""Fit one head on one tap and predict: on all labels chosen by validation, or on k labels a class alone.

Each function fills a folder of the memo and reads it back; `load_*` and what was computed are one value.
"""

# n samples of the task, P predicted ones, K scores a sample, R draws

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from embedpipe.errors import DataError, EmbedpipeError
from embedpipe.evaluate.candidates import MOST_NBYTES
from embedpipe.evaluate.metrics import metric_of, point_metrics, sign_of
from embedpipe.heads import registry
from embedpipe.heads.base import group_codes
from embedpipe.heads.held_out import folds_of_rows
from embedpipe.heads.registry import takes_weights
from embedpipe.heads.rows import MEMORY_NBYTES, Rows, flat
from embedpipe.train.places import judged_codes
from embedpipe.train.plan import Unit
from embedpipe.train.samples import Index, TaskSamples

Float = npt.NDArray[np.float32]
MOST_FOLDS = 5
"""Folds where a class has few labels: each fold holds one or two of them."""
FEWER_FOLDS = 3
"""Folds where it has more than ten: what is left to train on no longer depends much on it."""


@dataclass(frozen=True)
class How:
    """What every fit of a task shares: the metric that chooses, the seed, the memory that rows may take, and on what
    is chosen: ``val``, or ``folds`` of the training samples.
    """

    by: str
    seed: int
    memory_nbytes: int = MEMORY_NBYTES
    on: str = "val"


SHOWN = "shown.npy"
"""What candidates say of validation samples."""


@dataclass(frozen=True)
class FullFit:
    """One head on one tap, trained on every labelled training sample.

    Attributes
    ----------
    candidates : list of dict
        `params`, `val` metrics and `converged` of each, in the order of the grid; `inner` metrics where folds of
        the training samples choose; `failure` where the fit cannot be used, and `layers` where it weighs taps.
    best : int or None
        The one that is best on what chooses; None where none has a finite score.
    scores : float32 [P, K]
        What the best predicts.
    head_dir : Path
        Where the best is saved.
    shown : Path or None
        What each candidate says of the labelled validation samples, float32 [C, N, K]; None where that is too
        much to keep.
    """

    candidates: list[dict[str, Any]]
    best: int | None
    scores: Float
    head_dir: Path
    shown: Path | None = None


@dataclass(frozen=True)
class FewFit:
    """One head on one tap, trained on k labels a class, for each draw.

    Attributes
    ----------
    draws : list of dict
        `params`, and `inner`: metrics on held-out folds of those labels, or None at k = 1.
    scores : float32 [R, P, K]
    """

    draws: list[dict[str, Any]]
    scores: Float


def fit_full(folder: Path, unit: Unit, rows: Rows, samples: TaskSamples, how: How) -> None:
    """Fit the grid on train, score every candidate on validation, keep the best one.

    Where folds of the training samples choose, no fit sees validation, not even to stop early.
    """
    train, val = samples.train, samples.val
    rows_val, y_val, wanted = rows.take(val), samples.truth[val], _wanted(unit, samples)
    seen: dict[str, Any] = {"rows_val": rows_val, "y_val": wanted[val]} if how.on == "val" else {}
    heads = _fit(unit, unit.candidates, rows, train, samples, how, **seen)
    candidates: list[dict[str, Any]] = []
    outputs = _outputs(heads, rows_val, samples, unit)
    outputs[[head.failure_ is not None for head in heads]] = np.nan  # which no selection takes
    for params, head, found in zip(unit.candidates, heads, outputs, strict=True):
        metrics = point_metrics(samples.kind, y_val, found, samples.spec.box)
        candidates.append({"params": params, "val": _finite(metrics), **_said_by(head)})
    metric = metric_of(samples.kind, how.by, samples.spec.box)
    by = [candidate["val"] for candidate in candidates]
    if how.on == "folds":
        folds = training_folds(samples, how.seed)
        by = _held_out_metrics(unit, unit.candidates, rows, samples, train, folds, how)
        for candidate, head, inner in zip(candidates, heads, by, strict=True):
            candidate["inner"] = inner if head.failure_ is None else dict.fromkeys(inner)
        by = [candidate["inner"] for candidate in candidates]
    best = best_of(by, metric)
    if best is None:
        scores_PK = np.zeros((0, samples.spec.width), np.float32)
    else:
        scores_PK = _outputs([heads[best]], rows.take(samples.predicted), samples, unit)[0]
        registry.save_head(heads[best], folder / "head")
    if outputs.nbytes <= MOST_NBYTES:
        np.save(folder / SHOWN, outputs, allow_pickle=False)
    _keep(folder, {"candidates": candidates, "best": best}, scores_PK)


def load_full(folder: Path) -> FullFit:
    about, scores = _recall(folder)
    shown = folder / SHOWN
    return FullFit(
        about["candidates"], about["best"], scores, folder / "head", shown if shown.is_file() else None
    )


def fit_few(
    folder: Path, unit: Unit, rows: Rows, samples: TaskSamples, draws: Sequence[Index], how: How
) -> None:
    """Fit on the labels of each draw; hyperparameters are chosen with those labels alone.

    With two labels a class or more, stratified folds of them choose (see `folds_of`); with one, nothing can
    be held out and the first candidate is taken.
    """
    metric = metric_of(samples.kind, how.by)
    about: list[dict[str, Any]] = []
    heads = []
    for labelled in draws:
        inner = _inner_metrics(unit, rows, samples, labelled, how)
        best = best_of(inner, metric) if inner else 0
        params = unit.few_shot[best or 0]
        heads += _fit(unit, [params], rows, labelled, samples, how)
        about.append(
            {
                "params": params,
                "inner": inner[best] if inner and best is not None else None,
                **_said_by(heads[-1]),
            }
        )
    _keep(folder, {"draws": about}, _outputs(heads, rows.take(samples.predicted), samples, unit))


def load_few(folder: Path) -> FewFit:
    about, scores = _recall(folder)
    return FewFit(about["draws"], scores)


def fit_shuffled(
    folder: Path,
    unit: Unit,
    params: Mapping[str, Any],
    rows: Rows,
    samples: TaskSamples,
    how: How,
    *,
    num_shuffles: int,
) -> None:
    """Fit one candidate on shuffled training labels: what the arm reaches when there is nothing to learn.

    Several shuffles, since one alone strays far from chance where samples form a few clusters, each of
    which takes the label that the shuffle happens to give it most.
    """
    heads = []
    wanted = _wanted(unit, samples)[samples.train]
    for shuffle in range(num_shuffles):
        shuffled = np.random.default_rng([how.seed, 2, shuffle]).permutation(wanted)
        heads += _fit(unit, [dict(params)], rows, samples.train, samples, how, y=shuffled)
    _keep(folder, {"params": dict(params)}, _outputs(heads, rows.take(samples.predicted), samples, unit))


def load_scores(folder: Path) -> Float:
    return _recall(folder)[1]


def majority_scores(samples: TaskSamples) -> Float:
    """For every sample the frequencies of the training classes or labels, the mean of the training numbers, or the
    class of most training places.
    """
    truth, weight = samples.truth[samples.train], samples.weight_at(samples.train)
    if samples.kind == "classes":
        row = np.bincount(truth, weight, minlength=len(samples.classes))
        row = row / row.sum()
    elif samples.kind == "dense":
        known = truth >= 0
        mass = (
            None
            if weight is None
            else np.broadcast_to(weight.reshape(-1, *[1] * (truth.ndim - 1)), truth.shape)[known]
        )
        row = np.full(samples.spec.width, np.bincount(truth[known], mass).argmax())
    elif samples.kind == "multilabel":
        mass = ~np.isnan(truth) * (1.0 if weight is None else weight[:, None])
        row = (np.nan_to_num(truth) * mass).sum(axis=0) / mass.sum(axis=0)
    else:
        row = np.atleast_1d(np.average(truth, axis=0, weights=weight))
    return np.tile(row.astype(np.float32), (len(samples.predicted), 1))


def best_of(metrics: Sequence[Mapping[str, float | None]], metric: str) -> int | None:
    """Place of the best, None where no score is finite.

    Equal scores, which are common on few samples, are decided by log loss where there is one, and then
    by the order given.
    """

    def rank(place: int) -> tuple[float, float, int]:
        score = metrics[place][metric]
        assert score is not None
        loss = metrics[place].get("nll")
        return -sign_of(metric) * score, float("inf") if loss is None else loss, place

    finite = [place for place, one in enumerate(metrics) if one[metric] is not None]
    return min(finite, key=rank) if finite else None


def folds_of(
    codes: npt.NDArray[np.int64], k_shot: int, groups: Sequence[str] | npt.NDArray[np.str_] | None = None
) -> list[Index]:
    """Stratified folds of k labels a class: positions held out in each; none where k is 1.

    As many folds as labels a class, at most five; three above ten labels a class. Samples of one group are held
    out together; with fewer groups a class there are fewer folds, none where a class has one group alone.
    """
    num_folds = FEWER_FOLDS if k_shot > 10 else min(k_shot, MOST_FOLDS)
    if groups is not None and len(set(groups)) < len(codes):
        return _group_folds(codes, np.asarray(groups), num_folds)
    if num_folds < 2:
        return []
    place = np.zeros(len(codes), np.int64)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        place[members] = np.arange(len(members)) % num_folds
    return [np.flatnonzero(place == fold) for fold in range(num_folds)]


def _group_folds(codes: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], num_folds: int) -> list[Index]:
    """The most folds, up to `num_folds`, that split no group and leave every class something to learn from."""
    num_groups = min(len(np.unique(groups[codes == code])) for code in np.unique(codes))
    for num in range(min(num_folds, num_groups), 1, -1):
        split = StratifiedGroupKFold(num).split(np.zeros(len(codes)), codes, groups)
        folds = [held for _, held in split if len(held)]
        if all(set(codes) == set(np.delete(codes, held)) for held in folds):
            return folds
    return []


def _inner_metrics(
    unit: Unit, rows: Rows, samples: TaskSamples, labelled: Index, how: How
) -> list[dict[str, float | None]]:
    """Metrics of each candidate on held-out folds of k labels a class, pooled over the folds."""
    codes = samples.truth[labelled]
    k_shot = int(np.bincount(codes).max())
    folds = folds_of(codes, k_shot, samples.groups[labelled])
    if not folds:
        return []
    return _held_out_metrics(unit, unit.few_shot, rows, samples, labelled, folds, how)


def training_folds(samples: TaskSamples, seed: int) -> list[Index]:
    """Five folds of the training samples, or as many as there are groups: positions held out in each.

    Groups are held out whole, and classes are spread evenly.

    Raises
    ------
    DataError
        If a class, or all samples, lie in one group: without its fold nothing of it could be learnt.
    """
    train = samples.train
    labels = samples.truth[train] if samples.kind == "classes" else None
    folds = folds_of_rows(MOST_FOLDS, len(train), labels, group_codes(samples.groups[train]), seed)
    held = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    bare = {
        int(code)
        for some in held
        if labels is not None
        for code in np.setdiff1d(labels, np.delete(labels, some))
    }
    if len(held) < 2 or bare:
        what = ", ".join(repr(samples.classes[code]) for code in sorted(bare)[:5])
        raise DataError(
            f"task {samples.task!r}: {f'class {what} has' if bare else 'there are'} training samples of one group "
            "alone, which no fold can hold out; set `select.on: val`, or give it samples of other groups"
        )
    return held


def _held_out_metrics(
    unit: Unit,
    candidates: Sequence[dict[str, Any]],
    rows: Rows,
    samples: TaskSamples,
    labelled: Index,
    folds: Sequence[Index],
    how: How,
) -> list[dict[str, float | None]]:
    """Metrics of each candidate on samples that its fit did not see, pooled over the folds."""
    truth = samples.truth[labelled]
    pooled = np.zeros((len(candidates), len(labelled), samples.spec.width), np.float32)
    for held in folds:
        kept = np.setdiff1d(np.arange(len(labelled)), held)
        heads = _fit(unit, candidates, rows, labelled[kept], samples, how)
        pooled[:, held] = _outputs(heads, rows.take(labelled[held]), samples, unit)
        pooled[[head.failure_ is not None for head in heads]] = np.nan
    return [_finite(point_metrics(samples.kind, truth, scores, samples.spec.box)) for scores in pooled]


def _fit(
    unit: Unit,
    candidates: Sequence[dict[str, Any]],
    rows: Rows,
    index: Index,
    samples: TaskSamples,
    how: How,
    *,
    y: npt.NDArray[Any] | None = None,
    rows_val: Rows | None = None,
    y_val: npt.NDArray[Any] | None = None,
) -> list[Any]:
    """Fit candidates on the samples at `index`, of which `rows` are the features of all."""
    maps = registry.head_class(unit.family, samples.kind).maps
    some = rows.take(index)
    try:
        return list(
            registry.fit_grid(
                unit.family,
                [{**one, **unit.fixed} for one in candidates],
                some if maps else flat(some),
                _wanted(unit, samples)[index] if y is None else y,
                kind=samples.kind,
                seed=how.seed,
                X_val=rows_val if maps or rows_val is None else flat(rows_val),
                y_val=y_val,
                sample_weight=samples.weight_at(index) if takes_weights(unit.family, samples.kind) else None,
                groups=samples.groups[index],
                memory_nbytes=how.memory_nbytes,
            )
        )
    except EmbedpipeError as error:
        raise type(error)(f"task {samples.task!r}, arm {unit.arm!r}: {error}") from error


def _wanted(unit: Unit, samples: TaskSamples) -> npt.NDArray[Any]:
    """What the unit learns: of a dense task classes on the grid of its tap."""
    return samples.wanted(unit.row_shape or (), unit.parts[0].seen)


def _outputs(heads: Sequence[Any], rows: Rows, samples: TaskSamples, unit: Unit) -> Float:
    """Scores of each head, as `ArmScores` holds them: [heads, rows, K].

    All heads are asked in one reading of the rows.
    """
    found = np.zeros((len(heads), rows.shape[0], samples.spec.width), np.float32)
    for part, block in rows.blocks():
        flat_block = block.reshape(len(block), -1)
        for place, head in enumerate(heads):
            found[place, part] = _outputs_of_block(head, block if head.maps else flat_block, samples, unit)
    return found


def _outputs_of_block(head: Any, X_ND: Float, samples: TaskSamples, unit: Unit) -> Float:
    spec = samples.spec
    if spec.kind == "number":
        return np.asarray(head.predict(X_ND), np.float32).reshape(len(X_ND), -1)
    if spec.kind == "dense":
        assert spec.grid is not None and spec.seen is not None
        codes = judged_codes(head.predict_proba(X_ND), spec.grid, spec.seen / unit.parts[0].seen)
        return np.asarray(head.classes_[codes], np.float32)
    if spec.kind == "classes" and len(head.classes_) != len(samples.classes):
        raise DataError(
            f"task {samples.task!r}: a head learnt {len(head.classes_)} of {len(samples.classes)} classes"
        )
    return np.asarray(head.predict_proba(X_ND), np.float32)


def _said_by(head: Any) -> dict[str, Any]:
    """What a fitted head says of itself."""
    said: dict[str, Any] = {"converged": bool(head.converged_)}
    if head.failure_ is not None:
        said["failure"] = head.failure_
    weights = getattr(head, "layer_weights_", None)
    if weights is not None:
        said["layers"] = [round(float(weight), 6) for weight in weights]
    return said


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in metrics.items()}


def _keep(folder: Path, about: dict[str, Any], scores: Float) -> None:
    (folder / "result.json").write_text(json.dumps(about, sort_keys=True, allow_nan=False), encoding="utf-8")
    np.save(folder / "scores.npy", scores, allow_pickle=False)


def is_whole(folder: Path) -> bool:
    """Whether a folder of the memo can be read back: what was cut short or deleted in part is fitted again."""
    try:
        about = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        for name in ("scores.npy", SHOWN):
            if name != SHOWN or (folder / SHOWN).is_file():
                np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return about.get("best") is None or (folder / "head").is_dir()


def _recall(folder: Path) -> tuple[dict[str, Any], Float]:
    about: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return about, np.load(folder / "scores.npy", allow_pickle=False)
