"""One contract over every kind of backbone, and that the checks can fail."""

import pytest
import tiny_models
import torch
from PIL import Image

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.errors import ConfigError, ShapeError
from embedpipe.testing import ContractError, check_backbone, check_opened

SMALL = {"preprocess": {"resize_px": 32, "crop_px": 32}}
PROGRAM = {"preprocess": {"crop_px": 16, "mean": [0.5] * 3, "std": [0.2] * 3}}
BERT, OWN = "transformers:bert", "python:own_models"
RESNET = {"model": "torchvision:resnet18", "weights": "random:0", **SMALL}
KINDS = {
    "pixels": ({"model": "pixels"}, {"pixels": ["flatten"]}),
    "glyphnet": ({"model": "glyphnet", "weights": "random:1", "width": 4}, {"blocks": ["gap", "grid:2"]}),
    "torchvision": (RESNET, {"layer1": ["gap"], "last": ["gap"]}),
    "text": ({"model": BERT}, {"hidden.0": ["none"], "blocks": ["mean_tokens", "max_tokens", "length"]}),
    "text, l2": ({"model": BERT, "l2": True, "dims": 8, "prompt": "the "}, {"last": ["cls", "last_token"]}),
    "vision": ({"model": "transformers:vit"}, {"blocks": ["cls", "mean_tokens"]}),
    "vision, normed": ({"model": "transformers:registers", "norm": "final"}, {"blocks": ["cls", "grid:2"]}),
    "masked autoencoder": ({"model": "transformers:mae"}, {"blocks": ["mean_tokens", "none"]}),
    "timm vit": ({"model": "timm:test_vit", "weights": "random:0", "norm": "final"}, {"blocks": ["cls", "gap"]}),
    "timm convnext": ({"model": "timm:test_convnext", "weights": "random:0"}, {"blocks": ["gap"]}),
    "python images": ({"model": f"{OWN}:colours", "arguments": {"width": 6}}, {"blocks": ["gap"]}),
    "python texts": ({"model": f"{OWN}:letters"}, {"blocks": ["mean_tokens"]}),
    "pt2": ({"model": "pt2:net.pt2", **PROGRAM}, {"blocks": ["gap"]}),
}  # fmt: skip


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_models.make_bert(folder / "bert")
    for kind, name in (("vit", "vit"), ("dinov2_with_registers", "registers"), ("vit_mae", "mae")):
        tiny_models.make_vit(folder / name, kind=kind)
    tiny_models.make_own(folder)
    tiny_models.make_program(folder / "net.pt2")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_backbone_keeps_to_the_contract(models, kind):
    options, taps = KINDS[kind]
    check_backbone(taps=taps, root=models, **options)


def test_a_model_whose_rows_depend_on_their_batch_is_found(models):
    with pytest.raises(ContractError, match=r"tap stem\.gap: features of samples that stand alone"):
        check_backbone("python:own_models:neighbours", taps={"blocks": ["gap"]}, root=models)


def load(models, **options):
    return load_backbone("b", BackboneOptions(**options), models, source_dir=models)


def test_a_model_that_is_still_learning_is_found(models):
    backbone = load(models, model="python:own_models:colours", taps={"blocks": ["gap"]})
    backbone.module.block1.train()
    with pytest.raises(ContractError, match=r"expected all in eval mode, found in training mode: block1"):
        check_opened(backbone)


def test_a_random_preprocessing_is_found(models):
    backbone = load(models, model="python:own_models:colours", taps={"blocks": ["gap"]})
    backbone.module.preprocess = lambda image: torch.rand(3, 8, 8)
    with pytest.raises(
        ContractError, match="the same samples a second time: expected the same bits, found others"
    ):
        check_opened(backbone)


def test_a_preprocessing_that_changes_its_dtype_is_refused(models):
    backbone = load(models, model="python:own_models:colours", taps={"blocks": ["gap"]})
    own = backbone.module.preprocess
    backbone.module.preprocess = lambda image: own(image).double()
    with pytest.raises(
        ConfigError, match=r"preprocess: expected torch\.\w+, as of a plain image, found torch.float64"
    ):
        backbone.inputs.stage(Image.new("RGB", (9, 9)))


def test_a_forward_pass_refuses_another_shape(models):
    backbone = load(models, model="transformers:bert", taps={"last": ["cls"]})
    forward = backbone.forward(backbone.tap_specs())
    assert forward(torch.zeros((1, 20), dtype=torch.int32))["hidden.3.cls"].shape == (1, 16)
    with pytest.raises(ShapeError, match=r"expected input \(N, 48\), found \(1, 49\)"):
        forward(torch.zeros((1, 49), dtype=torch.int32))
