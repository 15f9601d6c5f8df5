"""The growth plan against a dictionary model that loops over rows."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedpipe.errors import ShapeError
from embedpipe.spec import TapSpec
from embedpipe.store import join as join_module
from embedpipe.store.holes import Holes
from embedpipe.store.join import join
from embedpipe.store.layout import TapState
from embedpipe.store.plan import GrowthPlan, plan_growth

# keys that collide in their first half, to reach the ties of the sort
KEYS = [bytes([i % 3] * 8 + [i] * 8) for i in range(14)]
Pair = tuple[int, int]  # index of key, part


def as_arrays(pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.array([list(KEYS[i]) for i, _ in pairs], np.uint8).reshape(-1, 16)
    return keys, np.array([part for _, part in pairs], np.int32)


pairs = st.tuples(st.integers(0, len(KEYS) - 1), st.integers(0, 1))


@st.composite
def situations(draw: Any) -> tuple[list[Pair], list[Pair], list[TapState]]:
    stored = draw(st.lists(pairs, unique=True, max_size=20))
    wanted = draw(st.lists(pairs, max_size=24))
    taps = []
    for i in range(draw(st.integers(1, 4))):
        num_rows = draw(st.integers(0, len(stored)))
        holes = draw(st.sets(st.integers(0, num_rows - 1))) if num_rows else set()
        shard_rows = 2 ** draw(st.integers(0, 4))
        ranges = [(row, row + 1, f"reason {row % 2}") for row in holes]
        spec = TapSpec(f"n{i}", "gap")
        taps.append(TapState(spec, (3,), shard_rows, 1, num_rows, Holes.from_ranges(ranges)))
    return stored, wanted, taps


def planned(stored: list[Pair], wanted: list[Pair], taps: list[TapState]) -> GrowthPlan:
    return plan_growth(taps, *as_arrays(stored), *as_arrays(wanted))


@settings(deadline=None, max_examples=200)
@given(situations())
def test_every_wanted_and_missing_pair_of_row_and_tap_is_planned_exactly_once(
    situation: tuple[list[Pair], list[Pair], list[TapState]],
) -> None:
    stored, wanted, taps = situation
    row_of = {pair: row for row, pair in enumerate(stored)}
    for pair in wanted:
        row_of.setdefault(pair, len(row_of))
    missing = {
        (row_of[pair], tap.name)
        for pair in wanted
        for tap in taps
        if row_of[pair] >= tap.num_rows or row_of[pair] in tap.holes
    }
    plan = planned(stored, wanted, taps)
    found = [
        (int(row), name)
        for block in plan.blocks
        for segment in block.segments
        for row in segment.rows
        for name in segment.taps
    ]
    assert len(found) == len(set(found))
    assert set(found) == missing
    assert plan.rows_of_wanted.tolist() == [row_of[pair] for pair in wanted]
    assert plan.num_rows_after == len(row_of)
    added = [pair for pair, row in row_of.items() if row >= len(stored)]
    np.testing.assert_array_equal(plan.new_keys, as_arrays(added)[0])
    np.testing.assert_array_equal(plan.new_parts, as_arrays(added)[1])
    first: dict[int, int] = {}
    for i, pair in enumerate(wanted):
        first.setdefault(row_of[pair], i)
    assert plan.wanted_of_row.tolist() == [first.get(row, -1) for row in range(len(row_of))]


@settings(deadline=None, max_examples=200)
@given(situations())
def test_blocks_are_aligned_ascending_and_their_segments_disjoint(
    situation: tuple[list[Pair], list[Pair], list[TapState]],
) -> None:
    stored, wanted, taps = situation
    plan = planned(stored, wanted, taps)
    filled = {name for block in plan.blocks for segment in block.segments for name in segment.taps}
    step = max((tap.shard_rows for tap in taps if tap.name in filled), default=1)
    for position, block in enumerate(plan.blocks):
        assert block.index == position
        assert block.start % step == 0
        assert block.stop == min(block.start + step, plan.num_rows_after)
        assert block.segments
        rows = np.concatenate([segment.rows for segment in block.segments])
        assert len(np.unique(rows)) == len(rows)
        assert ((rows >= block.start) & (rows < block.stop)).all()
        assert [s.rows[0] for s in block.segments] == sorted(s.rows[0] for s in block.segments)
        for segment in block.segments:
            assert (np.diff(segment.rows) > 0).all()
    starts = [block.start for block in plan.blocks]
    assert starts == sorted(set(starts))


def test_nothing_wanted_or_nothing_missing_plans_no_block() -> None:
    tap = TapState(TapSpec("n", "gap"), (3,), 4, 1, 3)
    stored = [(0, 0), (1, 0), (2, 0)]
    assert not planned(stored, [], [tap]).blocks
    assert not planned(stored, [(1, 0), (1, 0)], [tap]).blocks
    assert planned([], [], [tap]).num_rows_after == 0


def test_parts_of_one_sample_are_rows_of_their_own() -> None:
    tap = TapState(TapSpec("n", "gap"), (3,), 4, 1)
    plan = planned([], [(5, 0), (5, 1), (5, 0)], [tap])
    assert plan.rows_of_wanted.tolist() == [0, 1, 0]
    assert plan.new_parts.tolist() == [0, 1]


def test_a_plan_counts_rows_and_bytes() -> None:
    taps = [TapState(TapSpec("n", "gap"), (3,), 4, 1), TapState(TapSpec("m", "gap", "float32"), (5,), 4, 1)]
    plan = planned([], [(i, 0) for i in range(6)], taps)
    assert plan.num_rows_to_compute == 6
    assert plan.nbytes == 6 * (3 * 2 + 5 * 4)


def test_more_than_sixty_four_taps_in_states_of_their_own_are_told_apart() -> None:
    taps = [TapState(TapSpec(f"n{i}", "gap"), (3,), 128, 1, i) for i in range(70)]
    keys = np.arange(70, dtype=np.uint8).repeat(16).reshape(70, 16)
    plan = plan_growth(taps, keys, np.zeros(70, np.int32), keys)
    (block,) = plan.blocks
    assert [len(segment.taps) for segment in block.segments] == list(range(1, 71))


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 15), np.uint8), np.zeros((3, 16), np.int8), np.zeros(16, np.uint8)]
)
def test_keys_of_another_shape_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"wanted keys: expected uint8 \[n, 16\], found"):
        plan_growth([], np.zeros((0, 16), np.uint8), np.zeros(0, np.int32), bad)


@pytest.mark.slow
def test_ten_million_keys_are_planned_in_seconds() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 256, (10_000_000, 16), np.uint8)
    tap = TapState(TapSpec("n", "gap"), (512,), 65536, 1, 5_000_000)
    began = time.perf_counter()
    plan = plan_growth(
        [tap], keys[:5_000_000], np.zeros(5_000_000, np.int32), keys[rng.permutation(len(keys))]
    )
    assert plan.num_rows_to_compute == 5_000_000
    assert time.perf_counter() - began < 30


@settings(deadline=None)
@given(st.lists(pairs, unique=True, max_size=30), st.lists(pairs, max_size=30))
def test_join_finds_what_a_dictionary_finds(stored: list[Pair], wanted: list[Pair]) -> None:
    row_of = {pair: row for row, pair in enumerate(stored)}
    rows = join(*as_arrays(stored), *as_arrays(wanted)).rows
    for pair, row in zip(wanted, rows.tolist(), strict=True):
        assert row == row_of.setdefault(pair, len(row_of))


@settings(deadline=None)
@given(
    st.lists(pairs, unique=True, max_size=30),
    st.lists(pairs, max_size=30),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_partitions_and_pieces_change_no_join(
    stored: list[Pair], wanted: list[Pair], partition: int, piece: int
) -> None:
    whole = join(*as_arrays(stored), *as_arrays(wanted))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join_module, "PARTITION_ROWS", partition)
        patch.setattr(join_module, "PIECE_ROWS", piece)
        parted = join(*as_arrays(stored), *as_arrays(wanted))
    assert parted.rows.tolist() == whole.rows.tolist()
    assert parted.first_of_new.tolist() == whole.first_of_new.tolist()


def test_keys_that_are_no_hashes_are_told_apart() -> None:
    counted = np.zeros((5000, 16), np.uint8)
    counted[:, :2] = np.arange(5000, dtype=np.uint16)[:, None].view(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join_module, "PARTITION_ROWS", 100)
        found = join(counted[:3000], None, counted[::-1], None)
    assert found.rows.tolist() == [*range(3000, 5000), *range(2999, -1, -1)]
    assert found.first_of_new.tolist() == list(range(2000))


def test_a_plan_of_many_rows_holds_a_few_bytes_a_row() -> None:
    num_rows = 1 << 20
    keys = np.random.default_rng(0).integers(0, 256, (num_rows, 16), np.uint8)
    taps = [TapState(TapSpec(name, "gap"), (512,), 65536, 1) for name in "ab"]
    tracemalloc.start()
    try:
        plan = plan_growth(taps, np.zeros((0, 16), np.uint8), None, keys)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 12 * num_rows
    assert [block.start for block in plan.blocks] == list(range(0, num_rows, 65536))
    assert plan.blocks[3].start == plan.blocks[-13].start and [b.index for b in plan.blocks[2:4]] == [2, 3]
    np.testing.assert_array_equal(plan.keys_between(10, 20), keys[10:20])


ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6), st.sampled_from("ab")), max_size=6)


def model_of(raw: list[tuple[int, int, str]]) -> dict[int, str]:
    return {row: reason for start, length, reason in raw for row in range(start, start + length)}


def holes_of(model: dict[int, str]) -> Holes:
    return Holes.from_ranges((row, row + 1, reason) for row, reason in model.items())


@settings(deadline=None, max_examples=200)
@given(ranges, ranges, st.integers(0, 50), st.integers(0, 50))
def test_holes_behave_as_a_dictionary(
    raw: list[tuple[int, int, str]], other: list[tuple[int, int, str]], a: int, b: int
) -> None:
    start, stop = min(a, b), max(a, b)
    model = model_of(raw)
    holes = holes_of(model)
    assert dict(holes) == model
    assert len(holes) == len(model)
    assert holes.mask(start, stop).tolist() == [row in model for row in range(start, stop)]
    assert dict(holes.within(start, stop)) == {r: w for r, w in model.items() if start <= r < stop}
    new = {row: why for row, why in model_of(other).items() if start <= row < stop}
    replaced = holes.replaced(start, stop, holes_of(new))
    outside = {row: why for row, why in model.items() if not start <= row < stop}
    assert dict(replaced) == {**outside, **new}
    assert replaced == holes_of({**outside, **new}), "equal holes are stored alike"
    assert Holes.from_json(holes.to_json()) == holes
    assert 99 not in holes
