"""Bundles of models that no description can build again: transformers, timm and programs, on images and on texts."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import projects
import pytest
import test_text
import tiny_models
import torch

import embedpipe
from embedpipe.cli.app import run
from embedpipe.errors import ShapeError, UnreadableSample, WeightsError
from embedpipe.evaluate.predictions import Predictions
from embedpipe.manifest.table import Manifest
from embedpipe.serve import bundle as bundles

STEPS = ("ingest", "extract", "train", "select")
PREPROCESS = {"resize_px": 20, "crop_px": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


def made(root, params):
    (root / "test_log.jsonl").touch()
    projects.write_params(root, params)
    before = Path.cwd()
    os.chdir(root)
    try:
        for step in STEPS:
            assert run([step]) == 0, step
    finally:
        os.chdir(before)
    return root


def bundle(cli, project, task, arm, *rest, code=0):
    found, out, err = cli(project, "bundle", task, "--arm", arm, "--out", "b", "--json", *rest)
    assert found == code, err
    return json.loads(out) if code == 0 else " ".join(err.split())


def said_of(project, task, arm):
    scores = Predictions.read(project / f"data/predictions/{task}.parquet").scores(arm)
    return scores.sample_ids.tolist(), scores.scores[0]


def program_of(folder):
    return torch.export.load(folder / "model.pt2").module()


@pytest.fixture(scope="module")
def texts_template(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    tiny_models.make_bert(root / "bert")
    test_text.write_table(root, test_text.texts(36))
    params = test_text.params()
    params["backbones"]["bert"] |= {"prompt": "the ", "l2": True, "taps": {"hidden.2": ["mean_tokens"]}}
    params |= {"heads": {"logistic": {"C": 1.0}}, "compare": {"k_shot": ["all"]}}
    return made(root, params)


@pytest.fixture
def texts(texts_template, tmp_path):
    return shutil.copytree(texts_template, tmp_path / "texts")


def test_an_arm_on_texts_is_bundled_with_its_tokenizer_and_needs_nothing_else(
    texts, cli, tmp_path, monkeypatch
):
    arm = "logistic@bert/hidden.2.mean_tokens.float32"
    done = bundle(cli, texts, "spam", arm, "--format", "pt2")
    assert done["formats"] == ["pt2"] and done["checked"]["num_samples"] > 3
    moved = shutil.move(texts / "b", tmp_path / "moved")
    assert {path.name for path in moved.iterdir()} == {
        "card.json", "README.md", "model.pt2", "tokenizer.bert.json"
    }  # fmt: skip
    ids, wanted = said_of(texts, "spam", arm)
    manifest = Manifest.read(texts / "data/manifests/sms/samples.parquet")
    row_of = dict(zip(manifest.sample_ids.tolist(), map(int, manifest.locators), strict=True))
    written = [text for text, _ in test_text.texts(36)]
    asked = [written[row_of[one]] for one in ids]
    shutil.rmtree(texts)
    monkeypatch.setitem(sys.modules, "transformers", None)
    model = embedpipe.load(moved, device="cpu", batch=4)
    np.testing.assert_allclose(model.predict_proba(asked), wanted, atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(asked[:1]), wanted[:1], atol=1e-5)
    assert model.classes_.tolist() == ["ham", "spam"]
    said = (moved / "README.md").read_text()
    for words in ('model.predict(["a text"])', "put 'the ' before each text", "tokenizer.bert.json", "-1"):
        assert words in said, words
    with pytest.raises(ShapeError, match="expected a list of texts, found a single str"):
        model.predict("free prize")
    with pytest.raises(UnreadableSample, match=r"text 1 \(int\): expected a text, found int"):
        model.predict(["free", 3])


def test_a_program_that_says_something_else_than_training_did_is_not_written(texts, cli, monkeypatch):
    arm = "logistic@bert/hidden.2.mean_tokens.float32"
    bundle(cli, texts, "spam", arm, "--format", "pt2")
    before = {path.name: path.read_bytes() for path in (texts / "b").iterdir()}
    real = bundles.read_token_inputs
    monkeypatch.setattr(
        bundles, "read_token_inputs", lambda text, longest, _: real(text, longest, "other words ")
    )
    said = bundle(cli, texts, "spam", arm, "--format", "pt2", code=2)
    assert "differs from the pipeline's predictions by" in said
    assert {path.name: path.read_bytes() for path in (texts / "b").iterdir()} == before
    assert not list(texts.glob(".b*"))


def test_windows_of_texts_are_refused_in_one_sentence(texts, cli):
    params = json.loads((texts / "params.yaml").read_text())
    params["datasets"]["sms"]["rows"] = {"tokens": 16, "overlap": 4}
    made(texts, params)
    said = bundle(cli, texts, "spam", "logistic@bert/hidden.2.mean_tokens.float32", code=2)
    assert "cannot be bundled, since bert is no network alone: it reads long texts as windows" in said


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Read it; do not change it but for the bundle in it."""
    root = projects.make_project(tmp_path_factory.mktemp("images"), num_per_class=8)
    tiny_models.make_vit(root / "vit")
    tiny_models.make_program(root / "net.pt2")
    tiny_models.make_own(root)
    params = projects.small_params()
    params["datasets"]["shapes"]["split"] = {"val": 0.4, "test": 0.1}
    params["tasks"] = {"shape": params["tasks"]["shape"]}
    params["backbones"] = {
        "vit": {"model": "transformers:vit", "taps": {"hidden.1": ["cls"]}},
        "net": {"model": "pt2:net.pt2", "taps": {"block1": ["gap"]}, "preprocess": PREPROCESS},
        "own": {"model": "python:own_models:colours", "taps": {"block1": ["gap"]}},
    }
    params |= {"baselines": ["majority"], "compare": {"k_shot": ["all"]}}
    params["heads"] = {
        "logistic": {"C": 1.0},
        "both": {"family": "logistic", "C": 0.1, "join": [["vit/hidden.1.cls", "net/block1.gap"]]},
    }
    return made(root, params)


