"""Transfer arms under DVC: behind the selection, started from it, and rerun by what they depend on alone."""

import json

import projects
import pytest

pytestmark = pytest.mark.slow

QUICK = {"backbones": ["net"], "epochs": 1, "min_steps": 0}


def write(project, transfer):
    params = json.loads((project.root / "params.yaml").read_text())
    projects.write_params(project.root, {**params, "transfer": transfer})


def ran(out):
    return {line.split("'")[1] for line in out.splitlines() if line.startswith("Running stage")}


def test_arms_rerun_what_stands_on_them_and_nothing_before(tracked):
    out = tracked.repro("report")
    assert {"transfer@shape", "transfer@round", "compare", "report"} <= ran(out)
    assert "models' is empty" not in out  # as DVC warns of an output that is an empty folder
    assert json.loads((tracked.root / "data/transfer/shape/scores.json").read_text())["arms"] == []
    write(tracked, {"lp_ft": {**QUICK, "tasks": ["shape"]}})
    always = {"ingest@shapes", "targets@shape", "targets@round", "watch"}
    assert ran(tracked.repro("report")) - always == {"transfer@shape", "transfer@round", "compare", "report"}
    board = json.loads((tracked.root / "data/leaderboard.json").read_text())
    assert {row["arm"] for row in board if row["recipe"]} == {"lp_ft@net"}
    assert ran(tracked.repro("report")) <= always
    tracked.run("dvc", "plots", "show", "data/transfer/shape/history.csv", "-o", "plots")
