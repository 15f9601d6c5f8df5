"""Which samples a task trains on, chooses by and predicts: the same ones for every arm.

A sample counts where every backbone of the task has features of it, so that no arm is judged on easier
samples than another. Test samples come without targets; the file that holds those is never opened here.
"""

# n samples kept, K classes

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from embedpipe.errors import DataError
from embedpipe.manifest.kinds import TargetSpec, TaskKind, Truth
from embedpipe.manifest.masks import Masks
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dropped:
    """Samples left out because one backbone has no features of them."""

    backbone: str
    num: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        more = "…" if self.num > len(self.first) else ""
        return (
            f"{self.num} samples left out of every arm: no features in {self.backbone!r} "
            f"({', '.join(self.first)}{more})"
        )


@dataclass(frozen=True)
class TaskSamples:
    """The samples of one task.

    Attributes
    ----------
    sample_ids, splits : str arrays [n]
        train, val and test samples that every backbone has features of, in manifest order.
    groups : str array [n]
        Samples of one group say the same thing twice: none is learnt from to choose by another.
    keys : dict of modality -> uint8 [n, 16]
    truth : array [n] or [n, ...]
        As `embedpipe.manifest.kinds` lists it for the kind. Missing for every test sample.
    masks : Masks or None
        Of a dense task, in full: what `truth` is reduced from, and what heads learn from on their own grid.
    weight : float64 array [n], or None
        What each training sample counts in learning; None where all count 1. All are judged alike.
    num : dict
        Labelled samples in train and val, samples in test, excluded samples, samples without a label.
    """

    task: str
    spec: TargetSpec
    sample_ids: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    keys: Mapping[str, npt.NDArray[np.uint8]]
    truth: Truth
    num: Mapping[str, int]
    dropped: tuple[Dropped, ...]
    masks: Masks | None = None
    weight: npt.NDArray[np.float64] | None = None
    _on_grids: dict[tuple[int, int, float], Truth] = field(default_factory=dict, repr=False, compare=False)

    @property
    def kind(self) -> TaskKind:
        """See `TargetSpec`."""
        return self.spec.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """See `TargetSpec`."""
        return self.spec.classes

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which samples can be learnt from and judged."""
        return self.spec.labelled(self.truth)

    def wanted(self, shape: tuple[int, ...], seen: float = 1.0) -> Truth:
        """What a head on rows of a shape learns: `truth`, or classes on the grid (C, Y, X) of the rows, [n, Y, X].

        Parameters
        ----------
        shape
            Of one row of the tap.
        seen
            Share of the shorter side of the image that the backbone sees.
        """
        if self.masks is None:
            return self.truth
        grid = (shape[1], shape[2], seen)
        if grid not in self._on_grids:
            self._on_grids[grid] = self.masks.on_grid(grid[:2], seen)
        return self._on_grids[grid]

    @property
    def train(self) -> Index:
        """Labelled training samples, without those that count nothing."""
        learnt = (self.splits == "train") & self.labelled
        return np.flatnonzero(learnt if self.weight is None else learnt & (self.weight > 0))

    def weight_at(self, index: Index) -> npt.NDArray[np.float64] | None:
        """What the samples at these positions count; None where all count 1."""
        return None if self.weight is None else self.weight[index]

    @property
    def val(self) -> Index:
        """Labelled validation samples."""
        return np.flatnonzero((self.splits == "val") & self.labelled)

    @property
    def predicted(self) -> Index:
        """Every validation and test sample, labelled or not."""
        return np.flatnonzero(self.splits != "train")


def task_samples(
    manifest: Manifest,
    targets: Targets,
    present: Mapping[str, npt.NDArray[np.bool_]],
    *,
    seen: float = 1.0,
) -> TaskSamples:
    """Align a manifest with the open targets of a task.

    Parameters
    ----------
    present
        For each backbone, which samples of the manifest it has features of.
    seen
        For a dense task: share of the shorter side of an image that every backbone sees.

    Raises
    ------
    DataError
        If nothing is left to train on or to choose by; one sentence that says why.
    """
    task = targets.task
    ids = np.asarray(manifest.sample_ids, dtype=str)
    splits = np.asarray(manifest.splits, dtype=str)
    used = splits != "excluded"
    dropped = []
    everywhere = np.ones(len(ids), bool)
    for backbone, has in present.items():
        absent = used & ~has
        everywhere &= has
        if absent.any():
            first = tuple(str(one) for one in ids[absent][:5])
            dropped.append(Dropped(backbone, int(absent.sum()), first))
    if used.any() and not (everywhere & used).any():
        whose = ", ".join(repr(one.backbone) for one in dropped)
        raise DataError(
            f"task {task!r}: none of its {used.sum()} samples has features in every backbone "
            f"({whose} lack them); run `embedpipe extract`"
        )
    keep = np.flatnonzero(everywhere & used)
    spec = replace(targets.spec, seen=seen) if targets.kind == "dense" else targets.spec
    kept_splits = splits[keep]
    truth = targets.truth_of(ids[keep], seen)
    is_test = kept_splits == "test"
    truth[is_test] = spec.missing(int(is_test.sum()))
    labelled = spec.labelled(truth)
    num = {
        "train": int((labelled & (kept_splits == "train")).sum()),
        "val": int((labelled & (kept_splits == "val")).sum()),
        "test": int((kept_splits == "test").sum()),
        "excluded": int((splits == "excluded").sum()),
        "missing": int((~labelled & (kept_splits != "test")).sum()),
        "dropped": int((used & ~everywhere).sum()),
    }
    samples = TaskSamples(
        task,
        spec,
        ids[keep],
        kept_splits,
        np.asarray(manifest.groups, dtype=str)[keep],
        {one: np.ascontiguousarray(manifest.of(one).keys[keep]) for one in manifest.modalities},
        truth,
        num,
        tuple(dropped),
        _masks_of(targets, ids[keep], is_test) if targets.kind == "dense" else None,
        targets.weight_of(ids[keep]),
    )
    _check(samples)
    return samples


def _masks_of(targets: Targets, sample_ids: npt.NDArray[np.str_], is_test: npt.NDArray[np.bool_]) -> Masks:
    """Masks in the order of `sample_ids`; none for samples of the test."""
    cells = targets.masks().cells
    place, found = targets.places_of(sample_ids)
    return Masks([cells[at] if has else None for at, has in zip(place, found & ~is_test, strict=True)])


def _check(samples: TaskSamples) -> None:
    task = f"task {samples.task!r}"
    for split, index in (("train", samples.train), ("val", samples.val)):
        if len(index) == 0:
            raise DataError(
                f"{task}: no labelled sample is in {split!r}, which heads "
                f"{'learn from' if split == 'train' else 'are chosen by'}; "
                f"raise `split` of its data set, or give it more labels"
            )
    by_kind = {
        "classes": _check_classes,
        "multilabel": _check_labels,
        "number": _check_numbers,
        "dense": _check_places,
    }
    by_kind[samples.kind](task, samples)


def _check_numbers(task: str, samples: TaskSamples) -> None:
    for words, index, so in (
        ("training", samples.train, "nothing can be learnt"),
        ("validation", samples.val, "no head can be told from another; raise `split.val` of its data set"),
    ):
        columns = samples.truth[index].reshape(len(index), -1)
        for place, constant in enumerate(np.ptp(columns, axis=0) == 0):
            if constant:
                of = f" of {samples.spec.outputs[place]!r}" if samples.spec.outputs else ""
                raise DataError(f"{task}: every {words} target{of} is {columns[0, place]}; {so}")


def _check_labels(task: str, samples: TaskSamples) -> None:
    train_NK = samples.truth[samples.train]
    for value, words in ((1, "with"), (0, "without")):
        num_K = (train_NK == value).sum(axis=0)
        lacking = [name for name, num in zip(samples.classes, num_K, strict=True) if num == 0]
        if lacking:
            raise DataError(
                f"{task}: no training sample {words} label {_named(lacking)} has features; give it some, or drop the "
                "label"
            )
    val_NK = samples.truth[samples.val]
    if not ((val_NK == 1).any(axis=0) & (val_NK == 0).any(axis=0)).any():
        raise DataError(
            f"{task}: no label is known of one validation sample that has it and of one that does not, so no head can "
            "be told from another; raise `split.val` of its data set, or label more"
        )


def _check_places(task: str, samples: TaskSamples) -> None:
    for words, index, so in (
        ("training", samples.train, "nothing can be learnt"),
        ("validation", samples.val, "a head that always says so would be right"),
    ):
        found = np.unique(samples.truth[index])
        found = found[found >= 0]
        if len(found) < 2:
            raise DataError(
                f"{task}: every place of the {words} masks is of class {samples.classes[found[0]]!r} on a grid of "
                f"{samples.spec.grid}, so {so}; raise `grid` of the task, or give it other masks"
            )


def _check_classes(task: str, samples: TaskSamples) -> None:
    if len(samples.classes) < 2:
        raise DataError(
            f"{task}: expected two classes or more, found {len(samples.classes)} "
            f"({', '.join(samples.classes)})"
        )
    counts = np.bincount(samples.truth[samples.train], minlength=len(samples.classes))
    absent = [name for name, count in zip(samples.classes, counts, strict=True) if count == 0]
    if absent:
        raise DataError(
            f"{task}: no training sample of class {_named(absent)} has a label and features"
            f"{'' if samples.weight is None else ' and a weight above 0'}; give it some, or drop the class"
        )
    judged = np.unique(samples.truth[samples.val])
    if len(judged) < 2:
        raise DataError(
            f"{task}: every validation sample is of class {samples.classes[judged[0]]!r}, so a head that always "
            "says so would be right; raise `split.val` of its data set, or give it labels of other classes"
        )


def _named(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + "…" * (len(names) > 5)
