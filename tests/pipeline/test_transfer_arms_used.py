"""`predict`, `bundle` and `load` with transfer arms, against the predictions that `transfer` wrote."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import projects
import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file, save

import embedpipe
from embedpipe.cli.app import run
from embedpipe.evaluate.predictions import Predictions
from embedpipe.serve.bundle import read_bundle

QUICK = {"epochs": 1, "min_steps": 0, "batch": 16, "backbones": ["net"], "learning_rate": [0.003]}
HEAD = "logistic@net/block3.gap"


@pytest.fixture(scope="module")
def adapted(finished, tmp_path_factory):
    """The small project with transfer arms on both tasks. Read it; do not change it."""
    project = tmp_path_factory.mktemp("adapted") / "project"
    shutil.copytree(finished, project)
    params = json.loads((project / "params.yaml").read_text())
    arms = {"lp_ft": QUICK, "scratch": QUICK, "direct": {"backbones": ["net"]}}
    params["transfer"] = {**arms, "direct": {**arms["direct"], "tasks": ["shape"]}}
    projects.write_params(project, params)
    before = Path.cwd()
    os.chdir(project)
    try:
        for step in (("transfer", "shape"), ("transfer", "round")):
            assert run(list(step)) == 0, step
    finally:
        os.chdir(before)
    return project


def said_of(project, task, arm):
    """Ids that `transfer` predicted, and what it said."""
    scores = Predictions.read(project / f"data/transfer/{task}/predictions.parquet").scores(arm)
    return scores.sample_ids.tolist(), scores.scores[0]


def rows_of(text):
    return {row["sample_id"]: row for row in csv.DictReader(io.StringIO(text))}


def scores_of(project, rows, task, ids):
    classes = Predictions.read(project / f"data/predictions/{task}.parquet").classes
    return np.array([[float(rows[one][f"p({task}={name})"]) for name in classes] for one in ids])


def pixels_of(model, paths):
    found = zip(*(model._staged(place, path) for place, path in enumerate(paths)), strict=True)
    return [torch.stack(column) for column in found]


def test_two_transfer_arms_answer_in_one_pass_what_transfer_said(adapted, cli, passes):
    arms = {"shape": "lp_ft@net", "round": "scratch@net"}
    asked = [word for task, arm in arms.items() for word in ("--arm", f"{task}:{arm}")]
    code, out, err = cli(adapted, "predict", "images", *asked)
    assert code == 0, err
    rows = rows_of(out)
    for task, arm in arms.items():
        ids, wanted = said_of(adapted, task, arm)
        np.testing.assert_allclose(scores_of(adapted, rows, task, ids), wanted, atol=1e-5)
    assert sum(passes) == 80  # 72 images, in padded batches, once for both
    assert "shape:lp_ft@net: 72 computed, 0 known" in err and "round:scratch@net: 72 computed, 0 known" in err


def test_beside_a_head_known_inputs_are_computed_for_the_transfer_arm_alone(adapted, cli, tmp_path):
    asked = ("--arm", "shape:lp_ft@net", "--arm", f"round:{HEAD}")
    out = tmp_path / "answers.csv"
    code, said, err = cli(adapted, "predict", "images", *asked, "--out", str(out), "--json")
    assert code == 0, err
    summary = json.loads(said)
    assert summary["computed"] == {"net": 0, "shape:lp_ft@net": 72}
    assert summary["known"] == {"net": 72, "shape:lp_ft@net": 0}
    rows = rows_of(out.read_text())
    ids, wanted = said_of(adapted, "shape", "lp_ft@net")
    np.testing.assert_allclose(scores_of(adapted, rows, "shape", ids), wanted, atol=1e-5)
    head = Predictions.read(adapted / "data/predictions/round.parquet").scores(HEAD).at(ids)[0]
    np.testing.assert_allclose(scores_of(adapted, rows, "round", ids), head, atol=1e-6)


def test_what_a_transfer_arm_cannot_read_is_a_row_with_an_error(adapted, cli, tmp_path, passes):
    whole = (adapted / "images/cross/cross000.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "good.png").write_bytes(whole)
    (tmp_path / "again.png").write_bytes(whole)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "new.png")
    code, out, err = cli(
        adapted, "predict", str(tmp_path), "--arm", "shape:lp_ft@net", "--json", "--out", "o.csv"
    )
    assert code == 0, err
    assert json.loads(out)["computed"] == {"shape:lp_ft@net": 2}
    rows = rows_of((adapted / "o.csv").read_text())
    assert rows["cut.png"]["error"].startswith("truncated") and rows["cut.png"]["shape"] == ""
    assert rows["good.png"]["error"] == rows["new.png"]["error"] == "" and rows["new.png"]["shape"]
    assert {**rows["again.png"], "sample_id": ""} == {**rows["good.png"], "sample_id": ""}


def test_answers_that_are_not_finite_are_errors_and_a_damaged_network_is_refused(adapted, cli, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(adapted, project)
    model = project / "data/transfer/shape/models/lp_ft@net/model.safetensors"
    state = load(model.read_bytes())
    parts = {name: name.startswith("head") for name in state}
    model.write_bytes(save({name: one * torch.nan if parts[name] else one for name, one in state.items()}))
    image = "images/cross/cross000.png"
    code, out, err = cli(project, "predict", image, "--arm", "shape:lp_ft@net")
    assert code == 0, err
    assert rows_of(out)["cross000.png"]["error"] == "the answer of lp_ft@net is not finite"
    model.write_bytes(save({name: one for name, one in state.items() if not parts[name]}))
    code, _, err = cli(project, "predict", image, "--arm", "shape:lp_ft@net")
    assert code == 2 and "expected the tensors of lp_ft@net, found something else" in err.replace("\n", " ")
    (model.parent / "model.json").write_text("{")
    code, _, err = cli(project, "bundle", "shape", "--arm", "lp_ft@net")
    assert code == 2 and "damaged: not valid JSON; run `embedpipe transfer` again" in err.replace("\n", " ")


def test_a_bundled_transfer_arm_says_what_transfer_said(adapted, cli, tmp_path):
    arguments = ("--arm", "lp_ft@net", "--out", str(tmp_path / "b"), "--format", "pt2", "--json")
    code, out, err = cli(adapted, "bundle", "shape", *arguments)
    assert code == 0, err
    checked = json.loads(out)["checked"]
    assert checked["num_samples"] > 8 and checked["largest_difference"] < 1e-4
    ids, wanted = said_of(adapted, "shape", "lp_ft@net")
    paths = [str(adapted / "images" / one) for one in ids]
    model = embedpipe.load(tmp_path / "b", device="cpu")
    np.testing.assert_allclose(model.predict_proba(paths), wanted, atol=1e-5)
    network = torch.export.load(tmp_path / "b/model.pt2").module()
    (pixels,) = pixels_of(model, paths)
    np.testing.assert_allclose(network(pixels).numpy(), wanted, atol=1e-4)
    _weights_are_the_arms_own_and_the_card_says_so(adapted, tmp_path / "b")


def _weights_are_the_arms_own_and_the_card_says_so(project, folder):
    trained = load_file(project / "data/transfer/shape/models/lp_ft@net/model.safetensors")
    held = read_bundle(folder).network.state_dict()
    for name, one in trained.items():
        kept = name if name.startswith("head.") else f"bodies.0.network.{name.removeprefix('body.')}"
        torch.testing.assert_close(held.pop(kept), one, rtol=0, atol=0)
    assert held == {}
    card = json.loads((folder / "card.json").read_text())
    assert card["params"] == {"learning_rate": 0.003} and card["training"]["recipe"] == "lp_ft"
    text = (folder / "README.md").read_text()
    for words in (
        "A fine-tuned backbone with its head (`lp_ft`)",
        f"Training went on from it. The head was `{card['training']['head']}`.",
        "weights of epoch 1 of 1, chosen on validation",
    ):
        assert words in text, words


@pytest.mark.slow
def test_numbers_and_heads_on_maps_that_were_fine_tuned_are_bundled_in_every_format(tmp_path, cli):
    import onnxruntime

    params = projects.small_params()
    del params["backbones"]["pixels"]
    params["baselines"] = ["majority"]
    params["datasets"]["shapes"]["split"] = {"val": 0.4, "test": 0.1}
    params["tasks"] = {
        "shape": {**params["tasks"]["shape"], "heads": ["conv"]},
        "size": {"on": "shapes", "labels": "size.csv", "kind": "number", "heads": ["ridge"]},
    }
    params["heads"] = {"conv": {"epochs": 3}, "ridge": {}}
    params["compare"] = {"k_shot": ["all"]}
    params["transfer"] = {"lp_ft": QUICK, "scratch": QUICK, "frozen": {"backbones": ["net"]}}
    project = projects.make_project(tmp_path, params, num_per_class=8)
    images = sorted((project / "images").rglob("*.png"))
    rows = [f"{path.relative_to(project / 'images').as_posix()},{n % 7}" for n, path in enumerate(images)]
    (project / "size.csv").write_text("\n".join(["sample_id,size", *rows]) + "\n")
    for step in ("ingest", "extract", "train", "select", "transfer", "compare"):
        code, _, err = cli(project, step)
        assert code == 0, err
    every = [("shape", "lp_ft@net"), ("shape", "frozen@net"), ("size", "lp_ft@net"), ("size", "scratch@net")]
    for task, arm in every:
        code, out, err = cli(project, "bundle", task, "--arm", arm, "--out", "b", "--json")
        assert code == 0, err
        assert json.loads(out)["formats"] == ["safetensors", "pt2", "onnx"]
        ids, wanted = said_of(project, task, arm)
        paths = [str(project / "images" / one) for one in ids]
        model = embedpipe.load(project / "b", device="cpu")
        (pixels,) = pixels_of(model, paths)
        session = onnxruntime.InferenceSession(project / "b/model.onnx", providers=["CPUExecutionProvider"])
        answers = {
            "load": model.predict(paths) if task == "size" else model.predict_proba(paths),
            "pt2": torch.export.load(project / "b/model.pt2").module()(pixels).numpy(),
            "onnx": session.run(None, {"pixels": pixels.numpy()})[0],
        }
        for how, found in answers.items():
            np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=2e-3, err_msg=how)
        card = json.loads((project / "b/card.json").read_text())
        assert card["metrics"]["val"] is not None
        assert card["training"]["from_random_weights"] == (arm == "scratch@net")
        code, out, err = cli(project, "predict", "images", "--arm", f"{task}:{arm}")
        assert code == 0, err
        if task == "size":
            said = rows_of(out)
            np.testing.assert_allclose([float(said[one]["size"]) for one in ids], wanted[:, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arm", "lp_tf@net"], "did you mean 'lp_ft@net'?"),
        (["--arm", "shape:direct@net"], "no head or network of that arm is saved for shape"),
        (
            ["--arm", "lp_ft@net", "--arm", f"shape:{HEAD}"],
            "expected one arm a task, found lp_ft@net and logistic",
        ),
    ],
)
def test_a_mistake_is_one_sentence(adapted, cli, arguments, words):
    code, out, err = cli(adapted, "predict", "images", *arguments)
    assert code == 2 and out == ""
    assert words in err.replace("\n", " "), err
