"""What may enter a store, and the words of those who may not."""

from __future__ import annotations

import numpy as np
import pytest

from embedpipe.errors import FeatureValueError
from embedpipe.store.gates import BlockStatistics, remarks, to_storage


def test_finite_values_are_cast_as_numpy_casts() -> None:
    values = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(to_storage(values, "float16", "t"), values.astype(np.float16))
    np.testing.assert_array_equal(to_storage(values, "float32", "t"), values)


def test_overflow_names_sample_tap_and_the_dtype_to_set() -> None:
    values = np.ones((4, 2), np.float32)
    values[2, 1] = -70000
    with pytest.raises(FeatureValueError) as caught:
        to_storage(values, "float16", "layer4.gap", ["a", "b", "c", "d"])
    assert str(caught.value) == (
        "tap layer4.gap: expected values within float16 (up to 65504), found 70000 in sample c; "
        "set dtype: float32"
    )


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_nan_and_inf_name_the_first_few_samples(value: float, word: str, dtype: str) -> None:
    values = np.ones((9, 2, 2), np.float32)
    values[[1, 3, 5, 7, 8], 0, 1] = value
    names = [f"s{i}" for i in range(9)]
    with pytest.raises(
        FeatureValueError, match=f"tap t: .* found {word} for 5 of 9 samples: s1, s3, s5 and 2 more"
    ):
        to_storage(values, dtype, "t", names)


def test_every_float16_is_taken_if_it_is_finite_and_refused_if_it_is_not() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(every)
    assert to_storage(every[finite], "float16", "t").tobytes() == every[finite].tobytes()
    for value in every[~finite][:: len(every[~finite]) // 50]:
        with pytest.raises(FeatureValueError):
            to_storage(np.array([1, value, -1], np.float16), "float16", "t")


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF])
def test_no_float32_that_is_not_finite_is_taken(bits: int) -> None:
    value = np.array([bits], np.uint32).view(np.float32)
    with pytest.raises(FeatureValueError):
        to_storage(np.concatenate([value, np.float32([-1, 1])]), "float32", "t")
    largest = np.array([0x7F7FFFFF, 0xFF7FFFFF], np.uint32).view(np.float32)
    assert to_storage(largest, "float32", "t").tobytes() == largest.tobytes()


def test_without_names_positions_are_said() -> None:
    with pytest.raises(FeatureValueError, match="1 of 2 samples: 1;"):
        to_storage(np.array([[1.0], [np.nan]]), "float16", "t")


def test_the_largest_float16_is_stored() -> None:
    assert to_storage(np.array([[65504.0]], np.float32), "float16", "t")[0, 0] == 65504


def statistics(norm: float, num_rows: int = 100) -> BlockStatistics:
    return BlockStatistics(num_rows, norm, 1.0, 0, 4)


def test_statistics_are_those_of_the_norms() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 2, 3)).astype(np.float16)
    rows[:, 1, 1] = 2
    found = BlockStatistics.of(rows)
    norms = np.linalg.norm(rows.reshape(50, -1).astype(np.float64), axis=1)
    assert found.norm_mean == pytest.approx(norms.mean())
    assert found.norm_std == pytest.approx(norms.std())
    assert (found.num_constant, found.num_columns) == (1, 6)
    assert BlockStatistics.from_dict(found.to_dict()) == found


def test_of_many_rows_every_fourth_has_its_norm_taken_and_all_are_looked_at_for_constants() -> None:
    rows = np.random.default_rng(0).standard_normal((1024, 3)).astype(np.float32)
    rows[:, 2] = 1
    rows[7, 2] = 2
    found = BlockStatistics.of(rows)
    assert found.norm_mean == pytest.approx(np.linalg.norm(rows[::4].astype(np.float64), axis=1).mean())
    assert (found.num_rows, found.num_constant) == (1024, 0)


def test_drift_beyond_three_spreads_is_said_and_less_is_not() -> None:
    earlier = [statistics(10.0), statistics(10.2)]
    assert remarks("t", statistics(12.9), earlier) == []
    assert (
        "the mean norm of the block is 14, of the blocks before 10.1 ± 1"
        in remarks("t", statistics(14.0), earlier)[0]
    )
    assert remarks("t", statistics(99.0), []) == []
    assert remarks("t", statistics(99.0, num_rows=3), earlier) == []
