"""The lock tells a live owner, a dead one and another host apart."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from embedpipe.errors import StoreLocked
from embedpipe.store.lock import GroupLock, Owner


def standing(folder: Path, owner: Owner, beat: float) -> None:
    (folder / "lock").write_text(json.dumps(dataclasses.asdict(owner)))
    os.utime(folder / "lock", (beat, beat))


def test_a_second_owner_is_told_who_holds_the_lock_and_since_when(tmp_path: Path) -> None:
    with (
        GroupLock(tmp_path),
        pytest.raises(StoreLocked, match=rf"held by process {os.getpid()} on this machine since 20\d\d-"),
    ):
        GroupLock(tmp_path).__enter__()
    assert os.listdir(tmp_path) == []


def test_another_process_is_kept_out(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from embedpipe.store.lock import GroupLock\n"
        "with GroupLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(StoreLocked, match=f"held by process {other.pid} on this machine"):
            GroupLock(tmp_path).__enter__()
        other.kill()
        other.wait()
        with GroupLock(tmp_path):
            pass


def test_the_lock_of_a_reused_process_id_is_taken_over(tmp_path: Path) -> None:
    owner = dataclasses.replace(Owner.here(time.time()), process_start=1)
    standing(tmp_path, owner, time.time())
    with GroupLock(tmp_path) as lock:
        lock.check()


@pytest.mark.parametrize(("age", "free"), [(5.0, False), (119.0, False), (121.0, True)])
def test_another_hosts_lock_is_judged_by_the_age_of_its_heartbeat(
    tmp_path: Path, age: float, free: bool
) -> None:
    owner = dataclasses.replace(Owner.here(1000.0), host="node7", machine="node7 boot", pid=1)
    standing(tmp_path, owner, 5000.0)
    lock = GroupLock(tmp_path, clock=lambda: 5000.0 + age)
    if free:
        with lock:
            pass
    else:
        words = rf"held by process 1 on node7 since .*, last heard of {age:.0f} s ago"
        with pytest.raises(StoreLocked, match=words):
            lock.__enter__()


def test_an_unreadable_lock_counts_as_another_hosts(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("{")
    with pytest.raises(StoreLocked, match="an unreadable lock stands"):
        GroupLock(tmp_path).__enter__()
    os.utime(tmp_path / "lock", (0, 0))
    with GroupLock(tmp_path):
        pass


def test_waiting_ends_when_the_owner_lets_go(tmp_path: Path) -> None:
    first = GroupLock(tmp_path)
    first.__enter__()
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            first.__exit__(None, None, None)

    with GroupLock(tmp_path, wait_s=60, sleep=nap):
        assert len(naps) == 3


def test_waiting_gives_up_after_its_time(tmp_path: Path) -> None:
    now = [1000.0]

    def nap(seconds: float) -> None:
        now[0] += seconds

    with GroupLock(tmp_path), pytest.raises(StoreLocked):
        GroupLock(tmp_path, wait_s=2, clock=lambda: now[0], sleep=nap).__enter__()
    assert 1002 <= now[0] < 1003


def test_the_heartbeat_moves_the_files_time(tmp_path: Path) -> None:
    now = [1000.0]
    with GroupLock(tmp_path, clock=lambda: now[0], beat_s=0.01):
        now[0] = 2000.0
        deadline = time.monotonic() + 10
        while (tmp_path / "lock").stat().st_mtime != 2000.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_lock_that_was_taken_over_is_noticed_and_left_alone(tmp_path: Path) -> None:
    with GroupLock(tmp_path, beat_s=0.01) as lock:
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").write_text("another's")
        os.utime(tmp_path / "lock", (0, 0))
        time.sleep(0.05)
        with pytest.raises(StoreLocked, match="held the lock and lost it"):
            lock.check()
    assert (tmp_path / "lock").read_text() == "another's"
    assert (tmp_path / "lock").stat().st_mtime == 0


def test_of_many_that_find_a_dead_lock_one_gets_it(tmp_path: Path) -> None:
    owner = dataclasses.replace(Owner.here(time.time()), process_start=1)
    standing(tmp_path, owner, time.time())
    together = threading.Barrier(8)
    held: list[GroupLock] = []

    def contend() -> None:
        lock = GroupLock(tmp_path)
        together.wait()
        try:
            lock.__enter__()
        except StoreLocked:
            return
        held.append(lock)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    held[0].__exit__(None, None, None)


def test_what_a_process_killed_while_taking_the_lock_has_left_is_swept(tmp_path: Path) -> None:
    dead = dataclasses.replace(Owner.here(time.time()), pid=4194303)
    (tmp_path / f"lock.{dead.token}").write_text(json.dumps(dataclasses.asdict(dead)))
    alive = Owner.here(time.time())
    (tmp_path / f"lock.{alive.token}").write_text(json.dumps(dataclasses.asdict(alive)))
    with GroupLock(tmp_path):
        assert sorted(os.listdir(tmp_path)) == ["lock", f"lock.{alive.token}"]
