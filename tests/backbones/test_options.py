import subprocess
import sys

import pytest

from embedpipe.backbones.options import BackboneOptions, SourceModelOptions
from embedpipe.errors import ConfigError
from embedpipe.params import validate


def check(**raw):
    raw = {"model": "glyphnet", "weights": "random:0", "taps": {"last": ["gap"]}} | raw
    return validate(BackboneOptions, raw, "params.yaml: backbones.b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "glypnet"},
            r"unknown model 'glypnet' \(did you mean 'glyphnet'\?\); known: torchvision:<name>, .*glyphnet, pixels",
        ),
        ({"model": "torchvison:resnet18"}, r"did you mean 'torchvision'"),
        ({"taps": {"last": ["gapp"]}}, r"tap 'last': unknown reduction 'gapp' \(did you mean 'gap'\?\)"),
        (
            {"taps": {"every:x": ["gap"]}},
            r"tap 'every:x': expected every:<n> with n ≥ 1, for example every:3",
        ),
        ({"taps": {}}, r"b\.taps: "),
        ({"taps": {"last": []}}, r"b\.taps\.last: "),
        ({"weights": None}, r"weights are required for glyphnet: an enum name such as DEFAULT"),
        ({"weights": "random:a"}, r"expected random:<seed> with a whole number, found 'random:a'"),
        ({"model": "pixels"}, r"pixels has no weights, found weights: random:0; leave the key out"),
        (
            {"model": "torchvision:resnet18", "weights": "source:S"},
            r"source:S holds a glyphnet, but model is torchv",
        ),
        ({"model": "torchvision:resnet18", "width": 3}, r"width and image_px belong to glyphnet and pixels"),
        ({"preproces": {}}, r"unknown key \(did you mean 'preprocess'\?\)"),
        ({"preprocess": {"size": 3}}, r"preprocess\.size: unknown key"),
        ({"preprocess": {"std": [0]}}, r"preprocess\.std\.0: "),
    ],
)
def test_a_mistake_in_a_backbone_is_named_with_its_place(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check(**changes)
    assert str(caught.value).startswith("params.yaml: backbones.b")


@pytest.mark.parametrize(
    ("raw", "role", "source"),
    [
        ({"model": "pixels", "weights": None}, "pixels", None),
        ({"weights": "random:3"}, "random", None),
        ({"weights": "source:letters"}, "transferred", "letters"),
        ({"model": "torchvision:resnet18", "weights": "DEFAULT"}, "transferred", None),
    ],
)
def test_role_and_source_model_follow_from_the_weights(raw, role, source):
    options = check(**raw)
    assert (options.role, options.source_model) == (role, source)


def test_checking_options_and_reductions_imports_no_torch():
    code = (
        "import sys, embedpipe.backbones, embedpipe.reduce; "
        "embedpipe.backbones.BackboneOptions(model='pixels', taps={'pixels': ['grid:2']}); "
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("options", [BackboneOptions, SourceModelOptions])
def test_every_option_is_described(options):
    assert all(field.description for field in options.model_fields.values())
