"""Write, grow samples, grow taps, kill, reopen, publish, damage, repair, gc, forget, verify: against a dictionary."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embedpipe.spec import TapSpec
from embedpipe.store import FeatureStore, Group, publish, verify
from embedpipe.store.commit import INTENT, JOURNAL
from embedpipe.upkeep.compaction import compact, erase, find_dead, journals_of
from embedpipe.upkeep.repair import TOMBSTONE_PART, repair_group

from .conftest import GAP, GRID, Grower, feature, files_of, keys_of, parts_of
from .crash import Killed, killable

NAMES = [
    *(f"n{i}" for i in range(30)),
    *(f"n{i % 6}#{1 + i // 6}" for i in range(12)),
]  # some have three parts
samples = st.lists(st.sampled_from(NAMES), max_size=25)
taps = st.sampled_from([[GAP], [GRID], [GAP, GRID]])


def sample_of(name: str) -> str:
    return name.partition("#")[0]


class StoreMachine(RuleBasedStateMachine):
    """`held` is the model: (part of a sample, tap) -> True if it has features."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("os.fsync", lambda fd: None)
        self.grower = Grower(self.folder / "stores")
        self.held: set[tuple[str, TapSpec]] = set()
        self.asked: tuple[list[str], list[TapSpec]] = ([], [])

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.folder)

    @rule(names=samples, wanted=taps, failing=st.sets(st.sampled_from(NAMES), max_size=3))
    def grow(self, names: list[str], wanted: list[TapSpec], failing: set[str]) -> None:
        self.grower.failing = frozenset(failing)
        self.grower.computed.clear()
        self.recover()
        self.grower.grow(names, wanted)
        computed = self.grower.computed
        assert len(computed) == len(set(computed)), "nothing twice"
        by_name = {tap.name: tap for tap in wanted}
        assert not {(name, by_name[tap]) for name, tap in computed} & self.held, "nothing again"
        self.held |= {(name, tap) for name in names for tap in wanted if name not in failing}

    @rule(names=samples, wanted=taps, at=st.integers(0, 250), torn=st.booleans())
    def grow_and_be_killed(self, names: list[str], wanted: list[TapSpec], at: int, torn: bool) -> None:
        self.grower.failing = frozenset()
        group = self.recover()
        with killable(self.patch) as killer:
            killer.reset(at, torn=torn)
            with contextlib.suppress(Killed):
                self.grower.grow(names, wanted)
        (group.path / "lock").unlink(missing_ok=True)
        self.asked = (names, wanted)
        self.learn()

    def learn(self) -> None:
        """Which blocks a killed growth committed, only the ledger knows; their values are checked."""
        names, wanted = self.asked
        store = FeatureStore.open(self.grower.open().path)
        rows = dict(zip(names, store.rows_of(keys_of(names), parts_of(names)).tolist(), strict=True))
        for tap in wanted:
            if tap.name in store.taps:
                holes = store.holes(tap.name)
                self.held |= {(name, tap) for name, row in rows.items() if row >= 0 and row not in holes}

    def recover(self) -> Group:
        group = self.grower.open()
        with group.lock():
            group.recover()
        self.learn()
        return group

    @rule(wanted=taps)
    def publish_and_read(self, wanted: list[TapSpec]) -> None:
        group = self.recover()
        wanted = [tap for tap in wanted if tap.name in group.state.taps]
        if wanted:
            publish(group, [tap.name for tap in wanted], self.folder / "published")
            assert verify(self.folder / "published").ok
            self.check(FeatureStore.open(self.folder / "published"))

    @rule(names=samples, at=st.integers(0, 120), torn=st.booleans())
    def collect_garbage(self, names: list[str], at: int, torn: bool) -> None:
        """Rows of no named sample go, the others stay as they were; a kill may come anywhere in it, or not."""
        group = self.recover()
        if not any(sample_of(name) in map(sample_of, names) for name, _ in self.held):
            return
        with killable(self.patch) as killer:
            killer.reset(at, torn=torn)
            with contextlib.suppress(Killed), group.lock():
                group.recover()
                compact(group, find_dead(group, keys_of(names)).mask)
        if killer.dead:
            (group.path / "lock").unlink(missing_ok=True)
            group = self.grower.open()
            with group.lock():
                group.recover()
                assert verify(group.path).damages == []
                compact(group, find_dead(group, keys_of(names)).mask)
        living = set(map(sample_of, names))
        self.held = {(name, tap) for name, tap in self.held if sample_of(name) in living}
        assert not find_dead(self.grower.open(), keys_of(names)).mask.any()

    @rule(name=st.sampled_from(NAMES))
    def forget(self, name: str) -> None:
        group = self.recover()
        with group.lock():
            group.recover()
            for path in journals_of(group, {keys_of([name]).tobytes()}):
                path.unlink()
            rows = np.flatnonzero((group.keys() == keys_of([name])).all(axis=1)).tolist()
            if rows:
                erase(group, rows)
        named = [one for one in NAMES if sample_of(one) == sample_of(name)]
        self.held = {(other, tap) for other, tap in self.held if other not in named}
        gone = [feature(one, tap).tobytes() for tap in (GAP, GRID) for one in named]
        gone.append(keys_of([name]).tobytes())
        for path, data in files_of(group.path, ()).items():
            assert not any(piece in data for piece in gone), path

    @rule(
        which=st.integers(0, 1000),
        how=st.sampled_from(["flip", "cut", "delete"]),
        where=st.integers(0, 10**6),
    )
    def damage_and_repair(self, which: int, how: str, where: int) -> None:
        """One file is damaged: verify names it and no other, repair loses at most the rows of its shard."""
        group = self.recover()
        files = [path for path in sorted(group.state.files) if "/c/" in path or path.endswith("zarr.json")]
        if not files:
            return
        name = files[which % len(files)]
        path = group.path / name
        data = path.read_bytes()
        path.unlink()  # the published link of it stays whole
        if how != "delete":
            at = where % len(data)
            path.write_bytes(
                data[:at] if how == "cut" else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            )
        assert [damage.path for damage in verify(group.path).damages] == [path]
        before, rows = set(self.held), group.num_rows
        first = [group.keys()] if "keys/" not in name else []
        mended = repair_group(group.path, lambda path, record: [])
        group = self.grower.open()
        assert group.num_rows == rows and verify(group.path).damages == []
        for keys in first:
            np.testing.assert_array_equal(group.keys(), keys)
        store = FeatureStore.open(group.path)
        found = {
            (sample, tap)
            for sample, tap in before
            for row in store.rows_of(keys_of([sample]), parts_of([sample])).tolist()
            if row >= 0 and row not in store.holes(tap.name)
        }
        if "zarr.json" in name:
            assert found == before and name in mended.restored
        elif name.startswith(tuple(f"{tap.name}/" for tap in (GAP, GRID))):
            assert {tap.name for _, tap in before - found} <= {name.split("/")[0]}
            assert sum(mended.lost.values()) == len(before - found)
        self.held = found

    @invariant()
    def everything_held_reads_right(self) -> None:
        if not hasattr(self, "grower"):
            return
        group = self.grower.open()
        assert verify(group.path).damages == []
        self.check(FeatureStore.open(group.path))

    def check(self, store: FeatureStore) -> None:
        for tap in (GAP, GRID):
            if tap.name not in store.taps:
                continue
            names = sorted(name for name, held in self.held if held == tap)
            holes = store.holes(tap.name)
            values = store.read(tap.name, slice(None))
            # between a kill and the recovery a shard may hold already what the ledger still calls a hole
            if not (store.path / JOURNAL / INTENT).exists():
                # rows whose keys a repair gave up hold features of nobody, until gc
                assert np.isnan(values[[row for row in holes if store.parts[row] != TOMBSTONE_PART]]).all()
            assert store.num_rows - len(holes) == len(names)
            if names:
                rows = store.rows_of(keys_of(names), parts_of(names))
                np.testing.assert_array_equal(values[rows], np.stack([feature(n, tap) for n in names]))


StoreMachine.TestCase.settings = settings(
    deadline=None,
    max_examples=10,
    stateful_step_count=6,
    suppress_health_check=list(HealthCheck),
)
test_any_history_of_growth_and_kills_holds_what_a_dictionary_holds = StoreMachine.TestCase
