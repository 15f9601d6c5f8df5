"""A small project whose heads are trained and selected: what transfer arms start from."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from embedpipe.cli.app import run

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "pipeline"))
from projects import make_project, small_params

STEPS = ("ingest", "extract", "train", "select")


def arms_params(transfer, **changes):
    """Params of the small project on one task, with transfer arms on its random network."""
    params = small_params()
    del params["tasks"]["round"]
    del params["backbones"]["pixels"]
    params["baselines"] = ["majority"]
    params["transfer"] = {name: {"backbones": ["net"], **(raw or {})} for name, raw in transfer.items()}
    return {**params, **changes}


@pytest.fixture(scope="session")
def trained_project(tmp_path_factory):
    """The steps before `transfer`, run once."""
    root = tmp_path_factory.mktemp("transfer") / "project"
    root.mkdir()
    make_project(root, arms_params({}), num_per_class=16)
    for step in STEPS:
        assert run(["--project", str(root), step]) == 0
    return root


@pytest.fixture
def project(trained_project, tmp_path, monkeypatch):
    """A copy of it; call with arms to write them into params.yaml."""
    root = tmp_path / "project"
    shutil.copytree(trained_project, root)
    monkeypatch.chdir(root)

    def with_arms(transfer, **changes):
        (root / "params.yaml").write_text(json.dumps(arms_params(transfer, **changes)))
        return root

    return with_arms
