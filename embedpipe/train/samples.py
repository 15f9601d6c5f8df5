"""Which samples a task trains on, chooses by and predicts: the same ones for every arm.

A sample counts where every backbone of the task has features of it, so that no arm is judged on easier
samples than another. Test samples come without targets; the file that holds those is never opened here.
"""

# n samples kept, K classes

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.errors import DataError
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
    keys : uint8 [n, 16]
    truth : int64 or float64 [n]
        Class codes (-1 missing) or numbers (NaN missing). Missing for every test sample.
    num : dict
        Labelled samples in train and val, samples in test, excluded samples, samples without a label.
    """

    task: str
    kind: str
    classes: tuple[str, ...]
    sample_ids: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    keys: npt.NDArray[np.uint8]
    truth: npt.NDArray[Any]
    num: Mapping[str, int]
    dropped: tuple[Dropped, ...]

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        return self.truth >= 0 if self.kind == "classes" else ~np.isnan(self.truth)

    @property
    def train(self) -> Index:
        """Labelled training samples."""
        return np.flatnonzero((self.splits == "train") & self.labelled)

    @property
    def val(self) -> Index:
        """Labelled validation samples."""
        return np.flatnonzero((self.splits == "val") & self.labelled)

    @property
    def predicted(self) -> Index:
        """Every validation and test sample, labelled or not."""
        return np.flatnonzero(self.splits != "train")


def task_samples(
    manifest: Manifest, targets: Targets, present: Mapping[str, npt.NDArray[np.bool_]]
) -> TaskSamples:
    """Align a manifest with the open targets of a task.

    Parameters
    ----------
    present
        For each backbone, which samples of the manifest it has features of.

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
    truth = _truth_of(targets, ids[keep])
    kept_splits = splits[keep]
    truth[kept_splits == "test"] = -1 if targets.kind == "classes" else np.nan
    labelled = truth >= 0 if targets.kind == "classes" else ~np.isnan(truth)
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
        targets.kind,
        tuple(targets.classes),
        ids[keep],
        kept_splits,
        np.asarray(manifest.groups, dtype=str)[keep],
        np.ascontiguousarray(manifest.keys[keep]),
        truth,
        num,
        tuple(dropped),
    )
    _check(samples)
    return samples


def _truth_of(targets: Targets, sample_ids: npt.NDArray[np.str_]) -> npt.NDArray[Any]:
    """Targets in the order of `sample_ids`; missing where the table has no row."""
    known = np.asarray(targets.table["sample_id"].to_pylist(), dtype=str)
    values: npt.NDArray[Any] = targets.codes() if targets.kind == "classes" else targets.values()
    missing: float = -1 if targets.kind == "classes" else float("nan")
    truth = np.full(len(sample_ids), missing, dtype=np.int64 if targets.kind == "classes" else np.float64)
    if len(known) == 0:
        return truth
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known[order], sample_ids), len(known) - 1)
    found = known[order[place]] == sample_ids
    truth[found] = values[order[place[found]]]
    return truth


def _check(samples: TaskSamples) -> None:
    task = f"task {samples.task!r}"
    for split, index in (("train", samples.train), ("val", samples.val)):
        if len(index) == 0:
            raise DataError(
                f"{task}: no labelled sample is in {split!r}, which heads "
                f"{'learn from' if split == 'train' else 'are chosen by'}; "
                f"raise `split` of its data set, or give it more labels"
            )
    if samples.kind != "classes":
        for words, index, so in (
            ("training", samples.train, "nothing can be learnt"),
            (
                "validation",
                samples.val,
                "no head can be told from another; raise `split.val` of its data set",
            ),
        ):
            if np.ptp(samples.truth[index]) == 0:
                raise DataError(f"{task}: every {words} target is {samples.truth[index][0]}; {so}")
        return
    if len(samples.classes) < 2:
        raise DataError(
            f"{task}: expected two classes or more, found {len(samples.classes)} "
            f"({', '.join(samples.classes)})"
        )
    counts = np.bincount(samples.truth[samples.train], minlength=len(samples.classes))
    absent = [name for name, count in zip(samples.classes, counts, strict=True) if count == 0]
    if absent:
        raise DataError(
            f"{task}: no training sample of class {', '.join(repr(name) for name in absent[:5])}"
            f"{'…' if len(absent) > 5 else ''} has a label and features; give it some, or drop the class"
        )
    judged = np.unique(samples.truth[samples.val])
    if len(judged) < 2:
        raise DataError(
            f"{task}: every validation sample is of class {samples.classes[judged[0]]!r}, so a head that always "
            "says so would be right; raise `split.val` of its data set, or give it labels of other classes"
        )
