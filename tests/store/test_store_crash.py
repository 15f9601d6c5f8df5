"""Kills, torn writes and full disks at every file operation: the end is the same, to the byte."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedpipe.errors import DiskFullError, StoreError
from embedpipe.store import FeatureStore, publish, verify
from embedpipe.store.commit import INTENT, JOURNAL, read_intent

from .conftest import GAP, GRID, SHAPES, Grower, expected, files_of, keys_of
from .crash import Killed, killable

BEFORE = [f"s{i}" for i in range(13)]
AFTER = [f"s{i}" for i in range(3, 19)]  # two blocks, of which the first rewrites a tail
ONE_BLOCK = AFTER[:13]


def prepared(root: Path) -> Grower:
    grower = Grower(root)
    grower.grow(BEFORE, [GAP])
    return grower


def check_committed(grower: Grower) -> None:
    """Whatever the kill left, what was committed reads right, before and without recovery."""
    group = grower.open()
    assert verify(group.path).damages == []
    store = FeatureStore.open(group.path)
    np.testing.assert_array_equal(store.read(GAP.name, range(13)), expected(BEFORE, GAP))
    np.testing.assert_array_equal(group.keys()[:13], keys_of(BEFORE))


def kill_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], torn: bool) -> None:
    prepared(tmp_path / "prepared")
    shutil.copytree(tmp_path / "prepared", tmp_path / "calm")
    with killable(monkeypatch) as killer:
        wanted = files_of(Grower(tmp_path / "calm").grow(names, [GAP, GRID]).path)
        operations = killer.writes if torn else list(range(killer.count))
    assert len(operations) > 20
    for at in operations:
        grower = Grower(tmp_path / f"kill{at}")
        shutil.copytree(tmp_path / "prepared", grower.root)
        with killable(monkeypatch) as killer:
            killer.reset(at, torn=torn)
            with pytest.raises(Killed):
                grower.grow(names, [GAP, GRID])
        (grower.open().path / "lock").unlink(missing_ok=True)  # it names this process, which lives on
        check_committed(grower)
        group = grower.grow(names, [GAP, GRID])
        assert files_of(group.path) == wanted, f"killed at operation {at}"
        assert os.listdir(group.path / JOURNAL) == []
        assert verify(group.path).damages == []


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large parts of a file are hashed, written and flushed by threads; here the smallest are too."""
    monkeypatch.setattr("embedpipe.store.disk._PARALLEL_NBYTES", 1)
    monkeypatch.setattr("embedpipe.store.disk._FLUSH_NBYTES", 50)


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_at_every_operation_of_a_growth_ends_byte_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    kill_everywhere(tmp_path, monkeypatch, ONE_BLOCK, torn)


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.usefixtures("threads")
def test_a_kill_at_every_operation_of_two_blocks_ends_byte_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    kill_everywhere(tmp_path, monkeypatch, AFTER, torn)


def test_a_kill_at_every_operation_of_the_first_commit_ends_byte_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killable(monkeypatch) as killer:
        wanted = files_of(Grower(tmp_path / "calm").grow(BEFORE, [GAP]).path)
        num_operations = killer.count
    for at in range(num_operations):
        grower = Grower(tmp_path / f"kill{at}")
        with killable(monkeypatch) as killer:
            killer.reset(at)
            with pytest.raises(Killed):
                grower.grow(BEFORE, [GAP])
        (grower.open().path / "lock").unlink(missing_ok=True)
        assert files_of(grower.grow(BEFORE, [GAP]).path) == wanted, f"killed at operation {at}"


def test_a_kill_of_the_recovery_itself_is_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = prepared(tmp_path / "calm")
    wanted = files_of(calm.grow(AFTER, [GAP, GRID]).path)

    grower = prepared(tmp_path / "interrupted")
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == "0" and (grower.open().path / JOURNAL / INTENT).exists():
            raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            grower.grow(AFTER, [GAP, GRID])
    assert read_intent(grower.open().path) is not None

    at, died = 0, True
    while died:
        again = Grower(tmp_path / f"kill{at}")
        shutil.copytree(grower.root, again.root)
        group = again.open()
        with killable(monkeypatch) as killer:
            killer.reset(at)
            try:
                with group.lock():
                    assert group.recover().rolled_forward
            except Killed:
                pass
            died = killer.dead
        (group.path / "lock").unlink(missing_ok=True)
        check_committed(again)
        assert files_of(again.grow(AFTER, [GAP, GRID]).path) == wanted, f"killed at operation {at}"
        at += 1
    assert at > 20


def test_resume_computes_only_what_the_journal_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grower = prepared(tmp_path)
    grower.computed.clear()

    def die_after_three() -> None:
        if len({name for name, _ in grower.computed}) >= 12:
            raise Killed

    grower.on_append = die_after_three
    with pytest.raises(Killed):
        grower.grow(AFTER, [GAP, GRID])
    first = list(grower.computed)
    grower.computed.clear()
    grower.on_append = lambda: None
    grower.grow(AFTER, [GAP, GRID])
    assert not set(first) & set(grower.computed)
    assert len(first) + len(grower.computed) == 16 + 6


