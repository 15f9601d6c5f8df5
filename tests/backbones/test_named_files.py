"""Which files a backbone's options name, found without opening the model."""

import subprocess
import sys

import pytest

from embedpipe.backbones.code import code_files
from embedpipe.backbones.named_files import named_files
from embedpipe.backbones.options import BackboneOptions
from embedpipe.errors import ConfigError, WeightsError

TAPS = {"last": ["none"]}


def named(root, **options):
    return list(named_files(BackboneOptions(taps=TAPS, **options), root, "params.yaml: backbones.b"))


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "random:0"])
def test_built_in_models_name_no_file(tmp_path, weights):
    assert named(tmp_path, model="torchvision:resnet18", weights=weights) == []
    assert named(tmp_path, model="pixels") == []


def test_models_of_a_hub_name_no_file_since_their_commit_says_what_they_are(tmp_path):
    assert named(tmp_path, model="transformers:owner/name", revision="1234567") == []
    assert named(tmp_path, model="timm:resnet18", revision="1234567") == []


def test_a_file_of_weights_and_a_program_are_named_as_params_yaml_writes_them(tmp_path):
    (tmp_path / "models").mkdir()
    for name in ("a.safetensors", "b.pt2"):
        (tmp_path / "models" / name).touch()
    assert named(tmp_path, model="glyphnet", weights="models/a.safetensors") == ["models/a.safetensors"]
    preprocess = {"crop_px": 8, "mean": [0.5], "std": [0.5]}
    assert named(tmp_path, model="pt2:models/b.pt2", preprocess=preprocess) == ["models/b.pt2"]


def test_an_absent_file_is_one_sentence(tmp_path):
    with pytest.raises(WeightsError) as caught:
        named(tmp_path, model="glyphnet", weights="models/a.safetensors")
    assert str(caught.value) == (
        f"params.yaml: backbones.b.weights: no such file: {tmp_path / 'models/a.safetensors'}; put it there, or "
        "correct the path"
    )
    with pytest.raises(WeightsError, match=r"backbones\.b\.model: no such file: .*program\.pt2"):
        named(tmp_path, model="pt2:program.pt2")
    with pytest.raises(ConfigError, match=r"expected a folder with a model, found none at .*nowhere"):
        named(tmp_path, model="transformers:./nowhere")


def test_of_a_folder_what_is_read_from_such_folders_is_watched(tmp_path):
    folder = tmp_path / "encoder"
    (folder / "onnx").mkdir(parents=True)
    for name in (
        "config.json", "vocab.txt", "model.safetensors", "modeling.py", "training.ckpt", "onnx/model.onnx"
    ):  # fmt: skip
        (folder / name).touch()
    texts = ["encoder/config.json", "encoder/modeling.py", "encoder/vocab.txt"]
    own = sorted([*texts, "encoder/model.safetensors"])
    assert named(tmp_path, model="transformers:encoder") == own
    assert named(tmp_path, model="transformers:encoder", weights="random:0") == texts


def test_of_a_module_its_file_and_what_it_imports_from_beside_it_are_watched(tmp_path):
    write(
        tmp_path,
        {
            "mine.py": "import torch, helper\nfrom parts.blocks import Block\nfrom embedpipe.testing import x",
            "helper.py": "import json",
            "parts/__init__.py": "",
            "parts/blocks.py": "from . import shapes\nfrom .. import outside",
            "parts/shapes.py": "def area(): import deep",
            "deep.py": "",
            "unused.py": "",
        },
    )
    expected = ["deep.py", "helper.py", "mine.py", "parts/__init__.py", "parts/blocks.py", "parts/shapes.py"]
    assert named(tmp_path, model="python:mine:factory") == expected


def test_files_that_arguments_of_a_factory_name_are_watched(tmp_path):
    write(tmp_path, {"mine.py": ""})
    (tmp_path / "net.pth").touch()
    arguments = {
        "files": ["net.pth", "absent.pth", "", "x" * 5000, "a\0b"],
        "width": 3,
        "of": {"a": "net.pth"},
    }
    assert named(tmp_path, model="python:mine:factory", arguments=arguments) == ["mine.py", "net.pth"]


def test_of_an_installed_module_its_own_package_is_watched_alone(tmp_path):
    found = code_files("ruamel.yaml.main", tmp_path) or code_files("skops.io", tmp_path)
    assert found and {name.split("/")[0] for name in found} <= {"ruamel", "skops"}


def test_a_module_that_is_absent_or_no_python_is_left_to_whoever_imports_it(tmp_path):
    assert code_files("no_such_module", tmp_path) == {}
    write(tmp_path, {"broken.py": "def (:"})
    assert list(code_files("broken", tmp_path)) == ["broken.py"]


def test_files_are_listed_without_torch():
    code = "import sys, embedpipe.backbones.named_files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
