"""dvc.yaml: what each stage depends on is what it imports, and nothing that heads do can rerun extraction."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).parent.parent))
import closure

STAGES = YAML(typ="safe", pure=True).load((closure.ROOT / "dvc.yaml").read_text())["stages"]


def definition(stage):
    return STAGES[stage].get("do", STAGES[stage])


def code_deps(stage):
    listed = [dep for dep in definition(stage)["deps"] if dep.split("/")[0] in ("embedpipe", "stages")]
    return set().union(*(closure.expand(dep) for dep in listed))


def imported(stage):
    files = closure.closure(closure.ROOT / "stages" / f"{stage}.py")
    return {path.relative_to(closure.ROOT).as_posix() for path in files} - closure.SPOKEN


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_code_deps_are_exactly_what_the_stage_imports(stage):
    assert code_deps(stage) == imported(stage), f"run python tests/closure.py for the deps of {stage}"


def test_every_code_dep_is_tracked_by_git():
    """A dep that git does not have is missing from a clone, where every stage then fails."""
    if not (closure.ROOT / ".git").exists():
        pytest.skip("not a git checkout: an unpacked copy has what it has")
    listing = subprocess.run(
        ["git", "ls-files"], cwd=closure.ROOT, capture_output=True, text=True, check=True
    )
    missing = set().union(*map(code_deps, STAGES)) - set(listing.stdout.splitlines())
    assert not missing, f"git add {' '.join(sorted(missing))}"


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_runs_its_own_module(stage):
    assert definition(stage)["cmd"].split(" $")[0] == f"python -m stages.{stage}"


@pytest.mark.parametrize("stage", ["ingest", "targets", "source", "extract"])
def test_editing_heads_reruns_nothing_before_training(stage):
    assert not [dep for dep in code_deps(stage) if dep.startswith(("embedpipe/heads", "embedpipe/train/"))]


@pytest.mark.parametrize("stage", ["source", "extract", "train", "select"])
def test_nothing_that_learns_or_selects_depends_on_test_targets(stage):
    assert not [dep for dep in definition(stage)["deps"] if "sealed" in dep or "test_log" in dep]


def test_the_report_depends_on_its_templates():
    listed = definition("report")["deps"]
    templates = list((closure.ROOT / "embedpipe" / "report").rglob("*.j2"))
    assert templates and "embedpipe/report" in listed


def test_metrics_and_plots_are_kept_in_git_for_diffs():
    compare = definition("compare")
    assert [
        one["cache"] for group in ("metrics", "plots") for item in compare[group] for one in item.values()
    ]
    assert not any(
        one["cache"] for group in ("metrics", "plots") for item in compare[group] for one in item.values()
    )
