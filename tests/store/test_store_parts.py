"""Samples of several rows (windows, crops): planned, resumed, seeded, dropped and forgotten part by part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedpipe.errors import StoreError
from embedpipe.extract.earlier import FolderStore, seed
from embedpipe.store import FeatureStore, Group, publish, verify
from embedpipe.store.join import row_keys
from embedpipe.store.published import read_contents
from embedpipe.upkeep.compaction import compact, erase, find_dead

from .conftest import GAP, GRID, SHAPES, Grower, expected, feature, files_of, key_of, keys_of, parts_of

WINDOWS = [f"doc{i}#{part}" for i in range(12) for part in range(1 + i % 4)]  # 30 rows of 12 samples
TAPS = [GAP, GRID]


class Stopped(Exception):
    pass


def check(group: Group, names: list[str]) -> None:
    store = FeatureStore.open(group.path)
    rows = store.rows_of(keys_of(names), parts_of(names))
    assert (rows >= 0).all() and verify(group.path).damages == []
    for tap in TAPS:
        np.testing.assert_array_equal(store.read(tap.name, rows), expected(names, tap))


def test_every_part_is_a_row_embedded_once_whatever_the_order(grower: Grower) -> None:
    grower.grow(WINDOWS[:11], TAPS)
    check(grower.grow([*WINDOWS[::-1], *WINDOWS[:3]], TAPS), WINDOWS)
    assert sorted(grower.computed) == sorted((name, tap.name) for name in WINDOWS for tap in TAPS)


@pytest.mark.parametrize("order", ["as it was", "reversed", "with new windows"])
@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_stopped_growth_resumes_with_its_windows_apart(grower: Grower, order: str, at: int) -> None:
    """Rows of one key must not be taken for each other, neither by the same plan nor by another one."""
    appended = 0

    def stop() -> None:
        nonlocal appended
        appended += 1
        if appended == at:
            raise Stopped

    grower.on_append = stop
    with pytest.raises(Stopped):
        grower.grow(WINDOWS, TAPS)
    grower.on_append = lambda: None
    names = {
        "as it was": WINDOWS,
        "reversed": WINDOWS[::-1],
        "with new windows": [f"doc{i}#{part}" for i in range(12) for part in (4, 0, 1, 2, 3)],
    }[order]
    check(grower.grow(names, TAPS), names)
    if order == "as it was":
        assert len(grower.computed) == len(set(grower.computed))


def test_a_growth_in_two_steps_ends_with_the_bytes_of_one(tmp_path: Path) -> None:
    once, twice = Grower(tmp_path / "once"), Grower(tmp_path / "twice")
    at_once = files_of(once.grow(WINDOWS, TAPS).path)
    twice.grow(WINDOWS[:13], TAPS)
    in_steps = files_of(twice.grow(WINDOWS, TAPS).path)
    at_once.pop("ledger.jsonl"), in_steps.pop("ledger.jsonl")
    assert at_once == in_steps


def test_a_plan_of_other_parts_than_the_group_has_grown_by_is_refused(grower: Grower) -> None:
    group = grower.grow(["a"], [GAP])
    names = ["b#0", "b#1"]
    plan = group.plan(keys_of(names), parts_of(names), [GAP.name])
    grower.grow(["a", "b#1", "b#0"], [GAP])
    with group.lock():
        group.recover()
        with pytest.raises(StoreError, match="has grown since the plan was made"):
            group.writer(plan, plan.blocks[0], batch=4).__enter__()


@pytest.mark.parametrize("start", [[], ["doc1#0", "other", "doc2#2"]], ids=["empty", "with rows"])
def test_an_earlier_store_gives_every_part(grower: Grower, tmp_path: Path, start: list[str]) -> None:
    group = grower.grow(WINDOWS, TAPS)
    with group.lock():
        group.recover()
        group.save_probe({tap.name: feature("probe", tap) for tap in TAPS})
    published = tmp_path / "out"
    publish(group, [tap.name for tap in TAPS], published)
    another = Grower(tmp_path / "fresh")
    fresh = another.grow(start, TAPS) if start else another.open()
    with fresh.lock():
        fresh.recover()
        fresh.ensure_taps({tap: SHAPES[tap] for tap in TAPS}, shard_nbytes=192)
        names = [tap.name for tap in TAPS]
        taken = seed(
            fresh,
            read_contents(published),
            FolderStore(published),
            keys_of(WINDOWS),
            parts_of(WINDOWS),
            names,
        )
    assert taken == len(WINDOWS) - len(set(start) & set(WINDOWS))
    another.computed.clear()
    check(another.grow([*WINDOWS, "doc0#1"], TAPS), WINDOWS)
    assert {name for name, _ in another.computed} == {"doc0#1"}


def test_dead_rows_and_forgotten_samples_go_with_all_their_parts(grower: Grower) -> None:
    group = grower.grow(WINDOWS, TAPS)
    kept = [name for name in WINDOWS if not name.startswith("doc3#")]
    with group.lock():
        group.recover()
        dead = find_dead(group, keys_of(kept))
        assert dead.mask.sum() == 4
        compact(group, dead.mask)
    check(group, kept)
    with group.lock():
        group.recover()
        erase(group, np.flatnonzero((group.keys() == key_of("doc2")).all(axis=1)).tolist())
    check(group, [name for name in kept if not name.startswith("doc2#")])
    gone = [feature(f"doc2#{part}", tap).tobytes() for part in range(3) for tap in TAPS]
    for path, data in files_of(group.path, ()).items():
        assert not any(piece in data for piece in [*gone, key_of("doc2").tobytes()]), path


def test_row_keys_tell_parts_apart() -> None:
    keys = row_keys(keys_of(["a", "a#1", "b#258"]), parts_of(["a", "a#1", "b#258"]))
    assert keys.shape == (3, 20) and keys[:, 16:].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [2, 1, 0, 0]]
    np.testing.assert_array_equal(keys[0, :16], keys[1, :16])
