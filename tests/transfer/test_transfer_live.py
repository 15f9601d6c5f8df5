"""The backbone and a head behind it as one network, and whether it computes what the store holds."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from torch.nn import functional as F

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.backbones.models import open_architecture
from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.errors import ConfigError, ProbeMismatch, SpecMismatch
from embedpipe.features.card import BackboneCard
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.sources.decode import DECODER
from embedpipe.spec import BackboneSpec
from embedpipe.steps import transfer as steps
from embedpipe.training import TensorSamples, TrainingPlan, deterministic, fit
from embedpipe.transfer.agreement import as_stored, check_agreement, relative_error
from embedpipe.transfer.images import Augmentation, Images, outputs_of
from embedpipe.transfer.live import LiveModel, new_head
from embedpipe.transfer.options import transfer_options
from embedpipe.transfer.training import recipe_of


def opened(model="glyphnet", taps=None, root=Path(), **more):
    options = BackboneOptions(model=model, weights="random:0", taps=taps or {"block3": ["grid:2"]}, **more)
    return load_backbone("net", options, root, source_dir=Path())


def test_random_weights_take_the_images_that_the_store_was_made_of(monkeypatch):
    """Of vit_b_16 the weights SWAG_E2E take 384 pixels, resampled by another filter than the default's 224."""
    inputs = Preprocessing(384, 384, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "bicubic")
    backbone = SimpleNamespace(inputs=inputs, preprocessing=inputs.canonical())
    asked = []

    def load(name, options, root, *, source_dir):
        asked.append(options)
        return backbone

    monkeypatch.setattr("embedpipe.backbones.load_backbone", load)
    monkeypatch.setattr("embedpipe.transfer.agreement.as_stored", lambda backbone, *_: backbone)
    options = BackboneOptions(
        model="torchvision:vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1", taps={"x": ["cls"]}
    )
    place = SimpleNamespace(root=Path(), source_dir=Path())
    steps._open_backbone(place, "net", options, SimpleNamespace(card=None)).untrained(7)
    assert asked[-1].weights == "random:7"
    architecture = open_architecture(asked[-1], Path(), "x")
    assert architecture.preprocessing(asked[-1], "x") == inputs


def images(num=5, side=20):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(num)]


def live(backbone, num_classes=3):
    specs = backbone.tap_specs()
    num = sum(int(np.prod(shape)) for shape in backbone.tap_shapes().values())
    torch.manual_seed(0)
    return LiveModel(
        backbone, specs, new_head(num, TargetSpec("classes", ("a", "b", "c")), np.zeros(2))
    ).eval()


def test_the_live_network_computes_the_features_of_the_backbone_to_the_bit():
    backbone = opened(taps={"block2": ["gap"], "block3": ["grid:2"]}, width=4)
    pixels = torch.stack([backbone.pixels(image) for image in images()])
    expected = backbone.forward(backbone.tap_specs())(pixels)
    with torch.no_grad():
        found = live(backbone).features(pixels)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_training_the_copy_leaves_the_backbone_as_it_was():
    backbone = opened(width=4)
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    model = live(backbone).train()
    pixels = torch.stack([backbone.pixels(image) for image in images()])
    model(pixels).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert all(torch.equal(value, before[name]) for name, value in backbone.module.state_dict().items())
    assert not any(value.requires_grad for value in backbone.module.parameters())


def test_what_lies_behind_the_tap_is_not_part_of_it_and_blocks_are_in_order():
    model = live(opened(width=4))
    assert model.blocks == ("block1", "block2", "block3") and model.tail == ()
    assert not [name for name in model.state_dict() if "block4" in name or "classifier" in name]


def test_parts_of_a_torchvision_model_are_its_stages():
    backbone = opened(
        "torchvision:resnet18", taps={"layer3": ["gap"]}, preprocess={"resize_px": 32, "crop_px": 32}
    )
    model = live(backbone)
    assert model.blocks == ("layer1", "layer2", "layer3")
    recipe = recipe_of(transfer_options("discriminative", {"decay": 0.5}), model, 2, (3, 32, 32), "x")
    factors = {name: recipe.phases[0].factor(name) for name, _ in model.named_parameters()}
    assert factors["body.conv1.weight"] == 1 / 16 and factors["body.layer3.1.conv2.weight"] == 1 / 2
    assert factors["head.net.weight"] == 1.0


def test_a_model_that_is_tapped_as_it_runs_is_trained_up_to_its_tap():
    pytest.importorskip("timm")
    backbone = opened("timm:test_vit", taps={"blocks.2": ["cls"]})
    model = live(backbone)
    pixels = torch.stack([backbone.pixels(image) for image in images(2)])
    expected = backbone.forward(backbone.tap_specs())(pixels)
    with torch.no_grad():
        assert all(torch.equal(value, expected[name]) for name, value in model.features(pixels).items())
    assert model.blocks == ("blocks.0", "blocks.1", "blocks.2")
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert not [name for name in trained if name.startswith("body.module.blocks.3")]
    assert {
        "body.module.patch_embed.proj.weight",
        "body.module.blocks.2.mlp.fc2.weight",
        "head.net.bias",
    } <= trained
    recipe = recipe_of(transfer_options("surgical", {"layers": ["blocks.1"]}), model, 1, (3, 160, 160), "x")
    with deterministic(0) as generator:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        samples = TensorSamples(pixels, torch.tensor([0, 1]))
        fit(model, samples, TrainingPlan(1, batch=2), F.cross_entropy, generator, recipe=recipe)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and {name.split(".")[0] for name in moved} == {"body", "head"}
    assert all(name.startswith(("head.", "body.module.blocks.1.")) for name in moved)


