"""SIGKILL at random instants over a store's whole life: it always opens, verifies, and ends the same to the byte.

`make torture` runs this folder. `TORTURE_KILLS` sets the number of kills, `TORTURE_SEED` their instants.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import history

from embedpipe.errors import StoreError
from embedpipe.store import FeatureStore, verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NUM_KILLS = int(os.environ.get("TORTURE_KILLS", "100"))


def start(folder: Path) -> subprocess.Popen[str]:
    script = str(Path(history.__file__))
    return subprocess.Popen([sys.executable, script, str(folder)], stdout=subprocess.PIPE, text=True)


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    """Phases, each as it begins."""
    assert process.stdout is not None
    return (line.strip() for line in process.stdout)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("lock") and "journal" not in path.parts
    }


def check_opens(folder: Path) -> None:
    """What is committed is whole, whatever the kill left."""
    phase = history.PHASES[min(history.phase_of(folder), len(history.PHASES) - 1)]
    for plate in (folder / "stores").glob("*/group.json"):
        damages = {d.path.relative_to(plate.parent).as_posix() for d in verify(plate.parent).damages}
        assert damages <= ({history.DAMAGED} if phase in ("damage", "repair") else set()), (phase, damages)
        try:
            FeatureStore.open(plate.parent)
        except StoreError as error:  # refused in words, never other rows
            assert "rewrite of rows" in str(error) and phase in ("gc", "forget"), error
    if (folder / "published").exists():
        assert verify(folder / "published").ok


def test_a_hundred_kills_over_the_whole_life_of_a_store_end_byte_identical(tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    began: dict[str, float] = {}
    with start(calm) as process:
        for phase in lines_of(process):
            began[phase] = time.monotonic()
    assert process.returncode == 0
    ends = [*began.values(), time.monotonic()][1:]
    lasts_s = {phase: end - begin for (phase, begin), end in zip(began.items(), ends, strict=True)}
    wanted = files_of(calm)
    rng = random.Random(int(os.environ.get("TORTURE_SEED", "0")))
    kills: Counter[str] = Counter()
    num_lives, stuck, before = 0, 0, -1
    folder = tmp_path / "killed"
    while kills.total() < NUM_KILLS or history.phase_of(folder) > 0:
        now = history.phase_of(folder)
        stuck = stuck + 1 if now == before else 0
        before = now
        # this phase or one of the next two, so that short ones are hit as often as long ones; but on to the next
        # after a few kills, which a busy machine may all do before anything happened
        ahead = history.PHASES[now + (stuck >= 3) : now + 3]
        target = rng.choice(ahead) if ahead and kills.total() < NUM_KILLS else None
        with start(folder) as process:
            if target is not None and target in lines_of(process):
                try:
                    process.wait(rng.uniform(0, lasts_s[target]))
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills[target] += 1
            else:
                process.communicate()
        check_opens(folder)
        if process.returncode == 0:
            assert files_of(folder) == wanted
            shutil.rmtree(folder)
            num_lives += 1
        else:
            assert process.returncode == -9
    print(f"{kills.total()} kills over {num_lives} lives of {sum(lasts_s.values()):.1f} s: {dict(kills)}")
    assert num_lives >= 1 and (set(kills) == set(history.PHASES) or NUM_KILLS < 100)


def test_on_a_set_smaller_than_a_shard_a_kill_costs_only_what_was_not_yet_spooled(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(history.__file__).parent.parent / "store"))
    from conftest import GAP, Grower  # type: ignore[import-not-found]

    script = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from conftest import GAP, Grower\n"
        "g = Grower(Path(sys.argv[1]), shard_nbytes=1 << 20, on_append=lambda: (print(len(g.computed), flush=True), "
        "time.sleep(0.01)))\n"
        "g.grow([f's{i}' for i in range(400)], [GAP])\n"
    )
    helpers = str(Path(history.__file__).parent.parent / "store")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), helpers], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = 0
        for line in process.stdout:
            told = int(line)
            if told >= 200:
                break
        process.kill()
    grower = Grower(tmp_path, shard_nbytes=1 << 20)
    grower.grow([f"s{i}" for i in range(400)], [GAP])
    assert len(grower.computed) <= 400 - told
