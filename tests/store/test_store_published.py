"""Publishing by hard link, reading, and naming every kind of damage."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from embedpipe.errors import ShapeError, StoreError
from embedpipe.store import FeatureStore, check_same_filesystem, publish, verify

from .conftest import GAP, GRID, Grower, expected, feature, files_of, keys_of

NAMES = [f"s{i}" for i in range(21)]


@pytest.fixture
def published(grower: Grower, tmp_path: Path) -> Path:
    grower.failing = frozenset({"s6"})
    grower.grow(NAMES, [GAP])
    group = grower.grow(NAMES[5:], [GRID])
    with group.lock():
        group.recover()
        group.save_probe({GAP.name: feature("probe", GAP)})
    destination = tmp_path / "data" / "features" / "tiny"
    publish(group, [GAP.name, GRID.name], destination, {"card.json": b"{}\n"})
    return destination


def test_plain_zarr_reads_a_published_store_with_nan_for_holes(published: Path) -> None:
    opened = zarr.open_group(str(published), mode="r")
    assert sorted(name for name, _ in opened.arrays()) == sorted(["keys", "part", GAP.name, GRID.name])
    assert {array.shape[0] for _, array in opened.arrays()} == {21}
    gap, grid = opened[GAP.name][...], opened[GRID.name][...]
    np.testing.assert_array_equal(opened["keys"][...], keys_of(NAMES))
    for row, name in enumerate(NAMES):
        if name == "s6":
            assert np.isnan(gap[row]).all() and np.isnan(grid[row]).all()
        else:
            np.testing.assert_array_equal(gap[row], feature(name, GAP))
        if row < 5:
            assert np.isnan(grid[row]).all()
        elif name != "s6":
            np.testing.assert_array_equal(grid[row], feature(name, GRID))


def test_shards_are_links_of_the_groups_own(published: Path, grower: Grower) -> None:
    group = grower.open()
    for path in (f"{GAP.name}/c/0/0", f"{GRID.name}/c/1/0/0", "keys/c/0/0", "part/c/0"):
        assert (published / path).stat().st_ino == (group.path / path).stat().st_ino


def test_publishing_again_gives_the_same_bytes_and_replaces_what_stood_there(
    published: Path, grower: Grower
) -> None:
    before = files_of(published)
    (published / "litter").write_text("x")
    publish(grower.open(), [GRID.name, GAP.name], published, {"card.json": b"{}\n"})
    assert files_of(published) == before
    assert os.listdir(published.parent) == ["tiny"]


def test_a_kill_between_the_renames_of_publishing_is_mended(
    published: Path, grower: Grower, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(published)
    os.rename(published, published.with_name(".tiny.replaced"))
    (published.with_name(".tiny.publishing")).mkdir()
    publish(grower.open(), [GRID.name, GAP.name], published, {"card.json": b"{}\n"})
    assert files_of(published) == before
    assert os.listdir(published.parent) == ["tiny"]


def test_a_tap_without_features_cannot_be_published(grower: Grower, tmp_path: Path) -> None:
    group = grower.grow(NAMES, [GAP])
    with pytest.raises(StoreError, match=r"no features for tap layer2\.grid2\.float32 yet; run extract"):
        publish(group, [GAP.name, GRID.name], tmp_path / "out")


def test_another_file_system_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_same_filesystem(tmp_path / "work", tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "work") == [] and not (tmp_path / "a").exists()

    def link(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(
        StoreError, match="published by hard link, so the working store must lie on the file system"
    ):
        check_same_filesystem(tmp_path / "work", tmp_path / "a" / "b")


def test_rows_come_in_the_order_asked(published: Path) -> None:
    store = FeatureStore.open(published)
    order = [20, 7, 7, 0, 19, 13]
    np.testing.assert_array_equal(store.read(GAP.name, order), expected([NAMES[i] for i in order], GAP))
    np.testing.assert_array_equal(store.read(GAP.name, slice(9, 17)), expected(NAMES[9:17], GAP))
    np.testing.assert_array_equal(store.read(GAP.name, slice(20, 6, -2)), expected(NAMES[20:6:-2], GAP))
    assert store.read(GAP.name, []).shape == (0, 6)
    assert store.read(GRID.name, slice(5, 5)).shape == (0, 2, 3)
    assert store.read(GRID.name, [8]).dtype == np.float32


def test_rows_of_finds_keys_and_says_minus_one_for_strangers(published: Path) -> None:
    store = FeatureStore.open(published)
    assert store.rows_of(keys_of(["s20", "stranger", "s3", "s3"])).tolist() == [20, -1, 3, 3]
    assert store.rows_of(keys_of(["s20"]), np.array([1], np.int32)).tolist() == [-1]


def test_rows_outside_and_unknown_taps_are_refused(published: Path) -> None:
    store = FeatureStore.open(published)
    with pytest.raises(ShapeError, match="row -1: expected rows 0 to 20"):
        store.read(GAP.name, [0, -1])
    with pytest.raises(StoreError, match=r"no tap 'x'; it has layer1\.gap, layer2\.grid2\.float32"):
        store.read("x", [0])


def test_holes_say_why(published: Path) -> None:
    store = FeatureStore.open(published)
    assert dict(store.holes(GAP.name)) == {6: "unreadable"}
    assert dict(store.holes(GRID.name)) == {**dict.fromkeys(range(5), "not wanted"), 6: "unreadable"}


def test_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected a feature store, found nothing there; run extract"):
        FeatureStore.open(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"found neither store\.json nor group\.json"):
        FeatureStore.open(tmp_path)
    with pytest.raises(StoreError, match="expected a feature store, found none"):
        verify(tmp_path)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    rewrite(path, bytes(data))


def truncate(path: Path) -> None:
    rewrite(path, path.read_bytes()[:-7])


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()  # the links of the other store stay as they are
    path.write_bytes(data)


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, delete])
@pytest.mark.parametrize("which", ["published", "working"])
def test_damage_to_any_file_is_named_by_verify(
    published: Path, grower: Grower, which: str, damage: Callable[[Path], None]
) -> None:
    root = published if which == "published" else grower.open().path
    report = verify(root)
    assert report.ok
    assert report.num_files == len(files_of(root))
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        damage(path)
        damages = verify(root).damages
        assert path in [d.path for d in damages], f"{damage.__name__} of {path}"
        assert {d.kind for d in damages} <= {"missing", "size", "checksum"}
        assert str(path) in str(damages[0])
        path.write_bytes(data)
    assert verify(root).ok


def test_litter_is_named(published: Path, grower: Grower) -> None:
    for root in (published, grower.open().path):
        (root / GAP.name / "c" / "77").write_text("x")
        (damage,) = verify(root).damages
        assert (damage.kind, damage.path) == ("litter", root / GAP.name / "c" / "77")


@pytest.mark.parametrize("damage", [flip, truncate, delete])
@pytest.mark.parametrize("which", ["published", "working"])
def test_no_reader_returns_damaged_rows(
    published: Path, grower: Grower, which: str, damage: Callable[[Path], None]
) -> None:
    root = published if which == "published" else grower.open().path
    shard = root / GAP.name / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    if damage is flip:
        data[20] ^= 1
        rewrite(shard, bytes(data))
    else:
        damage(shard)
    store = FeatureStore.open(root)
    for rows in (slice(0, 4), [3, 1], slice(None)):
        with pytest.raises(StoreError, match=rf"{shard}: damaged: .*; run `embedpipe verify`"):
            store.read(GAP.name, rows)
    np.testing.assert_array_equal(store.read(GAP.name, [18]), expected(["s18"], GAP))


def test_a_damaged_tail_shard_is_not_copied_into_a_new_one(published: Path, grower: Grower) -> None:
    shard = grower.open().path / GAP.name / "c" / "1" / "0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    rewrite(shard, bytes(data))
    with pytest.raises(StoreError, match=f"{shard}: damaged"):
        grower.grow([*NAMES, "new"], [GAP])


def test_a_missing_or_torn_ledger_is_not_taken_for_an_empty_group(published: Path, grower: Grower) -> None:
    lines = grower.open().path / "ledger.jsonl"
    data = lines.read_bytes()
    for broken, words in (
        (b"", "found none"),
        (data[:-5], "cut short after line 6"),
        (b"{}\n" + data, "line 1"),
    ):
        lines.write_bytes(broken)
        with pytest.raises(StoreError, match=rf"{lines}: .*{words}"):
            grower.open()
