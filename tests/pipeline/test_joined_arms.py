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


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """Folds choose, samples have weights, nothing fits memory, and protocols stand beside grids."""
    params = projects.small_params()
    params["tasks"] = {
        "shape": {"on": "shapes", "labels": "sure.csv", "weight": "sure"},
        "size": {
            "on": "shapes",
            "labels": "sure.csv",
            "column": "size",
            "kind": "number",
            "heads": ["sgd", "greedy"],
        },
    }
    params["heads"] = {
        "greedy": {"backbones": ["net"], "taps": ["*.gap"]},
        "sgd": {"epochs": 5, "lr": [0.01, 0.1]},
        "mlp": {"epochs": 5, "hidden": 8},
        "knn": {"k": [1, 3]},
        **{
            name: {"preset": name, "taps": ["block3.gap"], **more}
            for name, more in {
                "dinov2_linear": {"epochs": 2},
                "dinov2_logistic": {},
                "dino_knn": {},
                "clip_logistic": {},
                "kornblith": {},
                "few_shot_closed_form": {},
            }.items()
        },
    }
    params["select"] = {"on": "folds", "by": "balanced_accuracy"}
    params["compare"] = {"k_shot": [1, 2, 5, "all"], "draws": 2, "heads": ["few_shot_closed_form", "knn"]}
    params["baselines"] = ["majority", "pixels"]
    root = projects.make_project(tmp_path_factory.mktemp("folded"), params, num_per_class=20)
    names = sorted(path.relative_to(root / "images").as_posix() for path in (root / "images").rglob("*.png"))
    rows = [f"{name},{name.split('/')[0]},{1 + i % 2},{i % 7}" for i, name in enumerate(names)]
    (root / "sure.csv").write_text("\n".join(["sample_id,shape,sure,size", *rows]) + "\n")
    return root


@pytest.mark.slow
def test_folds_weights_presets_and_features_beyond_memory_go_from_params_to_the_page(
    folded, cli, monkeypatch
):
    monkeypatch.setenv("EMBEDPIPE_MEMORY_GB", "0.000001")
    said = ""
    for step in ("ingest", "extract", "train", "select", "compare", "report"):
        code, out, err = cli(folded, step)
        assert code == 0, (step, out, err)
        said += out + err
    assert "take no sample weights, so all samples count alike in them: knn, dino_knn" in said
    rows = json.loads((folded / "data/leaderboard.json").read_text())
    arms = {row["arm"] for row in rows if row["k_shot"] == "all" and row["task"] == "shape"}
    for head in ("sgd", "mlp", "knn", "dinov2_linear", "dino_knn", "clip_logistic", "few_shot_closed_form"):
        assert f"{head}@net/block3.gap" in arms, arms
    assert {row["k_shot"] for row in rows if row["task"] == "shape"} == {1, 2, 5, "all"}
    scores = json.loads((folded / "data/scores/shape.json").read_text())
    assert scores["on"] == "folds" and all("inner" in row for row in scores["arms"] if "candidates" in row)
    page = (folded / "data/report/index.html").read_text()
    assert "taps by weight" in page and "clip_logistic" in page
