"""`embedpipe bundle` and `embedpipe.load`: every format says what the pipeline said of the same images."""

import json
import shutil
import subprocess
import sys

import numpy as np
import projects
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

import embedpipe
from embedpipe.errors import ConfigError, ShapeError, UnreadableSample, WeightsError
from embedpipe.evaluate.predictions import Predictions
from embedpipe.serve import bundle as bundles
from embedpipe.steps.bundle import bundle_arm
from embedpipe.workspace import find_workspace

ARM = "logistic@net/block3.gap"


def said_of(project, task, arm):
    """Images that training predicted, with what it said."""
    scores = Predictions.read(project / f"data/predictions/{task}.parquet").scores(arm)
    return [str(project / "images" / name) for name in scores.sample_ids], scores.scores[0]


def pixels_of(model, paths):
    found = zip(*(model._staged(place, path) for place, path in enumerate(paths)), strict=True)
    return [torch.stack(column) for column in found]


@pytest.fixture(scope="module")
def bundled(finished, tmp_path_factory):
    """A bundle of a fixed arm."""
    folder = tmp_path_factory.mktemp("bundle") / "shape"
    bundle_arm(find_workspace(finished), "shape", folder, arm=ARM, formats=["pt2"], licence="Apache-2.0")
    return folder


def test_load_says_what_the_pipeline_said(finished, bundled):
    paths, wanted = said_of(finished, "shape", ARM)
    model = embedpipe.load(bundled, device="cpu")
    np.testing.assert_allclose(model.predict_proba(paths), wanted, atol=1e-4)
    assert model.classes_.tolist() == ["circle", "cross", "square"]
    truth = [path.split("/")[-2] for path in paths]
    assert model.score(paths, truth) == np.mean(model.classes_[wanted.argmax(axis=1)] == truth)


def test_pt2_says_what_the_pipeline_said_for_any_number_of_images(finished, bundled):
    paths, wanted = said_of(finished, "shape", ARM)
    network = torch.export.load(bundled / "model.pt2").module()
    (pixels,) = pixels_of(embedpipe.load(bundled), paths)
    for num in (1, len(paths)):
        np.testing.assert_allclose(network(pixels[:num]).numpy(), wanted[:num], atol=1e-4)


@pytest.mark.slow
def test_onnx_says_what_the_pipeline_said_for_any_number_of_images(finished, tmp_path):
    import onnxruntime

    done = bundle_arm(find_workspace(finished), "shape", tmp_path / "b", arm=ARM)
    assert done["formats"] == ["safetensors", "pt2", "onnx"]
    paths, wanted = said_of(finished, "shape", ARM)
    session = onnxruntime.InferenceSession(tmp_path / "b/model.onnx", providers=["CPUExecutionProvider"])
    (pixels,) = pixels_of(embedpipe.load(tmp_path / "b"), paths)
    for num in (1, len(paths)):
        (found,) = session.run(["probabilities"], {"pixels": pixels[:num].numpy()})
        np.testing.assert_allclose(found, wanted[:num], atol=1e-3)


