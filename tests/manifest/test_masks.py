"""Masks reduced to grids, against counting pixels place by place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedpipe.manifest.masks import IGNORED, Masks, decode_mask, encode_mask, majority


def counted(codes_HW, shape, top, left, side):
    """The majority of each place, by cutting places out: for squares that divide evenly."""
    found = np.empty(shape, int)
    height, width = side // shape[0], side // shape[1]
    for y in range(shape[0]):
        for x in range(shape[1]):
            rows, columns = top + y * height, left + x * width
            place = codes_HW[rows : rows + height, columns : columns + width].ravel()
            winner = np.bincount(place, minlength=256).argmax()
            found[y, x] = -1 if winner == IGNORED else winner
    return found


def test_a_place_has_the_class_of_most_of_its_pixels():
    codes = np.random.default_rng(0).choice([0, 1, 2, IGNORED], size=(24, 24)).astype(np.uint8)
    np.testing.assert_array_equal(majority(codes, (4, 6)), counted(codes, (4, 6), 0, 0, 24))


def test_only_the_square_in_the_middle_that_a_backbone_sees_counts():
    codes = np.random.default_rng(1).integers(0, 3, size=(40, 64)).astype(np.uint8)
    np.testing.assert_array_equal(majority(codes, (4, 4)), counted(codes, (4, 4), 0, 12, 40))
    np.testing.assert_array_equal(majority(codes, (4, 4), 0.8), counted(codes, (4, 4), 4, 16, 32))


def test_of_equal_classes_the_first_wins_and_a_class_wins_over_what_is_ignored():
    codes = np.array([[2, 1, 0, IGNORED], [1, 2, IGNORED, 0]], np.uint8)
    assert majority(np.repeat(codes, 2, axis=0), (1, 2)).tolist() == [[1, 0]]


def test_a_place_mostly_ignored_is_missing():
    codes = np.array([[0, IGNORED], [IGNORED, IGNORED]], np.uint8)
    assert majority(codes, (1, 1)).tolist() == [[-1]]


def test_fewer_pixels_than_places_are_shared_out():
    assert majority(np.array([[0, 1], [2, 3]], np.uint8), (4, 4)).tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [2, 2, 3, 3],
    ]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.floats(0.3, 1.0))
@settings(max_examples=50, deadline=None)
def test_a_mask_of_one_class_has_it_at_every_place_of_any_grid(height, width, places, seen):
    assert (majority(np.full((height, width), 7, np.uint8), (places, places), seen) == 7).all()


def test_masks_survive_being_held_as_png_and_none_is_missing_everywhere():
    codes = np.random.default_rng(2).integers(0, 256, size=(5, 9)).astype(np.uint8)
    np.testing.assert_array_equal(decode_mask(encode_mask(codes)), codes)
    found = Masks([None, encode_mask(np.zeros((8, 8), np.uint8))]).on_grid((2, 2))
    assert found.tolist() == [[[-1, -1], [-1, -1]], [[0, 0], [0, 0]]]


def test_masks_in_another_order_have_another_digest():
    one, two = (encode_mask(np.full((2, 2), code, np.uint8)) for code in (0, 1))
    assert len({Masks(cells).digest for cells in ([one, two], [two, one], [one, None], [None, one])}) == 4


@pytest.mark.parametrize("shape", [(3, 3), (1, 1), (16, 16)])
def test_every_pixel_counts_where_pixels_do_not_divide_evenly(shape):
    from embedpipe.manifest.masks import _lattice

    for length in (7, 16, 33):
        assert set(_lattice(length, length, shape[0]).ravel()) == set(range(length)) or shape[0] > length
