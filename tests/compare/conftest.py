"""Files of two tasks as training would leave them, with arms whose quality is chosen."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from embedpipe.evaluate.evidence import TaskFiles
from embedpipe.evaluate.predictions import ArmScores, Predictions
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets

CLASSES = ("x", "y", "z")


@dataclass
class Results:
    """One task. Arms are (arm, role, k_shot, share right for each draw)."""

    root: Path
    task: str = "colour"
    kind: str = "classes"
    num: int = 200
    groups: list | None = None
    arms: list = field(default_factory=list)
    rows: list = field(default_factory=list)

    def __post_init__(self):
        rng = np.random.default_rng(3)
        self.ids = np.array([f"s{i:03d}" for i in range(self.num)])
        self.splits = np.where(np.arange(self.num) % 2 == 0, "val", "test")
        self.codes = rng.integers(3, size=self.num)
        self.order = rng.permutation(self.num)

    @property
    def labels(self):
        return [CLASSES[c] for c in self.codes] if self.kind == "classes" else [float(c) for c in self.codes]

    def scores_of(self, share, draw=0):
        """Right on the first `share` of a fixed order: better arms are right wherever worse ones are."""
        right = np.roll(self.order, 17 * draw) < share * self.num
        if self.kind == "number":
            return (self.codes + np.where(right, 0.05, 1.0))[:, None].astype(np.float32)
        predicted = np.where(right, self.codes, (self.codes + 1) % 3)
        return (0.1 + 0.7 * np.eye(3)[predicted]).astype(np.float32)

    def add(self, arm, role, *shares, k_shot=0, scores=None, **more):
        head, _, place = arm.partition("@")
        backbone, _, tap = place.partition("/")
        selected = head == "selected"
        row = {
            "arm": arm,
            "head": "(selected per draw)" if selected else head,
            "family": head,
            "backbone": backbone or "none",
            "role": role,
            "tap": "(selected per draw)" if selected else tap or "none",
            "node": tap.partition(".")[0],
            "reduction": "gap",
            "depth": 0.5,
            "params": {},
            "note": None,
            "k_shot": k_shot or "all",
            "draws": max(len(shares), 1),
        }
        if k_shot == 0 and role != "none":
            row["candidates"] = [{"params": {}, "val": {}, "converged": True}]
        if k_shot:
            metric = "balanced_accuracy"
            row["per_draw"] = [
                {"params": {}, "inner": {metric: share}, "converged": True} for share in shares
            ]
        self.rows.append({**row, **more})
        if scores is None:
            scores = np.stack([self.scores_of(share, draw) for draw, share in enumerate(shares)])
        self.arms.append(ArmScores(arm, k_shot, self.ids, self.splits, scores))
        return self

    def write(self):
        folder = self.root / self.task
        folder.mkdir(exist_ok=True)
        ids = self.ids.tolist()
        groups = ids if self.groups is None else self.groups
        keys = [i.to_bytes(16) for i in range(self.num)]
        Manifest.from_rows(
            "photos",
            {"kind": "folder"},
            "image",
            sample_ids=ids,
            keys=keys,
            domain="target",
            groups=groups,
            splits=self.splits.tolist(),
            locators=ids,
        ).write(folder / "samples.parquet")
        classes = CLASSES if self.kind == "classes" else ()
        whole = Targets.from_rows(
            self.task, self.kind, classes, sample_ids=ids, splits=self.splits.tolist(), labels=self.labels
        )
        whole.where(split="val").write(folder / "open.parquet")
        whole.where(split="test").write(folder / "sealed.parquet")
        Predictions.from_arms(self.task, self.kind, classes, self.arms).write(folder / "p.parquet")
        about = {
            "task": self.task,
            "kind": self.kind,
            "classes": list(classes),
            "metric": "balanced_accuracy" if self.kind == "classes" else "r2",
            "seed": 0,
            "num": {"train": 60, "val": self.num // 2, "test": self.num // 2, "excluded": 0, "missing": 0},
            "num_candidates": len(self.rows),
            "arms": self.rows,
            "notes": [],
        }
        (folder / "s.json").write_text(json.dumps(about))
        return TaskFiles(
            scores=folder / "s.json",
            predictions=folder / "p.parquet",
            open_targets=folder / "open.parquet",
            manifest=folder / "samples.parquet",
        )

    @property
    def sealed(self):
        return self.root / self.task / "sealed.parquet"


def fill(results):
    """Arms as in the default project: transferred ahead of pixels ahead of random weights."""
    results.add("ridge@net/b.gap", "transferred", 0.9).add("knn@net/b.gap", "transferred", 0.88)
    results.add("ridge@net/a.gap", "transferred", 0.6)
    results.add("ridge@blank/b.gap", "random", 0.5).add("ridge@pixels/p.gap", "pixels", 0.95)
    results.add("majority", "none", 0.33).add("shuffled_labels", "none", 0.3)
    if results.kind == "classes":
        results.add("ridge@net/b.gap", "transferred", 0.82, 0.78, 0.8, k_shot=5)
        results.add("knn@net/b.gap", "transferred", 0.7, 0.72, 0.71, k_shot=5)
        results.add("selected@net", "transferred", 0.82, 0.78, 0.8, k_shot=5)
        results.add("selected@blank", "random", 0.5, 0.55, 0.45, k_shot=5)
        results.add("selected@pixels", "pixels", 0.7, 0.66, 0.68, k_shot=5)
    return results


@pytest.fixture
def make_results(tmp_path):
    """An empty task to add arms to."""
    return lambda **fields: Results(tmp_path, **fields)


@pytest.fixture
def results(tmp_path):
    """A task of classes as in the default project."""
    return fill(Results(tmp_path))


@pytest.fixture
def numbers(tmp_path):
    """A task of numbers as in the default project."""
    return fill(Results(tmp_path, task="slant", kind="number"))
