"""Workers of dask extract one store: the bytes of a single run, whoever is killed when."""

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

from embedpipe.errors import StoreError
from embedpipe.extract.worker import WITNESS, check_shared
from embedpipe.steps.ingest import ingest_dataset
from embedpipe.store import layout
from embedpipe.workspace import Workspace

SLOW = """
import os, time
from embedpipe.extract.computer import Computer
def slow(self, source, locator, part=0, real=Computer.read):
    time.sleep(float(os.environ["SLOW_S"]))
    return real(self, source, locator, part)
if Computer.read.__name__ != "slow":  # dask may run a preloaded file twice
    Computer.read = slow
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = projects.make_project(tmp_path_factory.mktemp("dask"))
    ingest_dataset(Workspace(root, root / ".embedpipe"), "shapes")
    return root


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(layout, "MAX_SHARD_ROWS", 16)


@pytest.fixture(scope="module")
def serial(template, tmp_path_factory):
    """Published bytes of one run in one process."""
    from embedpipe.cli.app import run

    root = shutil.copytree(template, tmp_path_factory.mktemp("serial") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(layout, "MAX_SHARD_ROWS", 16)
        assert run(["extract", "net"]) == 0
    return published(root)


@pytest.fixture
def project(template, tmp_path):
    return shutil.copytree(template, tmp_path / "project")


def published(root):
    folder = root / "data/features/net"
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def with_options(root, **extract):
    params = projects.small_params()
    params["extract"] |= {"executor": "dask", "wait_s": 60.0, **extract}
    projects.write_params(root, params)
    return root


def nothing_is_left(root):
    return not list((root / ".embedpipe/stores").glob("*.dask")) and not list(
        (root / ".embedpipe/stores").glob("*/journal/spool")
    )


class Cluster:
    """A scheduler and workers, started by hand as a user does."""

    def __init__(self, folder, slow_s=0.0):
        (folder / "slow.py").write_text(SLOW)
        self.folder, self.workers = folder, []
        self.environment = {**os.environ, "SLOW_S": str(slow_s), "TMPDIR": str(folder)}
        self.scheduler = self.start("scheduler", "--port", "0", "--scheduler-file", folder / "at.json")
        deadline = time.monotonic() + 60
        while not (folder / "at.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.address = json.loads((folder / "at.json").read_text())["address"]

    def start(self, kind, *arguments):
        command = [sys.executable, "-m", "distributed.cli.dask_" + kind, "--host", "127.0.0.1"]
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(
                [*command, "--no-dashboard", *map(str, arguments)],
                stdout=log, stderr=log, env=self.environment,
            )  # fmt: skip

    def add_worker(self):
        options = [
            "--no-nanny",
            "--nthreads",
            "1",
            "--memory-limit",
            "0",
            "--preload",
            self.folder / "slow.py",
        ]
        self.workers.append(self.start("worker", self.address, *options))

    def close(self):
        for process in [*self.workers, self.scheduler]:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(30)


@pytest.fixture
def start_cluster(tmp_path):
    clusters = []

    def start(num_workers, slow_s=0.0):
        folder = tmp_path / f"cluster{len(clusters)}"
        folder.mkdir()
        clusters.append(Cluster(folder, slow_s))
        for _ in range(num_workers):
            clusters[-1].add_worker()
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()


def launch(root):
    """The coordinator as a process of its own."""
    program = (
        "import sys; from embedpipe.store import layout; layout.MAX_SHARD_ROWS = 16\n"
        "from embedpipe.cli.app import run\n"
        "if __name__ == '__main__': sys.exit(run(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, "extract", "net"],
        cwd=root, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def test_a_worker_that_does_not_see_the_working_folder_says_so(tmp_path):
    desk = tmp_path / "net.dask"
    with pytest.raises(StoreError, match=r"worker on .*mount it there"):
        check_shared(desk, "token")
    desk.mkdir()
    (desk / WITNESS).write_text("of another run")
    with pytest.raises(StoreError, match="of another run"):
        check_shared(desk, "token")
    (desk / WITNESS).write_text("token")
    check_shared(desk, "token")


@pytest.mark.slow  # dask tries for half a minute
def test_a_scheduler_that_does_not_answer_is_named(cli, project):
    with_options(project, scheduler="tcp://127.0.0.1:9")
    code, _, err = cli(project, "extract", "net")
    assert code == 2 and "tcp://127.0.0.1:9" in err and "dask scheduler" in err


@pytest.mark.slow
def test_workers_of_a_scheduler_started_by_hand_give_the_bytes_of_one_process(
    cli, project, serial, start_cluster
):
    with_options(project, scheduler=start_cluster(2).address)
    code, out, err = cli(project, "extract", "net", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["num_embedded"] == 72
    assert published(project) == serial and nothing_is_left(project)


@pytest.mark.slow
def test_workers_started_here_give_the_bytes_of_one_process(cli, project, serial):
    with_options(project, workers=2)
    code, out, err = cli(project, "extract", "net", "--json")
    assert code == 0 and json.loads(out)[0]["num_embedded"] == 72, err
    assert published(project) == serial and nothing_is_left(project)


@pytest.mark.slow
def test_unreadable_samples_are_counted_once_whoever_met_them(cli, project, start_cluster):
    with_options(project, scheduler=start_cluster(1).address, max_failed=0.05)
    image = project / "images/circle/circle003.png"
    image.write_bytes(image.read_bytes()[:-60])
    code, out, err = cli(project, "extract", "net", "--json")
    assert code == 0, err
    (said,) = json.loads(out)
    assert said["num_failed"] == 1 and said["num_embedded"] == 71
    assert "circle003" in (project / "data/features/net/failed.csv").read_text()


@pytest.mark.slow
def test_ctrl_c_has_workers_finish_their_batches_and_the_next_run_goes_on(
    cli, project, serial, start_cluster
):
    with_options(project, scheduler=start_cluster(2, slow_s=0.15).address, decode_threads=1)
    process = launch(project)
    spool = project / ".embedpipe/stores"
    deadline = time.monotonic() + 60
    while not list(spool.glob("*/journal/spool/*/rows.journal")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from there" in err, err
    assert not (project / "data/features/net").exists()
    with_options(project, executor="serial")
    code, out, err = cli(project, "extract", "net", "--json")
    assert code == 0 and json.loads(out)[0]["num_embedded"] < 72, err
    assert published(project) == serial and nothing_is_left(project)


@pytest.mark.slow
def test_what_is_committed_or_spooled_outlives_the_scheduler(cli, project, serial, start_cluster):
    cluster = start_cluster(1, slow_s=0.1)
    with_options(project, scheduler=cluster.address, decode_threads=1)
    process = launch(project)
    deadline = time.monotonic() + 60
    while not list(project.glob(".embedpipe/stores/*/journal/spool/*/done")) and time.monotonic() < deadline:
        time.sleep(0.02)
    cluster.scheduler.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "the dask scheduler was lost" in err, err
    cluster.close()
    with_options(project, executor="serial")
    code, out, err = cli(project, "extract", "net", "--json")
    assert code == 0 and json.loads(out)[0]["num_embedded"] <= 72 - 16, err
    assert published(project) == serial and nothing_is_left(project)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # twenty kills, each once a worker is at work
def test_twenty_kills_of_a_worker_cost_no_byte(project, serial, start_cluster):
    cluster, generator, num_killed = start_cluster(2, slow_s=0.1), random.Random(0), 0
    with_options(project, scheduler=cluster.address, decode_threads=1)
    for _ in range(40):
        process = launch(project)
        while process.poll() is None:
            time.sleep(generator.uniform(0.2, 1.0))
            if num_killed < 20 and list(project.glob(".embedpipe/stores/*/journal/spool/*/rows.journal")):
                victim = cluster.workers.pop(generator.randrange(len(cluster.workers)))
                victim.send_signal(signal.SIGKILL)
                victim.wait(30)
                num_killed += 1
                cluster.add_worker()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert published(project) == serial and nothing_is_left(project)
        if num_killed == 20:
            return
        shutil.rmtree(project / "data/features/net")
        shutil.rmtree(project / ".embedpipe/stores")
    raise AssertionError(f"{num_killed} kills only")
