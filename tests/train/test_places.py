"""Places: what a backbone sees of an image, and probabilities brought from its grid to the judged one."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from embedpipe.errors import ConfigError
from embedpipe.features.card import BackboneCard
from embedpipe.spec import BackboneSpec
from embedpipe.train.places import judged_codes, seen_by_all


def card(preprocessing):
    spec = BackboneSpec("m", "a" * 32, "pillow 1", preprocessing, "float32", "cpu")
    return BackboneCard("net", "m", None, "random", spec, {})


def test_the_judged_square_is_what_every_backbone_sees():
    cards = {"a": card('{"crop_px":224,"resize_px":256}'), "b": card('{"crop_px":8,"resize_px":8}')}
    assert seen_by_all(cards) == 0.875
    with pytest.raises(
        ConfigError, match="backbone 'net': a dense task needs to know which part of an image"
    ):
        seen_by_all({"c": card('{"size":224}')})


@pytest.mark.parametrize(("places", "grid"), [(4, 8), (8, 4), (7, 16), (16, 7), (5, 5)])
def test_probabilities_are_resampled_as_torch_does(places, grid):
    proba = np.random.default_rng(places).random((3, 4, places, places))
    expected = F.interpolate(
        torch.from_numpy(proba), (grid, grid), mode="bilinear", align_corners=False, antialias=True
    )
    found = judged_codes(proba, grid)
    np.testing.assert_array_equal(found, expected.argmax(dim=1).flatten(1).numpy())


def test_the_same_grid_is_taken_as_it_is():
    proba = np.random.default_rng(0).random((2, 3, 6, 6))
    np.testing.assert_array_equal(judged_codes(proba, 6), proba.argmax(axis=1).reshape(2, 36))


def test_of_a_tap_that_sees_more_only_the_middle_is_judged():
    proba = np.random.default_rng(1).random((2, 3, 8, 8))
    expected = proba[:, :, 2:6, 2:6].argmax(axis=1).reshape(2, 16)
    np.testing.assert_array_equal(judged_codes(proba, 4, inside=0.5), expected)
