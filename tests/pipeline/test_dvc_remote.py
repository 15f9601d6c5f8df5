"""What a remote is sent after growth, and what it still holds of a forgotten sample; under real DVC."""

import json
import shutil
import sys

import dvc_projects
import numpy as np
import pytest

from embedpipe.manifest.files import read_parquet
from embedpipe.store.reader import FeatureStore

pytestmark = pytest.mark.slow

FILL = """
import sys
from pathlib import Path
import numpy as np
from embedpipe.spec import BackboneSpec, TapSpec
from embedpipe.store import open_group, publish
rows, tap = int(sys.argv[1]), TapSpec("layer", "gap")
keys = np.zeros((rows, 16), np.uint8)
keys[:, :8] = np.arange(1, rows + 1, dtype=np.uint64)[:, None].view(np.uint8)
group = open_group(Path(".dvc/embedpipe/stores"), BackboneSpec("none", "0" * 32, "none", "{}", "float32", "cpu"))
with group.lock():
    group.recover()
    group.ensure_taps({tap: (8,)}, shard_nbytes=1024)  # 64 rows
    plan = group.plan(keys)
    for block in plan.blocks:
        with group.writer(plan, block, batch=32) as writer:
            for index, segment in enumerate(block.segments):
                values = np.random.default_rng(block.start).standard_normal((len(segment.rows), 8))
                writer.append(segment.rows, {tap.name: values})
            writer.commit()
publish(group, [tap.name], Path("features"))
"""


def files_of(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def test_a_push_after_growth_moves_the_new_shards_and_no_full_one_again(tmp_path):
    project = dvc_projects.DvcProject(tmp_path / "project")
    project.root.mkdir()
    (project.root / "fill.py").write_text(FILL)

    def stage(rows):
        command = f"{sys.executable} fill.py {rows}"
        stages = {"fill": {"cmd": command, "deps": ["fill.py"], "outs": ["features"]}}
        (project.root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
        path = dvc_projects.projects.REPOSITORY
        project.environment = lambda: {
            **dvc_projects.DvcProject.environment(project),
            "PYTHONPATH": str(path),
        }
        project.run("dvc", "repro", "-q")
        project.run("dvc", "push", "-q")

    remote = tmp_path / "remote"
    project.run("git", "init", "-q")
    project.run("dvc", "init", "-q")
    project.run("dvc", "config", "cache.type", "hardlink")
    project.run("dvc", "remote", "add", "-q", "-d", "here", str(remote))
    stage(64 * 5 + 10)
    before, shards = files_of(remote), files_of(project.root / "features/layer.gap/c")
    assert len(shards) == 6
    old = {path.relative_to(project.root): path.read_bytes() for path in shards}
    stage(64 * 7)
    moved = {path.read_bytes() for path in files_of(remote) - before}
    now = {
        path.relative_to(project.root): path.read_bytes()
        for path in files_of(project.root / "features/layer.gap/c")
    }
    new = {data for path, data in now.items() if old.get(path) != data}
    assert len(now) == 7 and len(new) == 2, "the tail, now full, and the one behind it"
    assert new <= moved
    assert not moved & (set(now.values()) - new), "no full shard is sent again"
    # and keys, the lengths in four zarr.json, store.json and the list of the folder
    assert len(moved) <= len(new) + 7

    shutil.rmtree(project.root / ".dvc/cache")
    shutil.rmtree(project.root / "features")
    project.run("dvc", "pull", "-q")
    assert {path: (project.root / path).read_bytes() for path in now} == now


def test_forget_lists_the_objects_that_a_remote_really_holds(tracked, tmp_path):
    remote = tmp_path / "remote"
    store = FeatureStore.open(tracked.root / "data/features/net")
    rows = read_parquet(tracked.root / "data/manifests/shapes/samples.parquet", "").to_pylist()
    (key,) = [row["key"] for row in rows if row["sample_id"] == "circle/circle003.png"]
    row = store.rows_of(np.frombuffer(key, np.uint8)[None])
    pieces = [key, *(store.read(name, row).tobytes() for name in store.taps)]

    def holding():
        held = [path for path in files_of(remote) if any(piece in path.read_bytes() for piece in pieces)]
        return {path.parent.name + path.name for path in held if "features" not in path.parts}

    told = json.loads(tracked.run("embedpipe", "forget", "circle/circle003.png", "--yes", "--json"))
    (listed,) = told["dvc"]["remotes"].values()
    assert set(listed) <= {path.parent.name + path.name for path in files_of(remote)}, "each of them is there"
    manifests = {
        path.parent.name + path.name for path in files_of(remote) if path.read_bytes()[:4] == b"PAR1"
    }
    assert holding() - manifests <= set(listed), "and none that holds its features or key is left out"
    assert len(listed) >= len(store.taps) + 1
    assert set(told["dvc"]["cached"]) == set(listed)
