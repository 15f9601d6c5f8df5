"""SIGKILL a real process at random instants until it gets through; the end is the same, to the byte."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedpipe.store import verify

from .conftest import GAP, Grower, files_of

SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from conftest import GAP, GRID, Grower
from embedpipe.store import publish
grower = Grower(Path(sys.argv[1]) / "stores", on_append=lambda: time.sleep(0.002))
print("begun", flush=True)
grower.grow([f"s{i}" for i in range(200)], [GAP])
group = grower.grow([f"s{i}" for i in range(20, 300)], [GAP, GRID])
publish(group, [GAP.name, GRID.name], Path(sys.argv[1]) / "published")
"""


def run(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(Path(__file__).parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_instants_end_byte_identical(tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    with run(calm) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        assert process.wait() == 0
        whole_s = time.monotonic() - began
    wanted = files_of(calm / "stores"), files_of(calm / "published")
    rng = random.Random(0)
    num_kills = 0
    folder = tmp_path / "killed"
    while num_kills < 20:
        with run(folder) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                process.wait(rng.uniform(0, whole_s / 3))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                num_kills += 1
        grower = Grower(folder / "stores")
        if (grower.root).exists() and list(grower.root.glob("*/group.json")):
            assert verify(grower.open().path).damages == []
        if process.returncode == 0:
            assert (files_of(folder / "stores"), files_of(folder / "published")) == wanted
            shutil.rmtree(folder)
    with run(folder) as process:
        assert process.wait() == 0
    assert (files_of(folder / "stores"), files_of(folder / "published")) == wanted
    assert verify(folder / "published").ok
    assert grower.open().taps[GAP.name].num_rows == 300
