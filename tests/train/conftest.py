"""A small task on features that are known, with stores kept in memory and a counter of fits."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from embedpipe.evaluate.options import CompareOptions, SelectOptions
from embedpipe.features.card import BackboneCard, TapCard
from embedpipe.heads import registry
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets
from embedpipe.spec import BackboneSpec
from embedpipe.train import task as task_module
from embedpipe.train.task import TrainPaths, train_task

SPEC = BackboneSpec("tiny", "a" * 32, "pillow 1", "{}", "float32", "cpu")
BASELINES = ("majority", "shuffled_labels", "random_weights", "pixels")


class MemoryFeatures:
    """Stands for an open store: features by key."""

    def __init__(self, name, role, taps, keys, modality="image"):
        self.taps = taps
        self.row_of = {bytes(key): row for row, key in enumerate(keys)}
        self.absent = set()
        depths = np.linspace(0.5, 1, len(taps))
        cards = {
            tap: TapCard(tap, *tap.split("."), depth, X.shape[1:])
            for (tap, X), depth in zip(taps.items(), depths, strict=True)
        }
        self.card = BackboneCard(name, "tiny", None, role, SPEC, cards, modality)

    def present(self, keys):
        return np.array([bytes(key) in self.row_of and bytes(key) not in self.absent for key in keys])

    def row_nbytes(self, tap):
        return 2 * int(np.prod(self.taps[tap].shape[1:]))

    def rows(self, tap, keys, *, cut, mapped_nbytes):
        return FarRows(self.taps[tap][[self.row_of[bytes(key)] for key in keys]], cut)


@dataclass(frozen=True)
class FarRows:
    """Rows that no head may take for an array in memory."""

    X: np.ndarray
    cut: Callable

    @property
    def shape(self):
        return self.X.shape

    def blocks(self):
        for part in self.cut(self.shape):
            yield part, self.X[part].copy()

    def gather(self, index):
        return self.X[index]

    def take(self, index):
        return FarRows(self.X[index], self.cut)


@dataclass
class Bench:
    """Everything `train_task` needs, each part open to change by a test."""

    root: Path
    kind: str = "classes"
    num: int = 120
    classes: tuple[str, ...] = ("a", "b", "c")
    heads: dict = field(default_factory=lambda: {"centroid": {}, "ridge": {"alpha": [1.0, 100.0]}})
    compare: dict = field(default_factory=lambda: {"k_shot": [2, "all"], "draws": 3, "heads": ["centroid"]})
    select: dict = field(default_factory=dict)
    baselines: tuple[str, ...] = BASELINES
    seed: int = 0
    groups: list | None = None
    weights: list | None = None
    also: dict = field(default_factory=dict)
    fits: Counter = field(default_factory=Counter)

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self.ids = [f"s{i:03d}" for i in range(self.num)]
        self.keys = [hashlib.blake2b(one.encode(), digest_size=16).digest() for one in self.ids]
        self.splits = ["train", "train", "val", "train", "val", "test"] * (self.num // 6)
        codes = rng.integers(len(self.classes), size=self.num)
        self.labels = [self.classes[code] for code in codes]
        if self.kind == "number":
            self.labels = [float(code) + 0.1 for code in codes]
        centres = 3 * rng.standard_normal((3, 6))

        def features(noise, width=6):
            X = centres[codes, :width] + noise * rng.standard_normal((self.num, width))
            return X.astype(np.float32)

        self.stores = {
            "net": MemoryFeatures(
                "net", "transferred", {"a.gap": features(2), "b.gap": features(1)}, self.keys
            ),
            "blank": MemoryFeatures("blank", "random", {"a.gap": features(9)}, self.keys),
            "pixels": MemoryFeatures("pixels", "pixels", {"pixels.flatten": features(4, 4)}, self.keys),
        }

    @property
    def paths(self):
        return TrainPaths(
            heads_dir=self.root / "heads",
            predictions=self.root / "p.parquet",
            scores=self.root / "s.json",
            candidates=self.root / "p.candidates.safetensors",
            cost=self.root / "cost" / "c.json",
            memo_dir=self.root / "memo",
        )

    @property
    def manifest(self):
        return Manifest.from_rows(
            "photos",
            {"kind": "folder"},
            "image",
            sample_ids=self.ids,
            keys=self.keys,
            domain="target",
            groups=self.groups or self.ids,
            splits=self.splits,
            locators=self.ids,
            also=self.also,
        )

    def write_targets(self):
        whole = Targets.from_rows(
            "colour",
            self.kind,
            self.classes if self.kind == "classes" else (),
            sample_ids=self.ids,
            splits=self.splits,
            labels=self.labels,
        )
        if self.weights is not None:
            whole = whole.weighted(self.ids, self.weights)
        whole.where(split=["train", "val", "excluded"]).write(self.root / "open.parquet")
        whole.where(split="test").write(self.root / "sealed.parquet")

    def train(self, **more):
        self.write_targets()
        options = {
            "heads": {name: registry.head_options(name, raw) for name, raw in self.heads.items()},
            "features": {name: Path(name) for name in self.stores},
            "manifest": self.manifest,
            "targets_path": self.root / "open.parquet",
            "paths": self.paths,
            "baselines": self.baselines,
            "select": SelectOptions(**self.select),
            "compare": CompareOptions(**self.compare),
            "seed": self.seed,
        }
        return train_task("colour", **{**options, **more})

    def outputs(self):
        """Every file a run leaves, by relative path, the memo and what it cost in seconds aside."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.relative_to(self.root).parts[0] not in ("memo", "cost", "moments")
        }

    def scores(self):
        return json.loads(self.paths.scores.read_text())


@pytest.fixture
def make_bench(tmp_path, monkeypatch):
    """Call with fields of `Bench`; fits are counted by family."""

    def make(**fields):
        bench = Bench(tmp_path, **fields)
        fit_grid = registry.fit_grid

        def counted(family, *args, **kwargs):
            bench.fits[family] += 1
            return fit_grid(family, *args, **kwargs)

        monkeypatch.setattr(registry, "fit_grid", counted)
        monkeypatch.setattr(task_module, "open_features", lambda path: bench.stores[path.name])
        return bench

    return make


@pytest.fixture
def bench(make_bench):
    return make_bench()
