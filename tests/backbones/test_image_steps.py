"""Preprocessing of other libraries' models, held to what these libraries do themselves."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from embedpipe.backbones.hub import Found
from embedpipe.backbones.image_steps import of_data_config
from embedpipe.backbones.options import BackboneOptions
from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.backbones.processors import check_same, steps_of_folder
from embedpipe.errors import ConfigError

SIZES = [(61, 97), (50, 40), (33, 33), (200, 47), (31, 90), (64, 64)]  # width, height
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
COMMON = {"image_mean": MEAN, "image_std": STD}


def images():
    generator = np.random.default_rng(3)
    return [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


def steps_of(folder, processor, **preprocess):
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    options = BackboneOptions(model="transformers:x", taps={"last": ["none"]}, preprocess=preprocess or None)
    return steps_of_folder(Found(folder, "x"), options, None, "params.yaml: backbones.b")


PROCESSORS = {
    "bare number, both sides": {"image_processor_type": "ViTImageProcessor", "size": 32},
    "bare number, shorter side by its class": {
        "image_processor_type": "CLIPImageProcessor", "size": 37, "crop_size": 32
    },
    "bare number, both sides, then a crop": {
        "image_processor_type": "ViTImageProcessor", "size": 37, "do_center_crop": True, "crop_size": 32
    },
    "defaults of a class": {"image_processor_type": "CLIPImageProcessor", "crop_size": 32, "size": 32},
    "an odd crop": {
        "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 33,
        "do_center_crop": True,
    },
    "a limit of the longer side": {
        "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 36, "longest_edge": 50},
        "crop_size": 32, "do_center_crop": True,
    },
    "a crop beyond the image": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 24}, "crop_size": 32
    },
    "crop_pct": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.875},
    "crop_pct, large": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    "no normalisation": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "do_normalize": False
    },
    "bicubic": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}, "resample": 3},
    "nearest": {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 0},
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_images_are_prepared_as_by_transformers_own_processor(tmp_path, name):
    """On tensors as its torchvision backend, by Pillow as its other one, to the rounding of the normalisation."""
    import transformers

    steps = steps_of(tmp_path, {**COMMON, **PROCESSORS[name]})
    ways = {"torchvision": Preprocessing(**{**vars(steps), "on_tensors": True}), "pil": steps}
    if name in ("a crop beyond the image", "a limit of the longer side"):
        del ways["pil"]  # whose odd borders are wider above, where torchvision's are below
    for backend, way in ways.items():
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        for image in images():
            wanted = processor(images=image, return_tensors="pt")["pixel_values"][0]
            torch.testing.assert_close(way(image), wanted, atol=2e-6, rtol=2e-6)


def test_defaults_are_those_of_the_processors_class(tmp_path):
    steps = steps_of(tmp_path, {"image_processor_type": "CLIPImageProcessor"})
    assert (steps.resize_px, steps.crop_px, steps.interpolation, steps.squash) == (224, 224, "bicubic", False)
    assert steps.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


REFUSED = {
    "no crop": ({"image_processor_type": "CLIPImageProcessor", "do_center_crop": False}, "of every image"),
    "longer side alone": (
        {"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 32}},
        "asks for size: longest_edge 32, which is not done here",
    ),
    "oblong": (
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 48}},
        "asks for size: height 32, width 48, which is not done here",
    ),
    "no resize": ({"image_processor_type": "ViTImageProcessor", "do_resize": False}, "do_resize: false"),
    "another way": (
        {"image_processor_type": "PoolFormerImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 24},
        "prepares images otherwise than its files say",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_processor_that_does_something_else_is_refused_unless_params_yaml_says_all(tmp_path, name):
    processor, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words) as caught:
        steps_of(tmp_path, processor)
    assert "or say all yourself with preprocess: {resize_px, crop_px, mean, std}" in str(caught.value)
    full = {"crop_px": 32, "mean": MEAN, "std": STD}
    assert steps_of(tmp_path, processor, **full).crop_px == 32


def test_a_shift_by_a_pixel_is_seen(tmp_path):
    import transformers

    processor = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 33}
    steps = steps_of(tmp_path, {**COMMON, **processor, "do_center_crop": True})
    shifted = Preprocessing(**{**vars(steps), "crop_floor": False})
    with pytest.raises(ConfigError, match=r"pixels differ by up to \d+ of 255 grey levels"):
        check_same(transformers.AutoImageProcessor.from_pretrained(tmp_path), shifted, "x")


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("side", "crop_pct"), [(32, 1.0), (32, 0.9), (33, 0.95)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_prepared_as_by_timms_own_transform(crop_mode, side, crop_pct, interpolation):
    import timm

    config = {
        "input_size": (3, side, side), "interpolation": interpolation, "mean": MEAN, "std": STD,
        "crop_pct": crop_pct, "crop_mode": crop_mode,
    }  # fmt: skip
    transform = timm.data.create_transform(**config, is_training=False)
    steps = of_data_config(config, "x")
    for image in images():
        assert torch.equal(steps(image), transform(image))


def test_other_geometry_is_another_spec_and_the_usual_one_is_said_as_before():
    usual = Preprocessing(36, 32, (0.5,), (0.2,))
    assert json.loads(usual.canonical()) == {
        "antialias": True, "crop_px": 32, "interpolation": "bilinear", "mean": [0.5], "resize_px": 36, "std": [0.2]
    }  # fmt: skip
    others = [{"squash": True}, {"border": True}, {"longest_px": 50}, {"crop_floor": True}]
    told = [Preprocessing(36, 32, (0.5,), (0.2,), **one).canonical() for one in others]
    assert len({usual.canonical(), *told}) == 5


def test_borders_of_grey_images_have_the_mean_grey():
    steps = Preprocessing(16, 16, (0.5,), (1.0,), border=True)
    image = Image.new("L", (32, 8), 255)
    for way in (steps, Preprocessing(**{**vars(steps), "on_tensors": True})):
        pixels = way.pixels(image)[0]
        assert pixels[:6].eq(128).all() and pixels[6:10].eq(255).all() and pixels[10:].eq(128).all()
