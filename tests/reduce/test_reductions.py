"""Every reduction against plain numpy in float64."""

import numpy as np
import pytest
import torch

from embedpipe.errors import ConfigError, ShapeError
from embedpipe.reduce import get_reduction
from embedpipe.reduce.registry import FITS

RTOL, ATOL = 1e-5, 1e-6
POOLS = ("gap", "gmp", "gem", "mean_std")


def reference(name, x_NPC):
    """Pool float64 (N, P, C) by the formula of the literature."""
    if name in ("gap", "mean_tokens"):
        return x_NPC.mean(axis=1)
    if name == "gmp":
        return x_NPC.max(axis=1)
    if name == "gem":
        return (np.maximum(x_NPC, 1e-6) ** 3).mean(axis=1) ** (1 / 3)
    if name == "mean_std":
        mean = x_NPC.mean(axis=1)
        return np.concatenate([mean, np.sqrt(((x_NPC - mean[:, None]) ** 2).mean(axis=1))], axis=1)
    raise AssertionError(name)


def grid_reference(x_NCHW, k):
    """Average over cells from floor(i·H/k) to ceil((i+1)·H/k)."""
    num, channels, height, width = x_NCHW.shape
    out = np.empty((num, channels, k, k))
    for i in range(k):
        for j in range(k):
            rows = slice(i * height // k, -(-(i + 1) * height // k))
            columns = slice(j * width // k, -(-(j + 1) * width // k))
            out[:, :, i, j] = x_NCHW[:, :, rows, columns].mean(axis=(2, 3))
    return out.reshape(num, -1)


@pytest.fixture
def x_NCHW():
    return np.random.default_rng(0).normal(size=(3, 5, 6, 4))


@pytest.fixture
def x_NTD():
    return np.random.default_rng(1).normal(size=(3, 1 + 16, 7))


def tensor(x, dtype=torch.float32):
    return torch.from_numpy(x).to(dtype)


@pytest.mark.parametrize("name", POOLS)
def test_pools_of_maps_equal_numpy_in_float64(name, x_NCHW):
    found = get_reduction(name).apply(tensor(x_NCHW), "NCHW")
    expected = reference(name, x_NCHW.reshape(3, 5, 24).transpose(0, 2, 1))
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("name", [*POOLS, "grid:2", "none", "flatten"])
def test_channels_last_maps_give_what_channels_first_maps_give(name, x_NCHW):
    reduction = get_reduction(name)
    first = reduction.apply(tensor(x_NCHW), "NCHW")
    last = reduction.apply(tensor(x_NCHW.transpose(0, 2, 3, 1).copy()), "NHWC")
    memory = reduction.apply(tensor(x_NCHW).contiguous(memory_format=torch.channels_last), "NCHW")
    torch.testing.assert_close(last, first)
    torch.testing.assert_close(memory, first)


@pytest.mark.parametrize("name", [*POOLS, "mean_tokens"])
def test_pools_of_tokens_leave_the_class_token_out(name, x_NTD):
    found = get_reduction(name).apply(tensor(x_NTD), "NTD", num_prefix=1)
    np.testing.assert_allclose(found, reference(name, x_NTD[:, 1:]), rtol=RTOL, atol=ATOL)


def test_cls_is_the_first_token(x_NTD):
    found = get_reduction("cls").apply(tensor(x_NTD), "NTD", num_prefix=1)
    np.testing.assert_array_equal(found, x_NTD[:, 0].astype(np.float32))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_grid_of_maps_averages_cells_in_order_channel_row_column(k, x_NCHW):
    found = get_reduction(f"grid:{k}").apply(tensor(x_NCHW), "NCHW")
    np.testing.assert_allclose(found, grid_reference(x_NCHW, k), rtol=RTOL, atol=ATOL)


def test_grid_of_tokens_puts_patches_back_on_their_square(x_NTD):
    found = get_reduction("grid:2").apply(tensor(x_NTD), "NTD", num_prefix=1)
    map_NCHW = x_NTD[:, 1:].reshape(3, 4, 4, 7).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, grid_reference(map_NCHW, 2), rtol=RTOL, atol=ATOL)


def test_gap_equals_adaptive_pooling_of_torch(x_NCHW):
    expected = torch.nn.functional.adaptive_avg_pool2d(tensor(x_NCHW), 1).flatten(1)
    torch.testing.assert_close(get_reduction("gap").apply(tensor(x_NCHW), "NCHW"), expected)


def test_gem_lies_between_mean_and_maximum_of_positive_values(x_NCHW):
    x = tensor(np.abs(x_NCHW) + 0.1)
    gap, gem, gmp = (get_reduction(name).apply(x, "NCHW") for name in ("gap", "gem", "gmp"))
    assert bool(((gap < gem) & (gem < gmp)).all())


def test_none_and_flatten_keep_every_value_of_tokens(x_NTD):
    whole = get_reduction("none").apply(tensor(x_NTD), "NTD", num_prefix=1)
    flat = get_reduction("flatten").apply(tensor(x_NTD), "NTD", num_prefix=1)
    np.testing.assert_array_equal(whole, x_NTD.astype(np.float32))
    np.testing.assert_array_equal(flat, x_NTD.astype(np.float32).reshape(3, -1))


@pytest.mark.parametrize("name", [name if name != "grid" else "grid:2" for name in FITS])
@pytest.mark.parametrize(
    ("layout", "shape", "num_prefix"),
    [
        ("NCHW", (5, 6, 4), 0),
        ("NHWC", (6, 4, 5), 0),
        ("NTD", (17, 7), 1),
        ("ND", (9,), 0),
        ("other", (2, 3), 0),
    ],
)
def test_shape_says_what_apply_gives(name, layout, shape, num_prefix):
    reduction = get_reduction(name)
    if not reduction.fits(layout):
        with pytest.raises(ShapeError, match="reductions that do"):
            reduction.shape(shape, layout, num_prefix=num_prefix)
        return
    out = reduction.apply(torch.ones((2, *shape)), layout, num_prefix=num_prefix)
    assert tuple(out.shape[1:]) == reduction.shape(shape, layout, num_prefix=num_prefix)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("name", POOLS)
def test_half_precision_maps_are_reduced_in_float32_even_under_autocast(name):
    x = torch.rand(2, 3, 64, 64).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = get_reduction(name).apply(x, "NCHW")
    expected = reference(name, x.double().numpy().reshape(2, 3, -1).transpose(0, 2, 1))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["none", "flatten"])
