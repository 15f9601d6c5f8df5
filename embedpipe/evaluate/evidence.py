"""Everything that is known of one task's arms, ready to be judged on one split.

Brings the scores of training, the predictions, the targets and the groups together. Which targets it is
given decides what can be judged: the open ones hold validation, the sealed ones hold the test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.errors import DataError
from embedpipe.evaluate.arms import ALL, MAJORITY, ROLE_OF_BASELINE, SHUFFLED, k_code
from embedpipe.evaluate.bootstrap import Judge, Judged
from embedpipe.evaluate.files import read_json
from embedpipe.evaluate.predictions import Predictions
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets


@dataclass(frozen=True)
class TransferFiles:
    """What transfer arms wrote beside the heads, in the same formats; where nothing is, there are none."""

    scores: Path
    predictions: Path
    cost: Path


@dataclass(frozen=True)
class TaskFiles:
    """The files of one task that judging it needs.

    Attributes
    ----------
    scores, predictions : Path
        Written by training.
    open_targets : Path
        Targets of all samples but the test's.
    manifest : Path
    candidates : Path or None
        Written by training; read where the selection is judged.
    cost : Path or None
        Written by training; read where costs are shown, never where arms are judged.
    transfer : TransferFiles or None
        Written behind the selection, so that the selection never reads it.
    """

    scores: Path
    predictions: Path
    open_targets: Path
    manifest: Path
    candidates: Path | None = None
    cost: Path | None = None
    transfer: TransferFiles | None = None


@dataclass
class Evidence:
    """The arms of one task, judged on the labelled samples of one split.

    Attributes
    ----------
    about : dict
        `data/scores/<T>.json`.
    sample_ids : str array [N]
        Samples that are judged; `truth` are their targets.
    notes : list of str
        What is missing or not finite.
    """

    task: str
    about: dict[str, Any]
    predictions: Predictions
    split: str
    sample_ids: npt.NDArray[np.str_]
    judge: Judge
    notes: list[str] = field(default_factory=list)
    _judged: dict[tuple[str, int], Judged] = field(default_factory=dict, repr=False)

    @property
    def spec(self) -> TargetSpec:
        """What the targets are."""
        return self.predictions.spec

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.classes

    @property
    def metric(self) -> str:
        """The metric that selects."""
        return str(self.about["metric"])

    @property
    def chosen_on_folds(self) -> bool:
        """Whether folds of the training samples choose, and validation does not."""
        return self.about.get("on") == "folds"

    @property
    def truth(self) -> npt.NDArray[np.generic]:
        return self.judge.truth

    def rows(self, k_shot: int | None = None) -> list[dict[str, Any]]:
        """Rows of the scores file that have predictions, at one k_shot or at every one."""
        return [
            row
            for row in self.about["arms"]
            if self.has(row["arm"], k_code(row["k_shot"])) and k_shot in (None, k_code(row["k_shot"]))
        ]

    def head_rows(self, k_shot: int | None = None) -> list[dict[str, Any]]:
        """The same without arms that adapt the source model itself, which are no head on a tap."""
        return [row for row in self.rows(k_shot) if "recipe" not in row]

    def transfer_rows(self, k_shot: int | None = None) -> list[dict[str, Any]]:
        """Rows of arms that adapt the source model itself."""
        return [row for row in self.rows(k_shot) if "recipe" in row]

    def judged(self, arm: str, k_shot: int = ALL) -> Judged:
        """Metrics of an arm on this split, with their resamples."""
        key = (arm, k_shot)
        if key not in self._judged:
            scores = self.predictions.scores(arm, k_shot).at(self.sample_ids)
            self._judged[key] = self.judge.judge(scores)
        return self._judged[key]

    def value(self, arm: str, k_shot: int = ALL) -> float:
        """The selecting metric of an arm, NaN where its scores are not finite."""
        return self.judged(arm, k_shot).point[self.metric]

    def backbones(self) -> dict[str, str]:
        """Role of each backbone that has arms, by name."""
        return {row["backbone"]: row["role"] for row in self.head_rows() if row["role"] != "none"}

    def numeric_k_shot(self) -> list[int]:
        return sorted({k for _, k in self.predictions.arms() if k != ALL})

    def has(self, arm: str, k_shot: int) -> bool:
        return self.predictions.has(arm, k_shot)


def open_evidence(
    task: str, files: TaskFiles, *, seed: int, split: str = "val", targets: Targets | None = None
) -> Evidence:
    """Bring the files of one task together.

    Parameters
    ----------
    split
        ``val``, or ``test`` with the sealed `targets`.
    targets
        Default: the open ones.

    Raises
    ------
    DataError
        If a file is missing, files are of different runs, or no sample of the split has target and
        predictions.
    """
    needed = ("kind", "classes", "metric", "num", "arms", "notes")
    about = read_json(files.scores, "run `embedpipe train`", keys=needed)
    predictions = read_predictions(task, files)
    if _has_transfer(files):
        assert files.transfer is not None
        more = read_json(files.transfer.scores, f"run `embedpipe transfer {task}`", keys=("arms", "notes"))
        about = {**about, **{name: [*about[name], *more[name]] for name in ("arms", "notes")}}
    targets = Targets.read(files.open_targets) if targets is None else targets
    if not predictions.spec.is_of_targets(targets.spec):
        raise DataError(
            f"{files.predictions}: expected scores of {targets.spec}, found {predictions.spec}: its targets have "
            f"changed; run `embedpipe train {task}`"
        )
    known = predictions.arms()
    if not known:
        raise DataError(f"{files.predictions}: holds no predictions; run `embedpipe train {task}`")
    first = predictions.scores(*known[0]).of_split(split)
    ids = np.asarray(first.sample_ids, dtype=str)
    truth = targets.truth_of(ids, predictions.spec.seen or 1.0)
    labelled = targets.spec.labelled(truth)
    ids, truth = ids[labelled], truth[labelled]
    if len(ids) == 0:
        raise DataError(
            f"task {task!r}: no sample of {split!r} has both a target and predictions; "
            f"give that split labels, or run `embedpipe train {task}`"
        )
    groups = _groups(Manifest.read(files.manifest), ids)
    judge = Judge(targets.kind, truth, groups, seed, box=targets.spec.box)
    evidence = Evidence(task, about, predictions, split, ids, judge)
    evidence.notes += _missing(about, predictions)
    return evidence


def read_predictions(task: str, files: TaskFiles) -> Predictions:
    """Predictions of heads, and of transfer arms where there are any.

    Raises
    ------
    DataError
        If a file is missing, or the two are of different targets.
    """
    predictions = Predictions.read(files.predictions)
    if not _has_transfer(files):
        return predictions
    assert files.transfer is not None
    more = Predictions.read(files.transfer.predictions)
    if not more.spec.is_of_targets(predictions.spec):
        raise DataError(
            f"{files.transfer.predictions}: expected scores of {predictions.spec}, found {more.spec}: targets have "
            f"changed; run `embedpipe transfer {task}`"
        )
    return predictions.with_arms_of(more)


def _has_transfer(files: TaskFiles) -> bool:
    return files.transfer is not None and files.transfer.scores.exists()


def is_baseline(row: dict[str, Any], baselines: list[str] | tuple[str, ...]) -> bool:
    """Whether a row of the scores stands for a baseline: no features, no labels, or a role named as one."""
    roles = {ROLE_OF_BASELINE[name] for name in baselines if name in ROLE_OF_BASELINE}
    return row["arm"] in (MAJORITY, SHUFFLED) or row["role"] in roles


def _groups(manifest: Manifest, sample_ids: npt.NDArray[np.str_]) -> list[str] | None:
    """Group of each sample; None where each is alone in its group, which is the same and faster."""
    group_of = dict(zip(manifest.sample_ids.tolist(), manifest.groups.tolist(), strict=True))
    groups = [group_of.get(str(one), str(one)) for one in sample_ids]
    return None if len(set(groups)) == len(groups) else groups


def _missing(about: dict[str, Any], predictions: Predictions) -> list[str]:
    have = set(predictions.arms())
    lost = [
        f"{row['arm']} (k_shot {row['k_shot']})"
        for row in about["arms"]
        if (row["arm"], k_code(row["k_shot"])) not in have
    ]
    if not lost:
        return []
    return [
        f"{len(lost)} arms have no predictions and are left out: {', '.join(lost[:5])}{'…' * (len(lost) > 5)}"
    ]
