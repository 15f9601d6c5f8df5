"""What the pages say is what the code does."""

import importlib.util
import json
import re

import projects
from ruamel.yaml import YAML

from embedpipe.config import load_params

ROOT = projects.REPOSITORY


def test_the_reference_of_params_is_the_options_own():
    spec = importlib.util.spec_from_file_location("make_params", ROOT / "docs" / "make_params.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "params.md").read_text() == module.page(), "run python docs/make_params.py"


def test_the_params_of_the_repository_are_valid():
    assert set(load_params(ROOT / "params.yaml").backbones) == {"glyphnet", "glyphnet_random", "pixels"}


def test_the_params_shown_in_the_readme_are_valid(tmp_path):
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    (tmp_path / "params.yaml").write_text(shown)
    assert set(load_params(tmp_path / "params.yaml").backbones) == {"r18", "r18_random", "pixels"}


def test_every_embedpipe_command_in_the_readme_exists():
    from typer.main import get_command

    from embedpipe.cli.app import app

    known = set(get_command(app).commands)
    named = set(re.findall(r"`?embedpipe ([a-z]+)", (ROOT / "README.md").read_text())) - {"runs"}
    assert named and named <= known, named - known


def test_the_headline_in_the_readme_is_the_committed_runs():
    metrics = json.loads((ROOT / "data" / "metrics.json").read_text())["headline"]
    quoted = re.search(r"^> (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE).group(1)
    for value in metrics.values():
        assert f"{100 * value:.1f} " in quoted


def test_the_default_is_as_dvc_reads_it():
    raw = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    assert set(raw) == set(load_params(ROOT / "params.yaml").model_fields_set)


def test_the_example_of_each_kind_of_task_is_one_that_is_read():
    from typing import get_args

    from embedpipe.ingest.task_options import TaskOptions
    from embedpipe.manifest.kinds import TaskKind
    from embedpipe.params import validate

    page = (ROOT / "docs/params.md").read_text(encoding="utf-8")
    example = YAML(typ="safe").load(page.split("```yaml\n")[1].split("```")[0])
    kinds = [validate(TaskOptions, raw, name).kind for name, raw in example["tasks"].items()]
    assert set(kinds) == set(get_args(TaskKind))
