"""Files that params.yaml names: an edit in place reruns what stands on them, a touch nothing."""

import json
import os
import shutil

import projects
import pytest

from embedpipe.errors import WeightsError
from embedpipe.steps.watch import watch_files
from embedpipe.workspace import Workspace

ALWAYS = {"ingest@shapes", "targets@shape", "targets@round", "watch"}
QUICK = {"backbones": ["net"], "tasks": ["shape"], "epochs": 1, "min_steps": 0}


@pytest.fixture
def project(tmp_path):
    """params.yaml with a backbone of each kind of file, and nothing else."""
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    (tmp_path / "mine.py").write_text("def factory(): ...\n")
    params = {
        "backbones": {
            "net": {"model": "glyphnet", "weights": "net.safetensors", "taps": {"last": ["gap"]}},
            "own": {"model": "python:mine:factory", "taps": {"last": ["gap"]}},
            "pixels": {"model": "pixels", "taps": {"pixels": ["flatten"]}},
        },
        "transfer": {"lp_ft": {}, "part": {"recipe": "full", "load": {"weights": "net.safetensors"}}},
    }
    projects.write_params(tmp_path, params)
    return Workspace(tmp_path, tmp_path / ".embedpipe")


def written(project):
    return {
        path.relative_to(project.watched_dir).as_posix(): path.read_text()
        for path in project.watched_dir.rglob("*")
        if path.is_file()
    }


def changed(project, edit):
    before = written(project)
    edit()
    watch_files(project)
    after = written(project)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_each_file_changes_what_names_it_and_nothing_else(project):
    watch_files(project)
    names = {"backbones/net.json", "backbones/own.json", "backbones/pixels.json", "transfer.json"}
    assert set(written(project)) == names
    assert changed(project, lambda: (project.root / "net.safetensors").write_bytes(b"WEIGHTS")) == {
        "backbones/net.json", "transfer.json"
    }  # fmt: skip
    assert changed(project, lambda: (project.root / "mine.py").write_text("\n")) == {"backbones/own.json"}
    assert changed(project, lambda: os.utime(project.root / "mine.py", (1, 1))) == set()


def test_another_checkout_with_the_same_files_writes_the_same_bytes(project, tmp_path_factory):
    watch_files(project)
    other = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(project.root, other)
    elsewhere = Workspace(other, other / ".work")
    watch_files(elsewhere)
    assert written(elsewhere) == written(project)


def test_a_backbone_that_is_gone_is_no_longer_watched(project):
    watch_files(project)
    params = json.loads(project.params.read_text())
    del params["backbones"]["own"]
    projects.write_params(project.root, params)
    assert changed(project, lambda: None) == {"backbones/own.json"}


def test_an_absent_file_of_an_arm_is_one_sentence(project):
    params = json.loads(project.params.read_text())
    params["transfer"]["part"]["load"]["weights"] = "absent.pth"
    projects.write_params(project.root, params)
    with pytest.raises(WeightsError) as caught:
        watch_files(project)
    assert str(caught.value) == (
        f"params.yaml: transfer.part.load.weights: no such file: {project.root / 'absent.pth'}; put it there, or "
        "correct the path"
    )


def make_weights(path, seed):
    from embedpipe.backbones.glyphnet import GlyphNet
    from embedpipe.backbones.models import build_seeded

    state = build_seeded(lambda: GlyphNet(52, 8, 16), seed).state_dict()
    import safetensors.torch

    with path.open("r+b" if path.exists() else "wb") as file:  # in place: the same file, of the same size
        file.write(safetensors.torch.save(state))


def change_params(project, change):
    params = json.loads((project.root / "params.yaml").read_text())
    change(params)
    projects.write_params(project.root, params)


def ran(out):
    return {line.split("'")[1] for line in out.splitlines() if line.startswith("Running stage")}


@pytest.mark.slow
def test_weights_edited_in_place_are_embedded_anew_and_those_of_no_other_backbone(tracked):
    weights = tracked.root / "net.safetensors"
    make_weights(weights, 1)

    def with_file(params):
        params["backbones"]["net"]["weights"] = "net.safetensors"
        params["backbones"]["other"] = {**params["backbones"]["net"], "weights": "random:5"}

    change_params(tracked, with_file)
    assert {"extract@net", "extract@other"} <= ran(tracked.repro())
    assert ran(tracked.repro()) <= ALWAYS
    before = [path.read_bytes() for path in tracked.shards()]
    os.utime(weights)
    assert ran(tracked.repro()) <= ALWAYS

    make_weights(weights, 2)
    out = tracked.repro()
    assert ran(out) - ALWAYS == {"extract@net"} and "net: 72 embedded" in out
    assert [path.read_bytes() for path in tracked.shards()] != before

    make_weights(weights, 1)
    out = tracked.repro()  # the run-cache has it
    assert "extract@net' is cached" in out and ran(out) <= ALWAYS
    assert [path.read_bytes() for path in tracked.shards()] == before


@pytest.mark.slow
def test_weights_that_an_arm_loads_rerun_transfer_and_nothing_before(tracked):
    make_weights(tracked.root / "start.safetensors", 1)

    def with_arm(params):
        params["transfer"] = {"part": {**QUICK, "recipe": "full", "load": {"weights": "start.safetensors"}}}

    change_params(tracked, with_arm)
    tracked.repro("transfer")
    make_weights(tracked.root / "start.safetensors", 2)
    out = tracked.repro("transfer")
    assert ran(out) - ALWAYS == {"transfer@shape", "transfer@round"}
    assert "shape: 1 transfer arms; 1 fits done now" in out
