"""A small backbone whose features are known, and helpers that grow a group with them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedpipe.spec import BackboneSpec, TapSpec
from embedpipe.store import Group, GrowthPlan, open_group

GAP = TapSpec("layer1", "gap")
GRID = TapSpec("layer2", "grid:2", "float32")
SHAPES = {GAP: (6,), GRID: (2, 3)}
SPEC = BackboneSpec("tiny", "a" * 32, "pillow 1", "{}", "float32", "cpu")


def key_of(name: str) -> np.ndarray:
    """Of a sample; ``a#2`` is part 2 of the sample a."""
    sample = name.partition("#")[0]
    return np.frombuffer(hashlib.blake2b(sample.encode(), digest_size=16).digest(), np.uint8)


def keys_of(names: Iterable[str]) -> np.ndarray:
    return np.stack([key_of(name) for name in names]) if names else np.zeros((0, 16), np.uint8)


def parts_of(names: Iterable[str]) -> np.ndarray:
    return np.array([int(name.partition("#")[2] or 0) for name in names], np.int32)


def feature(name: str, tap: TapSpec) -> np.ndarray:
    """What the tiny backbone computes for a sample, in the dtype it is stored in."""
    rng = np.random.default_rng([*key_of(name).tolist(), len(tap.name), *parts_of([name]).tolist()])
    return rng.standard_normal(SHAPES[tap]).astype(tap.dtype)


@dataclass
class Grower:
    """Grow a group as the extraction does, counting what it computed.

    Attributes
    ----------
    shard_nbytes : int
        192: shards of 16 rows of GAP and 8 of GRID.
    """

    root: Path
    batch: int = 4
    shard_nbytes: int = 192
    failing: frozenset[str] = frozenset()
    computed: list[tuple[str, str]] = field(default_factory=list)
    on_append: Callable[[], None] = lambda: None
    said: list[str] = field(default_factory=list)

    def open(self) -> Group:
        return open_group(self.root, SPEC)

    def grow(self, names: Sequence[str], taps: Sequence[TapSpec] = (GAP, GRID)) -> Group:
        group = self.open()
        with group.lock():
            group.recover()
            group.ensure_taps({tap: SHAPES[tap] for tap in taps}, shard_nbytes=self.shard_nbytes)
            plan = group.plan(keys_of(names), parts_of(names), [tap.name for tap in taps])
            self.fill(group, plan, names)
        return group

    def fill(self, group: Group, plan: GrowthPlan, names: Sequence[str]) -> None:
        by_name = {tap.name: tap for tap in SHAPES}
        for block in plan.blocks:
            with group.writer(plan, block, batch=self.batch, sync_every_s=0.0) as writer:
                for index, segment in enumerate(block.segments):
                    for start in range(writer.done(index), len(segment.rows), self.batch):
                        rows = segment.rows[start : start + self.batch]
                        named = {int(row): names[plan.wanted_of_row[row]] for row in rows}
                        good = np.array(
                            [r for r, name in named.items() if name not in self.failing], np.int64
                        )
                        values = {
                            tap: np.stack([feature(named[int(r)], by_name[tap]) for r in good])
                            for tap in segment.taps
                            if len(good)
                        }
                        holes = {r: "unreadable" for r, name in named.items() if name in self.failing}
                        writer.append(good, values, holes)
                        self.computed += [(named[int(r)], tap) for r in rows for tap in segment.taps]
                        self.on_append()
                writer.commit()


def files_of(folder: Path, leave_out: Sequence[str] = ("lock", "journal")) -> dict[str, bytes]:
    """Every file of a folder by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0].split(".")[0] not in leave_out
    }


@pytest.fixture(autouse=True)
def no_fsync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated kill loses nothing that the kernel holds, so waiting for the disk proves nothing here."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def grower(tmp_path: Path) -> Grower:
    return Grower(tmp_path / "stores")


def expected(names: Sequence[str], tap: TapSpec) -> Any:
    return np.stack([feature(name, tap) for name in names])