def test_what_was_tapped_shares_no_memory_with_the_model(name):
    x = torch.zeros(1, 2, 2, 2)
    found = get_reduction(name).apply(x, "NCHW")
    x.add_(1)
    assert float(found.sum()) == 0


def test_unknown_reduction_is_answered_with_the_near_one():
    with pytest.raises(
        ConfigError, match=r"unknown reduction 'gapp' \(did you mean 'gap'\?\); known: gap, gmp.*grid:k"
    ):
        get_reduction("gapp")


@pytest.mark.parametrize("name", ["grid", "grid:", "grid:0", "grid:two", "grid:-1"])
def test_grid_wants_its_number(name):
    with pytest.raises(ConfigError, match="expected grid:k with k from 1 to 999, for example grid:2"):
        get_reduction(name)


def test_other_reductions_take_no_argument():
    with pytest.raises(ConfigError, match="gap takes no argument; write gap"):
        get_reduction("gap:2")


def test_a_grid_finer_than_the_map_says_how_fine_it_may_be():
    with pytest.raises(
        ShapeError, match="grid:5: finer than the map, which has 6×4 places; use grid:4 or less"
    ):
        get_reduction("grid:5").shape((3, 6, 4), "NCHW")


def test_tokens_that_are_no_square_have_no_grid():
    with pytest.raises(ShapeError, match="15 patch tokens are not a square"):
        get_reduction("grid:2").shape((15, 4), "NTD")


def test_cls_of_tokens_without_a_class_token_is_refused():
    with pytest.raises(ShapeError, match="these 16 tokens have no class token; use mean_tokens"):
        get_reduction("cls").shape((16, 4), "NTD")


def test_a_shape_that_contradicts_its_layout_is_named():
    with pytest.raises(ShapeError, match=r"layout NCHW has 3 axes besides N, found shape \(N, 4, 4\)"):
        get_reduction("gap").shape((4, 4), "NCHW")