def test_arms_on_transformers_and_programs_are_bundled_as_what_their_taps_need(images, cli):
    for arm in ("logistic@vit/hidden.1.cls", "both@vit+net/hidden.1.cls+block1.gap"):
        done = bundle(cli, images, "shape", arm, "--format", "pt2")
        assert done["formats"] == ["pt2"]
        names, wanted = said_of(images, "shape", arm)
        paths = [images / "images" / name for name in names]
        model = embedpipe.load(images / "b", device="cpu")
        np.testing.assert_allclose(model.predict_proba(paths), wanted, atol=1e-4)
        columns = zip(*(model._staged(i, path) for i, path in enumerate(paths)), strict=True)
        staged = [torch.stack(column) for column in columns]
        network = program_of(images / "b")
        for num in (1, len(paths)):
            found = network(*(one[:num] for one in staged)).numpy()
            np.testing.assert_allclose(found, wanted[:num], atol=1e-4)
        kept = [name for name in network.state_dict() if "layers" in name or "block" in name]
        assert kept and not [name for name in kept if "layers.1" in name or "block2" in name]
    said = bundle(cli, images, "shape", "logistic@vit/hidden.1.cls", "--format", "safetensors", code=2)
    assert "expected pt2 or onnx, since a backbone of this arm cannot be built again" in said


def test_a_backbone_with_python_code_of_its_own_is_refused(images, cli):
    said = bundle(cli, images, "shape", "logistic@own/block1.gap", code=2)
    assert "since own is no network alone: samples are prepared by Python code of its own" in said
    assert "`embedpipe predict` answers for it" in said


def test_a_damaged_program_and_one_that_could_run_code_are_refused(images, cli, tmp_path):
    bundle(cli, images, "shape", "logistic@net/block1.gap", "--format", "pt2")
    broken = tmp_path / "broken"
    shutil.copytree(images / "b", broken)
    data = bytearray((broken / "model.pt2").read_bytes())
    data[len(data) // 2] ^= 1
    (broken / "model.pt2").write_bytes(data)
    with pytest.raises(WeightsError, match=r"model\.pt2: damaged: expected blake2b"):
        embedpipe.load(broken)
    import zipfile

    from embedpipe.serve import bundle as bundles

    shutil.copy(images / "b/model.pt2", broken / "model.pt2")
    with zipfile.ZipFile(broken / "model.pt2", "a") as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/data/aotinductor/model/code.so", b"code")
    card = json.loads((broken / "card.json").read_text())
    card["files"]["model.pt2"]["blake2b"] = bundles._digest((broken / "model.pt2").read_bytes())
    (broken / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="is no part of a plain program and could run code"):
        embedpipe.load(broken)


@pytest.mark.slow
def test_onnx_of_texts_and_images_says_what_the_pipeline_said(texts, images, cli):
    import onnxruntime

    for project, task, arm, name in (
        (texts, "spam", "logistic@bert/hidden.2.mean_tokens.float32", "tokens"),
        (images, "shape", "logistic@vit/hidden.1.cls", "pixels"),
    ):
        assert bundle(cli, project, task, arm)["formats"] == ["pt2", "onnx"]
        model = embedpipe.load(project / "b", device="cpu")
        session = onnxruntime.InferenceSession(project / "b/model.onnx", providers=["CPUExecutionProvider"])
        if name == "tokens":
            samples = ["free prize now", "the cat sat on the mat", "call me later"]
            staged = [model._inputs[0].stage(one) for one in samples]
            given = torch.full((3, 16), -1, dtype=torch.int32)
            for row, ids in zip(given, staged, strict=True):
                row[: len(ids)] = ids
        else:
            samples = sorted((project / "images").rglob("*.png"))[:5]
            given = torch.stack([model._staged(i, path)[0] for i, path in enumerate(samples)])
        wanted = model.predict_proba(samples)
        for num in (1, len(samples)):
            (found,) = session.run(["probabilities"], {name: given[:num].numpy()})
            np.testing.assert_allclose(found, wanted[:num], atol=1e-3)
