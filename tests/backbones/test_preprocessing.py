import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.errors import ConfigError


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "mobilenet_v3_small"])
def test_preprocessing_equals_the_transforms_of_the_weights_to_the_bit(name, make, images):
    backbone = make(f"torchvision:{name}", preprocess=None)
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    for image in images:
        assert torch.equal(backbone.preprocess(image), transforms(image))


def test_preprocessing_is_canonical_json_with_the_overrides(make):
    backbone = make(
        preprocess={"resize_px": 40, "crop_px": 32, "interpolation": "bicubic", "mean": [0, 0, 0]}
    )
    assert json.loads(backbone.preprocessing) == {
        "antialias": True, "crop_px": 32, "interpolation": "bicubic", "resize_px": 40,
        "mean": [0, 0, 0], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    assert backbone.preprocessing == json.dumps(
        json.loads(backbone.preprocessing), sort_keys=True, separators=(",", ":")
    )
    assert backbone.input_shape == (3, 32, 32)


def test_equal_steps_give_equal_text_however_they_were_written(make):
    first = make(preprocess={"mean": [0, 0, 0], "crop_px": 64})
    second = make(preprocess={"mean": [0.0, 0.0, 0.0], "crop_px": 64})
    assert first.preprocessing == second.preprocessing


def test_grey_images_are_repeated_over_three_channels(make):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 70), dtype=np.uint8))
    backbone = make(preprocess={"crop_px": 64, "resize_px": 64, "mean": [0, 0, 0], "std": [1, 1, 1]})
    x_CHW = backbone.preprocess(grey)
    assert x_CHW.shape == (3, 64, 64)
    assert torch.equal(x_CHW[0], x_CHW[1]) and torch.equal(x_CHW[0], x_CHW[2])


def test_colour_images_become_their_luminance_where_a_model_takes_one_channel(make, images):
    backbone = make("pixels", None, {"pixels": ["flatten"]}, image_px=70)
    expected = np.asarray(images[0].convert("L").crop((0, 10, 70, 80)), dtype=np.float32) / 255
    np.testing.assert_allclose(backbone.preprocess(images[0])[0], expected, rtol=1e-6)


def test_a_digit_at_its_own_size_is_not_resampled(make):
    image = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    x_CHW = make("glyphnet").preprocess(Image.fromarray(image))
    np.testing.assert_allclose(x_CHW[0], image / 255.0 * 2 - 1, atol=1e-6)


def test_a_number_too_few_of_channels_is_named(make):
    with pytest.raises(ConfigError, match=r"preprocess\.mean: expected 3 numbers, one a channel, found 1"):
        make(preprocess={"mean": [0.5]})


def test_a_crop_larger_than_the_image_is_refused(make):
    with pytest.raises(ConfigError, match="crop_px 64 is larger than resize_px 32, which would pad"):
        make(preprocess={"crop_px": 64, "resize_px": 32})


def test_one_size_alone_moves_the_other_only_where_it_must(make):
    assert json.loads(make(preprocess={"resize_px": 96}).preprocessing)["crop_px"] == 96
    assert json.loads(make(preprocess={"crop_px": 96}).preprocessing)["resize_px"] == 256


def test_pixels_then_the_forward_pass_are_preprocessing_and_the_forward_pass_to_the_bit(make, images):
    backbone = make(taps={"layer1": ["gap"], "layer2": ["none"]})
    forward = backbone.forward(backbone.tap_specs())
    x_NCHW = torch.stack([backbone.preprocess(image) for image in images])
    pixels_NCHW = torch.stack([backbone.pixels(image) for image in images])
    assert pixels_NCHW.dtype == torch.uint8
    expected = forward(x_NCHW)
    for stored in (pixels_NCHW, pixels_NCHW.contiguous(memory_format=torch.channels_last)):
        found = forward(stored)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_resampled_tensors_are_within_two_grey_levels_of_pillow_and_another_spec(make):
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    image = smooth.resize((700, 900), Image.Resampling.BICUBIC)
    plain = make(preprocess={"resize_px": 96, "crop_px": 64})
    other = plain.resampling_tensors()
    assert json.loads(other.preprocessing) == {
        **json.loads(plain.preprocessing), "resampler": "torchvision tensor"
    }  # fmt: skip
    difference = other.pixels(image).int() - plain.pixels(image).int()
    assert difference.abs().max() <= 2
    assert plain.preprocessing != other.preprocessing and plain.can_resample_tensors


@pytest.mark.parametrize("size", [(1, 1000), (3000, 2), (1, 1), (2, 7)])
@pytest.mark.parametrize(
    "changed",
    [{}, {"squash": True}, {"border": True}, {"longest_px": 40}],
    ids=["crop", "squash", "border", "longest"],
)
@pytest.mark.parametrize("on_tensors", [False, True], ids=["pillow", "tensors"])
def test_images_of_any_shape_become_the_models_input(
    size: tuple[int, int], changed: dict[str, object], on_tensors: bool
) -> None:
    steps = Preprocessing(32, 24, (0.5,) * 3, (0.5,) * 3, on_tensors=on_tensors, **changed)  # type: ignore[arg-type]
    assert steps.pixels(Image.new("RGB", size, "red")).shape == (3, 24, 24)
