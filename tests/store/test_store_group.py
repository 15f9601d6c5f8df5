"""Growth, layout on disk, specs: against plain zarr and the tiny backbone itself."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from embedpipe.errors import FeatureValueError, ShapeError, SpecMismatch, StoreError
from embedpipe.spec import TapSpec
from embedpipe.store import FeatureStore, find_groups, nearest_group, open_group
from embedpipe.store.layout import block_rows, new_taps

from .conftest import GAP, GRID, SHAPES, SPEC, Grower, expected, feature, files_of, keys_of

NAMES = [f"s{i}" for i in range(37)]


def test_features_read_back_by_plain_zarr_as_they_were_computed(grower: Grower) -> None:
    group = grower.grow(NAMES)
    opened = zarr.open_group(str(group.path), mode="r")
    for tap in (GAP, GRID):
        np.testing.assert_array_equal(opened[tap.name][...], expected(NAMES, tap))
    np.testing.assert_array_equal(opened["keys"][...], keys_of(NAMES))
    np.testing.assert_array_equal(opened["part"][...], np.zeros(37, np.int32))


def test_arrays_are_sharded_and_checksummed_and_fill_with_nan(grower: Grower) -> None:
    group = grower.grow(NAMES)
    metadata = json.loads((group.path / GAP.name / "zarr.json").read_text())
    (codec,) = metadata["codecs"]
    bytes_and_crc = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    assert codec["name"] == "sharding_indexed"
    assert codec["configuration"]["codecs"] == bytes_and_crc
    assert codec["configuration"]["index_codecs"] == bytes_and_crc
    assert metadata["fill_value"] == "NaN"
    assert metadata["data_type"] == "float16"
    assert metadata["zarr_format"] == 3


def test_nothing_is_computed_twice_along_either_axis(grower: Grower) -> None:
    grower.grow(NAMES[:20], [GAP])
    grower.grow([*NAMES[:20], NAMES[3]], [GAP])
    assert len(grower.computed) == 20
    grower.computed.clear()
    grower.grow(NAMES, [GAP, GRID])
    assert sorted(grower.computed) == sorted(
        [(name, GRID.name) for name in NAMES] + [(name, GAP.name) for name in NAMES[20:]]
    )
    grower.computed.clear()
    group = grower.grow(list(reversed(NAMES)), [GRID])
    assert grower.computed == []
    np.testing.assert_array_equal(
        FeatureStore.open(group.path).read(GRID.name, slice(None)), expected(NAMES, GRID)
    )


def test_rows_that_a_new_tap_does_not_want_become_holes_and_are_filled_when_wanted(grower: Grower) -> None:
    grower.grow(NAMES, [GAP])
    group = grower.grow(NAMES[18:30], [GRID])
    tap = group.taps[GRID.name]
    assert dict(tap.holes) == dict.fromkeys([*range(18), *range(30, tap.num_rows)], "not wanted")
    store = FeatureStore.open(group.path)
    assert np.isnan(store.read(GRID.name, [0, 17, 30, 36])).all()
    assert set(store.holes(GRID.name)) == {*range(18), *range(30, 37)}
    grower.computed.clear()
    group = grower.grow(NAMES, [GRID])
    assert len(grower.computed) == 25
    assert not group.taps[GRID.name].holes
    np.testing.assert_array_equal(
        FeatureStore.open(group.path).read(GRID.name, slice(None)), expected(NAMES, GRID)
    )


def test_failed_samples_keep_their_rows_as_holes_with_their_reasons(grower: Grower) -> None:
    grower.failing = frozenset({"s4", "s20"})
    group = grower.grow(NAMES)
    assert dict(group.taps[GAP.name].holes) == {4: "unreadable", 20: "unreadable"}
    read = FeatureStore.open(group.path).read(GAP.name, slice(None))
    assert np.isnan(read[[4, 20]]).all()
    np.testing.assert_array_equal(read[21:], expected(NAMES[21:], GAP))
    before = files_of(group.path)
    assert files_of(grower.grow(NAMES).path) == before, "failing again changes no file"
    grower.failing = frozenset()
    group = grower.grow(NAMES)
    assert not group.taps[GAP.name].holes
    np.testing.assert_array_equal(
        zarr.open_group(str(group.path), mode="r")[GAP.name][...], expected(NAMES, GAP)
    )


def test_growing_at_once_and_by_small_steps_reads_the_same(grower: Grower, tmp_path: Path) -> None:
    for stop in (1, 2, 9, 16, 17, 33, 37):
        group = grower.grow(NAMES[:stop])
    whole = Grower(tmp_path / "whole").grow(NAMES)
    for tap in (GAP, GRID):
        np.testing.assert_array_equal(
            FeatureStore.open(group.path).read(tap.name, slice(None)),
            FeatureStore.open(whole.path).read(tap.name, slice(None)),
        )
    assert {k: v for k, v in files_of(group.path).items() if k != "ledger.jsonl"} == {
        k: v for k, v in files_of(whole.path).items() if k != "ledger.jsonl"
    }


def test_a_short_last_shard_takes_one_inner_chunk_of_disk(tmp_path: Path) -> None:
    spec = TapSpec("layer4", "gap")
    group = open_group(tmp_path, SPEC)
    with group.lock():
        group.recover()
        group.ensure_taps({spec: (4096,)})
        plan = group.plan(keys_of(["a", "b"]), taps=[spec.name])
        with group.writer(plan, plan.blocks[0], batch=2) as writer:
            writer.append([0, 1], {spec.name: np.ones((2, 4096), np.float32)})
            writer.commit()
    nbytes = (group.path / spec.name / "c/0/0").stat().st_size
    assert 4 * 2**20 < nbytes < 4 * 2**20 + 1024


def test_an_old_tail_shard_is_replaced_by_a_new_file_never_written_into(grower: Grower) -> None:
    group = grower.grow(NAMES[:5], [GAP])
    shard = group.path / GAP.name / "c/0/0"
    linked = grower.root / "link"
    linked.hardlink_to(shard)
    before = linked.read_bytes()
    grower.grow(NAMES[:9], [GAP])
    assert linked.read_bytes() == before
    assert shard.stat().st_ino != linked.stat().st_ino


@pytest.mark.parametrize(
    ("shape", "dtype", "shard_rows", "chunk_rows"),
    [
        ((2048,), "float16", 2**14, 2**10),
        ((2048,), "float32", 2**13, 2**9),
        ((1000,), "float16", 2**15, 2**11),
        ((64, 56, 56), "float16", 2**7, 2**3),
        ((64,), "float16", 2**19, 2**12),
    ],
)
def test_a_shard_is_the_largest_power_of_two_within_64_mb_and_a_chunk_within_4_or_4096_rows(
    shape: tuple[int, ...], dtype: str, shard_rows: int, chunk_rows: int
) -> None:
    spec = TapSpec("n", "r", dtype)
    tap = new_taps({spec: shape}, [])[spec.name]
    assert (tap.shard_rows, tap.chunk_rows) == (shard_rows, chunk_rows)
    assert 32 * 2**20 <= tap.shard_rows * tap.row_nbytes <= 64 * 2**20


def test_taps_requested_together_keep_a_block_within_its_bytes() -> None:
    wanted = {TapSpec("maps", "none"): (64, 56, 56), TapSpec("a", "gap"): (64,), TapSpec("b", "gap"): (512,)}
    taps = new_taps(wanted, [])
    rows = block_rows(taps.values())
    assert rows == max(tap.shard_rows for tap in taps.values())
    assert rows * sum(tap.row_nbytes for tap in taps.values()) <= 2 * 2**30


@pytest.mark.parametrize(
    ("shapes", "num_shards"),
    [([(2048,)], 2), ([(64, 56, 56)], 2), ([(2048,), (1024,)], 1), ([(512,)], 1), ([(64,)], 1)],
)
def test_wide_rows_are_committed_two_shards_at_a_time(shapes: list[tuple[int, ...]], num_shards: int) -> None:
    taps = new_taps({TapSpec(f"n{i}", "r"): shape for i, shape in enumerate(shapes)}, []).values()
    assert block_rows(taps) == num_shards * max(tap.shard_rows for tap in taps)


def test_a_tap_of_large_rows_that_joins_later_does_not_make_a_block_too_large() -> None:
    small = new_taps({TapSpec("a", "gap"): (64,)}, [])
    large = new_taps({TapSpec("m", "none"): (64, 56, 56)}, small.values())
    both = [*small.values(), *large.values()]
    assert block_rows(both) * sum(tap.row_nbytes for tap in both) <= 2 * 2**30
    assert block_rows(both) < small["a.gap"].shard_rows


def test_a_block_smaller_than_a_shard_still_fills_it(tmp_path: Path) -> None:
    small = Grower(tmp_path)
    group = small.open()
    with group.lock():
        group.recover()
        group.ensure_taps({GAP: (6,)}, shard_nbytes=192)
        plan = group.plan(keys_of(NAMES), taps=[GAP.name], block_nbytes=48)
        assert plan.blocks[0].stop == 4 < group.taps[GAP.name].shard_rows
        small.fill(group, plan, NAMES)
    np.testing.assert_array_equal(
        FeatureStore.open(group.path).read(GAP.name, slice(None)), expected(NAMES, GAP)
    )


def test_another_row_shape_is_refused(grower: Grower) -> None:
    group = grower.grow(NAMES[:3], [GAP])
    with pytest.raises(
        StoreError, match=r"tap layer1\.gap: expected rows of shape \(6,\) as stored, found \(7,\)"
    ):
        group.ensure_taps({GAP: (7,)})


def test_a_group_that_another_process_opens_at_the_same_time_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = os.replace

    def after_the_other(temporary: Path, path: Path) -> None:
        monkeypatch.setattr(os, "replace", renamed)
        other = open_group(tmp_path, SPEC)
        with other.lock():  # which sweeps what it finds, as the first to hold the group does
            assert Path(temporary).name in other.recover().removed
        renamed(temporary, path)

    monkeypatch.setattr(os, "replace", after_the_other)
    assert open_group(tmp_path, SPEC).spec == SPEC
    assert len(find_groups(tmp_path)) == 1


def test_a_miss_says_which_field_differs(grower: Grower) -> None:
    grower.grow(NAMES[:3], [GAP])
    other = dataclasses.replace(SPEC, precision="bfloat16")
    nearest = nearest_group(grower.root, other)
    assert nearest is not None
    assert [d.field for d in nearest[1]] == ["precision"]
    with pytest.raises(SpecMismatch, match="differs: expected precision bfloat16, found float32"):
        open_group(grower.root, other, create=False)


def test_another_spec_opens_a_group_beside_and_going_back_finds_the_first(grower: Grower) -> None:
    first = grower.grow(NAMES[:3], [GAP])
    other = open_group(grower.root, dataclasses.replace(SPEC, decoder="pillow 2"))
    further = open_group(grower.root, SPEC, generation=1)
    assert other.num_rows == further.num_rows == 0
    assert {info.path for info in find_groups(grower.root)} == {first.path, other.path, further.path}
    assert further.path.name == f"{SPEC.fingerprint}-1"
    assert open_group(grower.root, SPEC).num_rows == 3


def test_no_group_yet_is_said(tmp_path: Path) -> None:
    assert nearest_group(tmp_path, SPEC) is None
    with pytest.raises(SpecMismatch, match="no features of tiny yet"):
        open_group(tmp_path, SPEC, create=False)


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_buffer_may_be_filled_again_unless_it_was_handed_over(grower: Grower, handed_over: bool) -> None:
    group = grower.open()
    with group.lock():
        group.recover()
        group.ensure_taps({GRID: SHAPES[GRID]})
        plan = group.plan(keys_of(["a", "b"]))
        with group.writer(plan, plan.blocks[0], batch=1) as writer:
            buffer = np.empty((1, *SHAPES[GRID]), np.float32)
            for row in range(2):
                buffer = buffer.copy() if handed_over else buffer
                buffer[...] = row + 1
                writer.append([row], {GRID.name: buffer}, handed_over=handed_over)
            writer.commit()
    rows = FeatureStore.open(group.path).read(GRID.name, slice(None))
    np.testing.assert_array_equal(rows.reshape(2, -1)[:, 0], [1, 2])


def test_another_format_version_is_an_error_that_says_what_to_do(grower: Grower) -> None:
    group = grower.grow(NAMES[:3], [GAP])
    plate = json.loads((group.path / "group.json").read_text())
    (group.path / "group.json").write_text(json.dumps({**plate, "format_version": 99}))
    with pytest.raises(StoreError, match="expected store format 2, found 99; use the version of embedpipe"):
        open_group(grower.root, SPEC)


def test_nan_is_refused_by_name_and_what_was_spooled_before_stays(grower: Grower) -> None:
    group = grower.open()
    with group.lock():
        group.recover()
        group.ensure_taps({GAP: (6,)}, shard_nbytes=192)
        plan = group.plan(keys_of(NAMES[:8]), taps=[GAP.name])
        bad = expected(NAMES[4:8], GAP)
        bad[1, 2] = np.nan
        words = r"tap layer1\.gap: .* found NaN for 1 of 4 samples: s5"
        with (
            pytest.raises(FeatureValueError, match=words),
            group.writer(plan, plan.blocks[0], batch=4) as writer,
        ):
            writer.append(range(4), {GAP.name: expected(NAMES[:4], GAP)})
            writer.append(range(4, 8), {GAP.name: bad}, names=NAMES[4:8])
        with group.writer(plan, plan.blocks[0], batch=4) as writer:
            assert writer.done(0) == 4


@pytest.mark.parametrize(
    ("rows", "shape", "words"),
    [
        ([0, 1], (2, 7), r"expected shape \(2, 6\), found \(2, 7\)"),
        ([1, 0], (2, 6), "expected ascending rows"),
        ([0, 99], (2, 6), "expected ascending rows of one segment"),
    ],
)
def test_rows_and_shapes_that_are_not_the_plans_are_refused(
    grower: Grower, rows: list[int], shape: tuple[int, ...], words: str
) -> None:
    group = grower.open()
    with group.lock():
        group.recover()
        group.ensure_taps({GAP: (6,)}, shard_nbytes=192)
        plan = group.plan(keys_of(NAMES[:8]))
        with group.writer(plan, plan.blocks[0], batch=4) as writer:
            with pytest.raises(ShapeError, match=words):
                writer.append(rows, {GAP.name: np.zeros(shape)})
            writer.append([0], {GAP.name: np.zeros((1, 6))})
            with pytest.raises(ShapeError, match="row 0: appended already"):
                writer.append([0], {GAP.name: np.zeros((1, 6))})
            with pytest.raises(StoreError, match="7 are missing, the first is 1"):
                writer.commit()


def test_writing_needs_the_lock_and_a_recovery(grower: Grower) -> None:
    group = grower.grow(NAMES[:3], [GAP])
    plan = group.plan(keys_of(NAMES[:5]))
    with pytest.raises(StoreError, match="writing needs the group's lock"):
        group.writer(plan, plan.blocks[0], batch=4).__enter__()
    with group.lock(), pytest.raises(StoreError, match=r"call recover\(\)"):
        group.writer(plan, plan.blocks[0], batch=4).__enter__()


def test_a_plan_that_the_group_has_outgrown_is_refused(grower: Grower) -> None:
    group = grower.grow(NAMES[:3], [GAP])
    plan = group.plan(keys_of([*NAMES[:3], "x"]), taps=[GAP.name])
    grower.grow(NAMES[:5], [GAP])
    with group.lock():
        group.recover()
        with pytest.raises(StoreError, match="has grown since the plan was made; plan again"):
            group.writer(plan, plan.blocks[0], batch=4).__enter__()


def test_a_probe_comes_back_and_is_verified_with_the_rest(grower: Grower) -> None:
    group = grower.grow(NAMES[:3], [GAP])
    assert group.probe() is None
    with group.lock():
        group.recover()
        group.save_probe({GAP.name: feature("probe", GAP)[None], GRID.name: feature("probe", GRID)[None]})
    probe = grower.open().probe()
    assert probe is not None
    assert set(probe) == {GAP.name, GRID.name}
    np.testing.assert_array_equal(probe[GRID.name][0], feature("probe", GRID))


def test_remarks_name_constant_columns_and_drifting_norms(grower: Grower) -> None:
    group = grower.open()
    said = []
    with group.lock():
        group.recover()
        group.ensure_taps({GAP: (6,)}, shard_nbytes=192)
        plan = group.plan(keys_of(NAMES[:32]))
        for block, scale in zip(plan.blocks, (1, 100), strict=True):
            with group.writer(plan, block, batch=16) as writer:
                values = expected(NAMES[block.start : block.stop], GAP).astype(np.float32) * scale
                values[:, 2] = 0
                writer.append(range(block.start, block.stop), {GAP.name: values})
                said.append(writer.commit().remarks)
    assert said[0] == ("tap layer1.gap: 1 of 6 columns are constant over 16 rows of the block",)
    assert "the mean norm of the block is" in said[1][1]


def test_importing_the_store_imports_neither_torch_nor_zarr() -> None:
    code = (
        "import sys, embedpipe.store; "
        "print([m for m in ('torch', 'zarr', 'dvc', 'dask') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