def test_a_journal_serves_another_plan_where_samples_and_taps_are_shared(tmp_path: Path) -> None:
    grower = Grower(tmp_path)

    def die() -> None:
        if len(grower.computed) == 8:
            raise Killed

    grower.on_append = die
    names = [f"n{i}" for i in range(11)]
    with pytest.raises(Killed):
        grower.grow(names, [GAP])
    grower.on_append = lambda: None
    grower.computed.clear()
    group = grower.grow([*names, "new"], [GAP])
    assert {name for name, _ in grower.computed} == {"n8", "n9", "n10", "new"}
    np.testing.assert_array_equal(
        FeatureStore.open(group.path).read(GAP.name, range(11)), expected(names, GAP)
    )


@pytest.mark.parametrize("change", ["batch", "order", "tap"])
def test_a_journal_of_another_batch_order_or_tap_is_not_reused(tmp_path: Path, change: str) -> None:
    grower = Grower(tmp_path)

    def die() -> None:
        if len(grower.computed) == 8:
            raise Killed

    grower.on_append = die
    names = [f"n{i}" for i in range(11)]
    with pytest.raises(Killed):
        grower.grow(names, [GAP])
    grower.on_append = lambda: None
    grower.computed.clear()
    if change == "batch":
        grower.batch = 3
    wanted = ["new", *names] if change == "order" else names
    taps = [GAP, GRID] if change == "tap" else [GAP]
    group = grower.grow(wanted, taps)
    assert {name for name, _ in grower.computed} == set(wanted)
    for tap in taps:
        np.testing.assert_array_equal(
            FeatureStore.open(group.path).read(tap.name, slice(None)), expected(wanted, tap)
        )


def test_zarr_litter_is_swept_and_told(tmp_path: Path) -> None:
    grower = prepared(tmp_path)
    group = grower.open()
    litter = group.path / GAP.name / "c" / "0" / "0.abc.partial"
    litter.write_bytes(b"x")
    with group.lock():
        done = group.recover()
    assert done.removed == (f"{GAP.name}/c/0/0.abc.partial",)
    assert str(done) == "removed 1 temporary files"
    assert not litter.exists()


def filling(real: Callable[..., Any], state: dict[str, int]) -> Callable[..., Any]:
    def operation(*args: Any, **kwargs: Any) -> Any:
        if real is OS_OPEN and args[1] & (os.O_WRONLY | os.O_RDWR) == 0:
            return real(*args, **kwargs)
        state["count"] += 1
        if state["count"] - 1 >= state["at"]:
            if real is OS_WRITE and len(args[1]) > 1:
                real(args[0], bytes(args[1])[: len(args[1]) // 2])  # what fits is written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    return operation


OS_OPEN, OS_WRITE = os.open, os.write


@pytest.mark.usefixtures("threads")
def test_a_disk_full_at_every_write_is_said_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path / "prepared")
    shutil.copytree(tmp_path / "prepared", tmp_path / "calm")
    calm = Grower(tmp_path / "calm")

    def attempt(grower: Grower, at: int) -> int:
        state = {"at": at, "count": 0}
        with monkeypatch.context() as patch:
            for name in ("open", "write", "mkdir", "fsync", "replace", "link"):
                patch.setattr(os, name, filling(getattr(os, name), state))
            grower.grow(ONE_BLOCK, [GRID])
        return state["count"]

    num_writes = attempt(calm, 10**9)
    wanted = files_of(calm.open().path)
    for at in range(num_writes):
        grower = Grower(tmp_path / f"full{at}")
        shutil.copytree(tmp_path / "prepared", grower.root)
        with pytest.raises(
            DiskFullError, match=r"the disk is full \(.* free\): free some space and run again"
        ):
            attempt(grower, at)
        check_committed(grower)
        assert files_of(grower.grow(ONE_BLOCK, [GRID]).path) == wanted, f"full at write {at}"


def test_a_full_disk_while_publishing_leaves_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grower = prepared(tmp_path)
    destination = tmp_path / "features"
    publish(grower.open(), [GAP.name], destination)
    before = files_of(destination)
    grower.grow(AFTER, [GAP])
    state = {"at": 0, "count": 0}
    for at in range(12):
        state.update(at=at, count=0)
        with monkeypatch.context() as patch:
            for name in ("open", "write", "link"):
                patch.setattr(os, name, filling(getattr(os, name), state))
            with pytest.raises(DiskFullError, match="the disk is full"):
                publish(grower.open(), [GAP.name], destination)
        assert files_of(destination) == before
    publish(grower.open(), [GAP.name], destination)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "lock")[0][0] != "."


def test_after_an_error_in_a_commit_the_group_asks_for_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grower = prepared(tmp_path)
    group = grower.open()
    with group.lock():
        group.recover()
        group.ensure_taps({GAP: SHAPES[GAP]}, shard_nbytes=192)
        plan = group.plan(keys_of(AFTER), taps=[GAP.name])
        with monkeypatch.context() as patch:
            patch.setattr(
                "embedpipe.store.ledger.append_entry", lambda *_: (_ for _ in ()).throw(OSError("x"))
            )
            with pytest.raises(OSError, match="x"):
                grower.fill(group, plan, AFTER)
        with pytest.raises(StoreError, match=r"call recover\(\)"):
            grower.fill(group, plan, AFTER)
        assert group.recover().rolled_forward
    assert group.num_rows == 16
