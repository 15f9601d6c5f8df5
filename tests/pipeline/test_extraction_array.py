"""Several processes extract one store: the bytes of a single run, whoever is killed when."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import projects
import pytest

from embedpipe.extract.array import TaskOf, parse_task
from embedpipe.steps.ingest import ingest_dataset
from embedpipe.workspace import Workspace

# blocks of 16 rows, and each sample slow enough that a kill meets work
PROCESS = """
import sys, time
from embedpipe.store import layout
layout.MAX_SHARD_ROWS = 16
from embedpipe.extract.computer import Computer
real = Computer.read
def slow(self, source, locator, part=0):
    time.sleep(float(sys.argv[1]))
    return real(self, source, locator, part)
Computer.read = slow
import torch
torch.set_num_threads(1)
from embedpipe.cli.app import run
sys.exit(run(sys.argv[2:]))
"""


def launch(root, *arguments, slow=0.0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(slow), *arguments],
        cwd=root, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip


def finish(process):
    _, err = process.communicate(timeout=120)
    return process.returncode, err


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = projects.make_project(tmp_path_factory.mktemp("array"))
    ingest_dataset(Workspace(root, root / ".embedpipe"), "shapes")
    return root


@pytest.fixture(scope="module")
def serial(template, tmp_path_factory):
    """Published bytes of one run in one process."""
    from embedpipe.cli.app import run
    from embedpipe.store import layout

    root = shutil.copytree(template, tmp_path_factory.mktemp("serial") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(layout, "MAX_SHARD_ROWS", 16)
        assert run(["extract", "net"]) == 0
    return published(root)


def published(root):
    folder = root / "data/features/net"
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def spool(root):
    (group,) = (root / ".embedpipe/stores").glob("*/group.json")
    return group.parent / "journal/spool"


def test_a_task_is_i_of_n():
    assert parse_task("3/8") == TaskOf(3, 8)
    for text in ("0/4", "5/4", "3", "a/b", "-1/2"):
        with pytest.raises(ValueError, match=r"--task.*3/8"):
            parse_task(text)


def test_tasks_spool_their_blocks_and_the_last_one_commits_the_bytes_of_a_single_run(
    cli, template, serial, tmp_path, monkeypatch
):
    from embedpipe.store import layout

    monkeypatch.setattr(layout, "MAX_SHARD_ROWS", 16)
    root = shutil.copytree(template, tmp_path / "project")
    code, _, err = cli(root, "extract", "net", "--task", "2/2")
    assert code == 0 and "spooled its 2 blocks" in err and "3 of 5" in err
    assert not (root / "data/features/net").exists()
    code, _, err = cli(root, "extract", "net", "--task", "2/2")  # again: nothing is computed twice
    assert code == 0 and not (root / "data/features/net").exists()
    code, out, err = cli(root, "extract", "net", "--task", "1/2", "--json")
    assert code == 0 and json.loads(out)[0]["num_embedded"] == 0, err
    assert published(root) == serial
    assert not spool(root).exists()


def test_a_plain_run_takes_over_what_tasks_have_spooled(cli, template, serial, tmp_path, monkeypatch):
    from embedpipe.store import layout

    monkeypatch.setattr(layout, "MAX_SHARD_ROWS", 16)
    root = shutil.copytree(template, tmp_path / "project")
    assert cli(root, "extract", "net", "--task", "1/3")[0] == 0
    code, out, _ = cli(root, "extract", "net", "--json")
    assert code == 0 and json.loads(out)[0]["num_embedded"] == 72 - 2 * 16
    assert published(root) == serial and not spool(root).exists()


def test_blocks_of_another_plan_are_not_taken_over(cli, template, tmp_path, monkeypatch):
    from embedpipe.store import layout

    monkeypatch.setattr(layout, "MAX_SHARD_ROWS", 16)
    root = shutil.copytree(template, tmp_path / "project")
    assert cli(root, "extract", "net", "--task", "1/2")[0] == 0
    params = projects.small_params()
    params["extract"]["batch"] = 8
    projects.write_params(root, params)
    code, out, _ = cli(root, "extract", "net", "--json")
    assert code == 0 and json.loads(out)[0]["num_embedded"] == 72 and not spool(root).exists()


def test_forgetting_a_sample_drops_what_tasks_have_spooled_of_it(cli, template, tmp_path, monkeypatch):
    from embedpipe.store import layout

    monkeypatch.setattr(layout, "MAX_SHARD_ROWS", 16)
    root = shutil.copytree(template, tmp_path / "project")
    assert cli(root, "extract", "net", "--task", "1/2")[0] == 0
    before = sorted(spool(root).rglob("*.journal"))
    code, _, err = cli(root, "forget", "circle/circle000.png", "--yes")
    assert code == 0, err
    after = sorted(spool(root).rglob("*.journal"))
    assert len(before) == 3 and len(after) == 2  # the block that held it is gone, the others stay
    code, out, _ = cli(root, "extract", "net", "--json")
    assert code == 0 and json.loads(out)[0]["num_embedded"] == 72 - 16 - 8


def test_a_failed_sample_is_quarantined_whoever_computed_it(cli, template, tmp_path, monkeypatch):
    from embedpipe.store import layout

    monkeypatch.setattr(layout, "MAX_SHARD_ROWS", 16)
    root = shutil.copytree(template, tmp_path / "project")
    params = projects.small_params()
    params["extract"]["max_failed"] = 0.05
    projects.write_params(root, params)
    image = root / "images/circle/circle003.png"
    image.write_bytes(image.read_bytes()[:-60])
    assert cli(root, "extract", "net", "--task", "2/2")[0] == 0
    code, _, err = cli(root, "extract", "net", "--task", "1/2")
    assert code == 0 and "1 unreadable" in err, err
    assert "circle003" in (root / "data/features/net/failed.csv").read_text()


def test_two_processes_at_once_give_the_bytes_of_one(template, serial, tmp_path):
    root = shutil.copytree(template, tmp_path / "project")
    running = [launch(root, "extract", "net", "--task", f"{i}/2", slow=0.005) for i in (1, 2)]
    for process in running:
        code, err = finish(process)
        assert code == 0, err
    assert published(root) == serial and not spool(root).exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # twenty runs of two processes each
def test_twenty_kills_of_a_task_cost_no_byte(template, serial, tmp_path):
    root = shutil.copytree(template, tmp_path / "project")
    generator, num_killed = random.Random(0), 0
    for _ in range(200):
        running = [launch(root, "extract", "net", "--task", f"{i}/2", slow=0.04) for i in (1, 2)]
        if num_killed < 20:
            time.sleep(generator.uniform(1.5, 5.0))
            victim = generator.choice(running)
            if victim.poll() is None:
                victim.send_signal(signal.SIGKILL)
                num_killed += 1
        ends = [finish(process)[0] for process in running]
        assert all(code in (0, -signal.SIGKILL) for code in ends)
        if num_killed >= 20 and (root / "data/features/net/store.json").exists():
            break
        if (
            num_killed < 20 and (root / "data/features/net").exists()
        ):  # done too early: once more from nothing
            assert published(root) == serial
            shutil.rmtree(root / "data/features/net")
            shutil.rmtree(root / ".embedpipe/stores")
    assert num_killed == 20 and published(root) == serial
