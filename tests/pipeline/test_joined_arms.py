"""Arms on several taps and on maps, from params.yaml to the page."""

import csv
import json

import projects
import pytest

ARMS = {
    "both@net+pixels/block3.gap+pixels.flatten",
    "layerwise@net/block1.gap+block3.gap",
    "group_lasso@net/block1.gap+block3.gap",
    "conv@net/block3.grid2",
    "attentive@net/block3.grid2",
}


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """The small project with heads that join taps, and heads of maps, after every step."""
    params = projects.small_params()
    params["tasks"] = {"shape": params["tasks"]["shape"]}
    params["heads"] = {
        "ridge": {"alpha": [1.0, 100.0]},
        "both": {"family": "logistic", "C": 0.1, "join": [["net/block3.gap", "pixels/*"]]},
        "layerwise": {"taps": ["*.gap"], "backbones": ["net"], "epochs": 20},
        "group_lasso": {"taps": ["*.gap"], "backbones": ["net"]},
        "conv": {"epochs": 10},
        "attentive": {"epochs": 10},
    }
    params["compare"] = {"k_shot": [3, "all"], "draws": 2, "heads": ["ridge", "both"]}
    params["baselines"] = ["majority", "pixels"]
    return projects.make_project(tmp_path_factory.mktemp("fused"), params, num_per_class=12)


def test_joined_arms_and_maps_go_from_params_to_the_page(fused, cli):
    for step in ("ingest", "extract", "train", "select", "compare", "report"):
        code, out, err = cli(fused, step)
        assert code == 0, (step, out, err)
    rows = json.loads((fused / "data/leaderboard.json").read_text())
    arms = {row["arm"]: row for row in rows if row["k_shot"] == "all"}
    assert set(arms) >= ARMS
    assert arms["both@net+pixels/block3.gap+pixels.flatten"]["backbone"] == "net+pixels"
    few = {row["arm"] for row in rows if row["k_shot"] == 3}
    assert "both@net+pixels/block3.gap+pixels.flatten" in few and "selected@net+pixels" in few
    page = (fused / "data/report/index.html").read_text()
    for words in ("net+pixels", "block3.gap+pixels.flatten", "block1.gap+block3.gap", "taps by weight"):
        assert words in page, words
    curves = [path for path in (fused / "data/plots").rglob("*.csv") if "layer" in path.name]
    taps = {row["tap"] for path in curves for row in csv.DictReader(path.read_text().splitlines())}
    assert taps and not any("+" in tap for tap in taps)
    card = json.loads((fused / "data/heads/shape/layerwise@net/block1.gap+block3.gap/arm.json").read_text())
    assert [part["tap"] for part in card["parts"]] == ["block1.gap", "block3.gap"]