def test_layers_of_a_transformers_model_are_its_modules_whatever_its_nodes_are_called(tmp_path):
    tiny_models.make_vit(tmp_path / "vit")
    model = live(opened("transformers:vit", taps={"hidden.1": ["cls"]}, root=tmp_path))
    assert model.blocks == ("layers.0",) and model.tail == ()
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained and not [name for name in trained if "layers.1" in name or "module.layernorm" in name]


def test_recipes_turn_into_phases_over_the_layers_of_this_network():
    model = live(opened(width=4))

    def phases(name, **raw):
        return recipe_of(transfer_options(name, raw), model, 8, (1, 8, 8), "transfer.x").phases

    assert [one.trained for one in phases("full")] == [("",)]
    assert phases("surgical", layers=["block1"])[0].trained == ("head", "body.block1")
    assert [one.trained for one in phases("two_phase")] == [("body",), ("",)]
    assert phases("gradual")[0].trained == ("head",) and phases("gradual")[-1].trained == ("",)
    with pytest.raises(
        ConfigError, match=r"transfer\.x\.layers: up to its tap: the model has no layer 'blok1'; near"
    ):
        phases("surgical", layers=["blok1"])


def test_a_new_head_of_numbers_learns_in_their_own_units():
    head = new_head(4, TargetSpec("number"), np.array([10.0, 14.0]))
    torch.nn.init.zeros_(head.net[0].weight)
    torch.nn.init.zeros_(head.net[0].bias)
    assert head(torch.ones(3, 4)).tolist() == pytest.approx([12.0] * 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_agreement_sees_a_thousandth_and_not_the_rounding_of_the_store(dtype):
    rng = np.random.default_rng(0)
    live_ND = (rng.standard_normal((256, 96)) + 2).astype(np.float32)
    cached_ND = live_ND.astype(dtype).astype(np.float32)
    noise_ND = (live_ND * (1 + 1e-6 * rng.standard_normal(live_ND.shape))).astype(np.float32)
    assert relative_error(noise_ND, cached_ND) < 1e-4
    assert relative_error(live_ND * np.float32(1.001), cached_ND) > 1e-4
    assert relative_error(live_ND[:, :3], cached_ND) == np.inf


def card(backbone, **changes):
    fields = {
        "architecture": backbone.architecture, "weights_digest": backbone.weights_digest, "decoder": DECODER,
        "preprocessing": backbone.preprocessing, "precision": "float32", "device_kind": "cpu",
    }  # fmt: skip
    return BackboneCard("net", "glyphnet", "random:0", "random", BackboneSpec(**{**fields, **changes}), {})


def test_features_that_differ_are_refused_before_anything_is_trained():
    backbone = opened(width=4)
    X = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    assert check_agreement(X, X, card(backbone), "block3.gap", "transfer.lp_ft").error == 0.0
    with pytest.raises(
        ProbeMismatch, match=r"transfer\.lp_ft: live features of net/block3\.gap differ .* by 0\.01"
    ):
        check_agreement(X * np.float32(1.01), X, card(backbone), "block3.gap", "transfer.lp_ft")


def test_another_backbone_than_that_of_the_store_is_named():
    backbone = opened(width=4)
    assert as_stored(backbone, card(backbone), "x") is backbone
    resampled = backbone.resampling_tensors()
    assert as_stored(backbone, card(resampled), "x").preprocessing == resampled.preprocessing
    with pytest.raises(SpecMismatch, match="expected weights abc, found"):
        as_stored(backbone, card(backbone, weights_digest="abc"), "x")


class Counted:
    def __init__(self):
        self.reads = 0

    def read(self, locator):
        self.reads += 1
        return images(1 + int(locator))[-1]


@pytest.mark.parametrize("memory_nbytes", [10**9, 0])
def test_images_come_in_the_order_asked_for_decoded_once_where_they_fit(memory_nbytes):
    backbone, source = opened(width=4), Counted()
    held = Images(backbone, source, ["0", "1", "2"], memory_nbytes)
    first = held.pixels(torch.tensor([2, 0, 2]))
    again = held.pixels(np.array([0]))
    assert torch.equal(first[1], again[0]) and torch.equal(first[0], first[2])
    assert source.reads == (2 if memory_nbytes else 4)


def test_an_epoch_is_scored_in_the_float32_that_is_predicted_in():
    backbone = opened(width=4)
    held, model = Images(backbone, Counted(), ["0", "1", "2"], 10**9), live(backbone)
    places, cpu = np.arange(3), torch.device("cpu")
    expected = outputs_of(model.probabilities, held, places, cpu, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(model.probabilities(held.pixels(places)), expected)
        assert torch.equal(outputs_of(model.probabilities, held, places, cpu, 2), expected)


def test_transforms_are_drawn_anew_for_each_image_and_checked():
    x = torch.arange(4 * 64, dtype=torch.uint8).reshape(4, 1, 8, 8)
    flip = Augmentation({"RandomHorizontalFlip": {"p": 0.5}}, (1, 8, 8))
    torch.manual_seed(0)
    flipped = [bool(torch.equal(a, b)) for a, b in zip(flip(x, torch.Generator()), x, strict=True)]
    assert set(flipped) == {True, False}
    assert Augmentation({"RandomCrop": {"padding": 1}}, (1, 8, 8))(x, torch.Generator()).shape == x.shape
    with pytest.raises(ConfigError, match=r"augment\.RandomRotation: .*degrees"):
        Augmentation({"RandomRotation": {}}, (1, 8, 8))
    with pytest.raises(
        ConfigError, match=r"expected images of \(1, 8, 8\) behind the transforms, found \(1, 4, 4\)"
    ):
        Augmentation({"RandomCrop": {"size": 4}}, (1, 8, 8))(x, torch.Generator())
