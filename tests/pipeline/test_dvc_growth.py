"""The store under DVC: one copy on disk, run-cache, remotes, fresh clones, experiments killed and at once."""

import os
import shutil
import signal
import time

import pytest

pytestmark = pytest.mark.slow


def inodes(root, *folders):
    return {
        (p.stat().st_ino, p.stat().st_size)
        for folder in folders
        for p in (root / folder).rglob("*")
        if p.is_file()
    }


def test_there_is_one_copy_on_disk(tracked):
    published = inodes(tracked.root, "data/features/net")
    assert published <= inodes(tracked.root, ".dvc/cache")
    shards = {(p.stat().st_ino, p.stat().st_size) for p in tracked.shards()}
    assert shards <= inodes(tracked.root, ".dvc/embedpipe")
    alone = int(tracked.run("du", "-sk", "data/features").split()[0])
    together = int(
        tracked.run("du", "-skc", "data/features", ".dvc/cache", ".dvc/embedpipe").splitlines()[-1].split()[0]
    )
    apart = sum(size for _, size in inodes(tracked.root, ".dvc/cache", ".dvc/embedpipe") - published)
    assert together - alone <= 300 + apart / 1024  # folders, labels and manifests, no second copy of a shard
    assert len(published) > 8


def test_the_run_cache_restores_a_deleted_out(tracked):
    before = {p: p.read_bytes() for p in tracked.shards()}
    shutil.rmtree(tracked.root / "data/features/net")
    out = tracked.repro()
    assert "embedded" not in out
    assert {p: p.read_bytes() for p in tracked.shards()} == before


def test_push_and_pull_move_only_new_shards(tracked, tmp_path):
    remote = tmp_path / "remote"
    before = {p for p in remote.rglob("*") if p.is_file()}
    tracked.add_images()
    assert "1 embedded, 72 already there" in tracked.repro()
    tracked.run("dvc", "push", "-q")
    moved = {p for p in remote.rglob("*") if p.is_file()} - before
    now = {p.stat().st_size for p in tracked.shards()}
    # every shard here is a tail, and so new; probe features, codecs and group metadata are not sent again
    assert sum(p.stat().st_size in now for p in moved) >= 1
    probes = list((tracked.root / "data/features/net/probe").iterdir())
    assert probes and not {p.read_bytes() for p in probes} & {p.read_bytes() for p in moved}


@pytest.mark.parametrize("pulled", [True, False])
def test_a_fresh_clone_that_grows_embeds_only_what_is_new(tracked, tmp_path, pulled):
    clone = tracked.clone(tmp_path / "clone")
    if pulled:
        clone.run("dvc", "pull", "-q", "ingest@shapes", "extract@net")
    clone.add_images()
    out = clone.repro()
    assert "net: 72 samples taken over from what dvc.lock names for data/features/net" in out
    assert "net: 1 embedded, 72 already there" in out
    clone.run("embedpipe", "verify", "net")
    tracked.add_images()
    tracked.repro()
    for path in tracked.shards():
        other = clone.root / path.relative_to(tracked.root)
        assert other.read_bytes() == path.read_bytes(), path


def test_a_deleted_out_and_working_store_that_the_cache_restored_seed_the_next_growth(tracked):
    shutil.rmtree(tracked.root / "data/features/net")
    shutil.rmtree(tracked.root / ".dvc/embedpipe")
    assert "embedded" not in tracked.repro()
    tracked.add_images()
    assert "net: 1 embedded, 72 already there" in tracked.repro()


def test_without_cache_or_remote_everything_is_embedded_again(tracked, tmp_path):
    clone = tracked.clone(tmp_path / "clone")
    shutil.rmtree(tmp_path / "remote")
    clone.add_images()
    assert "net: 73 embedded, 0 already there" in clone.repro()


def test_an_experiment_killed_midway_resumes(tracked):
    tracked.add_images(400)
    (tracked.root / "params.yaml").write_text(
        (tracked.root / "params.yaml").read_text().replace('"batch": 16', '"batch": 16, "journal_s": 0.0')
    )
    running = tracked.start("dvc", "exp", "run", "extract")
    journals = tracked.root / ".dvc/embedpipe/stores"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        if any(p.stat().st_size > 20_000 for p in journals.glob("*/journal/*.journal")):
            break
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    tracked.run("rm", "-f", ".dvc/tmp/rwlock", ".dvc/tmp/exp_scm_lock", ".dvc/tmp/lock")
    out = tracked.run("dvc", "exp", "run", "extract")
    assert "net: 400 embedded" not in out and "embedded" in out
    tracked.run("embedpipe", "verify", "net")


def test_temporary_and_queued_experiments_find_the_working_store(tracked):
    tracked.add_images()
    tracked.run("git", "add", "-A")
    out = tracked.run("dvc", "exp", "run", "--temp", "extract")
    assert "net: 1 embedded, 72 already there" in out
    tracked.run("dvc", "exp", "run", "--queue", "-S", "extract.batch=8", "extract")
    tracked.run("dvc", "exp", "run", "--run-all")
    assert len(list((tracked.root / ".dvc/embedpipe/stores").glob("*/group.json"))) == 1
    out = tracked.repro()
    assert "net: 0 embedded, 73 already there" in out or "embedded" not in out  # the run-cache may have it


def test_a_second_run_waits_for_the_first_and_says_who_holds_the_store(tracked):
    from embedpipe.store.group import find_groups, open_group

    tracked.add_images()
    tracked.run("embedpipe", "ingest")
    stores = tracked.root / ".dvc/embedpipe/stores"
    (info,) = find_groups(stores)
    group = open_group(stores, info.spec)
    with group.lock():
        second = tracked.start("embedpipe", "extract", "net")
        assert second.stdout is not None
        line = second.stdout.readline()
        assert f"held by process {os.getpid()} on this machine" in line and "extract.wait_s" in line
    rest, _ = second.communicate(timeout=120)
    assert second.returncode == 0 and "net: 1 embedded, 72 already there" in rest


def test_with_wait_s_0_a_second_run_stops_and_a_dead_owners_lock_is_taken(tracked):
    from embedpipe.store.group import find_groups, open_group

    params = tracked.root / "params.yaml"
    params.write_text(params.read_text().replace('"batch": 16', '"batch": 16, "wait_s": 0'))
    stores = tracked.root / ".dvc/embedpipe/stores"
    (info,) = find_groups(stores)
    group = open_group(stores, info.spec)
    with group.lock():
        stale = (info.path / "lock").read_bytes()
        out = tracked.run("embedpipe", "extract", "net", code=2)
        assert f"held by process {os.getpid()} on this machine" in out
    dead = stale.replace(f'"pid": {os.getpid()}'.encode(), b'"pid": 4194303')
    (info.path / "lock").write_bytes(dead)
    assert "0 embedded" in tracked.run("embedpipe", "extract", "net")
    elsewhere = stale.replace(b'"machine": "', b'"machine": "other ')
    (info.path / "lock").write_bytes(elsewhere)
    assert "last heard of" in tracked.run("embedpipe", "extract", "net", code=2)