def test_a_bundle_needs_neither_the_project_nor_a_pickle(finished, bundled, tmp_path):
    elsewhere = tmp_path / "moved"
    shutil.copytree(bundled, elsewhere)
    shutil.copy(finished / "images/cross/cross000.png", tmp_path / "one.png")
    code = (
        "import sys, embedpipe; assert 'torch' not in sys.modules; "
        "print(embedpipe.load('moved').predict(['one.png'])[0]); assert 'dvc' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in ("circle", "cross", "square")
    assert {path.name for path in elsewhere.iterdir()} == {
        "model.safetensors",
        "card.json",
        "README.md",
        "model.pt2",
    }


def test_paths_images_and_arrays_of_the_same_pixels_get_the_same_answer(finished, bundled):
    model = embedpipe.load(bundled)
    path = finished / "images/circle/circle003.png"
    image = Image.open(path)
    array = np.asarray(image)
    by_path = model.predict_proba([path])
    for one in (str(path), image, array, image.convert("RGBA")):
        np.testing.assert_array_equal(model.predict_proba([one]), by_path)
    np.testing.assert_array_equal(model.predict_proba(array[None]), by_path)
    assert model.predict_proba([array[:, :, 0], array[:, :, :1]]).shape == (2, 3)


def test_the_estimator_is_scikit_learns(bundled):
    model = embedpipe.load(bundled)
    check_is_fitted(model)
    again = clone(model)
    image = np.zeros((20, 20), np.uint8)
    np.testing.assert_array_equal(again.predict_proba([image]), model.predict_proba([image]))
    with pytest.raises(ConfigError, match="trained already"):
        model.fit([image], ["circle"])


def test_the_card_says_what_of_what_and_how_well(finished, bundled):
    card = json.loads((bundled / "card.json").read_text())
    row = next(
        one
        for one in json.loads((finished / "data/leaderboard.json").read_text())
        if (one["task"], one["arm"], one["k_shot"]) == ("shape", ARM, "all")
    )
    assert card["metrics"]["val"] == row["val"] and card["metrics"]["test"] is None
    assert card["licence"] == "Apache-2.0" and card["data"]["splits"]["val"] > 0
    store = json.loads((finished / "data/features/net/store.json").read_text())
    assert card["backbones"]["net"]["fingerprint"] == store["fingerprint"]
    assert card["checked"]["num_samples"] > 8 and card["checked"]["largest_difference"] < 1e-4
    text = (bundled / "README.md").read_text()
    for words in ("Apache-2.0", "one of 3 classes", "16×16 px", "balanced accuracy", store["fingerprint"]):
        assert words in text, words


def test_only_the_weights_down_to_the_deepest_tap_are_kept(bundled):
    spec = bundles.read_bundle(bundled).spec
    names = set(bundles.read_bundle(bundled).network.state_dict())
    assert any(name.startswith("bodies.0.network.block3") for name in names)
    assert not any("block4" in name or "classifier" in name for name in names)
    assert [tap.name for tap in spec.bodies[0].tap_specs] == ["block3.gap"]


@pytest.mark.slow
def test_arms_of_neighbours_numbers_joins_and_maps_are_bundled_too(tmp_path, cli):
    params = projects.small_params()
    params["datasets"]["shapes"]["split"] = {"val": 0.4, "test": 0.1}
    params["tasks"] = {
        "shape": params["tasks"]["shape"],
        "size": {"on": "shapes", "labels": "size.csv", "kind": "number"},
    }
    params["heads"] = {
        "knn": {},
        "ridge": {},
        "both": {"family": "logistic", "C": 0.1, "join": [["net/block3.gap*", "pixels/*"]]},
        "conv": {"epochs": 3},
    }
    params["compare"] = {"k_shot": ["all"]}
    params["extract"]["dtype"] = "float32"
    project = projects.make_project(tmp_path, params, num_per_class=8)
    names = [
        path.relative_to(project / "images").as_posix()
        for path in sorted((project / "images").rglob("*.png"))
    ]
    rows = [f"{name},{place % 7}" for place, name in enumerate(names)]
    (project / "size.csv").write_text("\n".join(["sample_id,size", *rows]) + "\n")
    for step in ("ingest", "extract", "train", "select"):
        code, _, err = cli(project, step)
        assert code == 0, err
    arms = {
        ("shape", "knn@net/block3.gap.float32"),
        ("shape", "both@net+pixels/block3.gap.float32+pixels.flatten.float32"),
        ("shape", "conv@net/block3.grid2.float32"),
        ("size", "ridge@pixels/pixels.flatten.float32"),
    }
    for task, arm in sorted(arms):
        code, out, err = cli(project, "bundle", task, "--arm", arm, "--out", "b", "--format", "pt2", "--json")
        assert code == 0, err
        assert json.loads(out)["formats"] == ["safetensors", "pt2"]
        paths, wanted = said_of(project, task, arm)
        model = embedpipe.load(project / "b")
        network = torch.export.load(project / "b/model.pt2").module()
        if task == "size":
            np.testing.assert_allclose(model.predict(paths), wanted[:, 0], atol=1e-3)
            assert model.score(paths, wanted[:, 0]) == pytest.approx(1.0)
        else:
            np.testing.assert_allclose(model.predict_proba(paths), wanted, atol=1e-4)
        found = network(*pixels_of(model, paths)).numpy().reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shap"], "no task is named 'shap' (did you mean 'shape'?)"),
        (
            ["shape", "--arm", "ridge@net/block9.gap"],
            "no head or network of that arm is saved for shape (did you mean",
        ),
        (["shape", "--format", "onx"], "expected safetensors, pt2, onnx, found 'onx' (did you mean 'onnx'?)"),
        (["shape", "--out", "images"], "expected a bundle to replace, or nothing, found something else"),
    ],
)
def test_a_mistake_is_one_sentence(finished, cli, arguments, words):
    code, _, err = cli(finished, "bundle", *arguments)
    assert code == 2 and words in err.replace("\n", " "), err


def test_without_its_packages_onnx_is_left_out_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(bundles.importlib.util, "find_spec", lambda name: None)
    formats, notes = bundles.wanted_formats([])
    assert formats == ["safetensors", "pt2"] and "pip install 'embedpipe[onnx]'" in notes[0]
    with pytest.raises(ConfigError, match=r"expected onnx and onnxscript to be installed; pip install"):
        bundles.wanted_formats(["onnx"])


def test_damage_and_what_is_no_bundle_are_refused(bundled, tmp_path):
    with pytest.raises(WeightsError, match=r"expected the folder of a bundle, found no card\.json in it"):
        embedpipe.load(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(bundled, broken)
    data = bytearray((broken / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (broken / "model.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"model\.safetensors: damaged: expected blake2b"):
        embedpipe.load(broken)
    card = json.loads((broken / "card.json").read_text())
    card["module"]["head"]["net"] = ["linear", 3, 2]
    card["files"]["model.safetensors"]["blake2b"] = bundles._digest(bytes(data))
    (broken / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="tensors and card are not of one model"):
        embedpipe.load(broken)
    (broken / "card.json").write_text(json.dumps({**card, "format_version": 9}))
    with pytest.raises(WeightsError, match="expected bundle format 1, found 9"):
        embedpipe.load(broken)


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        ("photo.jpg", ShapeError, "expected a list of images, found a single str"),
        (np.zeros((4, 5), np.uint8), ShapeError, r"found shape \(4, 5\)"),
        ([], ShapeError, "found an empty one"),
        (3, ShapeError, "expected a list of images, found int"),
        (["none.png"], UnreadableSample, r"image 0 \(none.png\): no such file"),
        ([np.zeros((4, 4))], UnreadableSample, "expected pixels of uint8, 0 to 255, found float64"),
        ([np.zeros((2, 4, 5), np.uint8)], UnreadableSample, r"found \(2, 4, 5\)"),
    ],
)
def test_images_that_are_none_are_refused(bundled, X, error, words):
    with pytest.raises(error, match=words):
        embedpipe.load(bundled).predict(X)


def test_a_device_that_is_not_there_is_an_error(bundled, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="expected a CUDA device, found none that torch can use"):
        embedpipe.load(bundled, device="cuda")
