"""HDF5 files and arrays: layouts, dtypes, labels, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.manifest.keys import array_key
from embedpipe.sources.base import Scanned, Source, open_source

RGB = np.random.default_rng(3).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)


def opened(root: Path, **options: Any) -> Source:
    given = {"kind": "hdf5", "path": "d.h5", **options}
    return open_source(given, root, id_column=given.pop("id", None), version=given.pop("version", "content"))


def scan(source: Source) -> list[Scanned]:
    return list(source.scan({}))


def write(root: Path, **arrays: Any) -> Path:
    with h5py.File(root / "d.h5", "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
    return root


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (RGB, {}),
        (np.moveaxis(RGB, -1, 1), {}),
        ((RGB / 255).astype(np.float32), {}),
        (RGB.astype(">f8") / 255, {}),
        (RGB.astype(np.uint16) * 257, {}),
        (RGB.astype(np.int64), {"range": [0, 255]}),
        (RGB / 127.5 - 1, {"range": [-1, 1]}),
        (np.concatenate([RGB, np.full((4, 5, 7, 1), 255, np.uint8)], -1), {}),
    ],
)
def test_the_same_pixels_have_one_key_whatever_layout_and_dtype(
    tmp_path: Path, images: np.ndarray, options: dict[str, Any]
) -> None:
    source = opened(write(tmp_path, images=images), **options)
    assert [s.key for s in scan(source)] == [array_key(image) for image in RGB]
    np.testing.assert_array_equal(np.asarray(source.read("2")), RGB[2])


def test_grey_images_have_one_channel_in_any_layout(tmp_path: Path) -> None:
    grey = RGB[..., 0]
    for i, images in enumerate((grey, grey[..., None], grey[:, None])):
        (tmp_path / str(i)).mkdir()
        source = opened(write(tmp_path / str(i), images=images))
        assert scan(source)[1].key == array_key(np.ascontiguousarray(grey[1]))
        assert np.asarray(source.read("1")).shape == (5, 7)


def test_a_layout_that_could_be_either_asks_which(tmp_path: Path) -> None:
    write(tmp_path, images=np.zeros((2, 3, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"found both in shape \(2, 3, 8, 3\); set source.layout"):
        scan(opened(tmp_path))
    assert np.asarray(opened(tmp_path, layout="NCHW").read("0")).shape == (8, 3, 3)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (np.zeros((2, 8), np.uint8), {}, r"expected images of shape \(N, H, W\).*, found \(2, 8\)"),
        (np.zeros((2, 9, 8, 7), np.uint8), {}, "found neither in shape"),
        (RGB, {"layout": "NCHW"}, "expected images of layout NCHW with 1, 3 or 4 channels"),
        (
            RGB.astype(np.int32),
            {},
            r"expected uint8, uint16 or floats of 0 to 1, found int32; set source.range",
        ),
        (np.array([[[b"a"]]]), {}, "expected an array of numbers"),
        (RGB[:0], {}, "expected images, found none"),
    ],
)
def test_a_data_set_that_holds_no_images_is_one_sentence(
    tmp_path: Path, images: np.ndarray, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        scan(opened(write(tmp_path, images=images), **options))


def test_an_absent_data_set_suggests_the_near_one(tmp_path: Path) -> None:
    write(tmp_path, train__images=RGB, y=np.arange(4))
    with pytest.raises(
        DataError,
        match=r"source.images: no data set 'train/image' \(did you mean 'train/images'\?\); data sets: train",
    ):
        scan(opened(tmp_path, images="train/image"))
    with pytest.raises(DataError, match=r"source.labels.z: no data set 'z'"):
        scan(opened(tmp_path, images="train/images", labels=["z"]))


def test_a_group_in_place_of_the_images_is_called_that(tmp_path: Path) -> None:
    write(tmp_path, train__images=RGB)
    with pytest.raises(DataError, match=r"source.images: expected a data set at 'train', found a group"):
        scan(opened(tmp_path, images="train"))


def test_a_file_that_is_no_hdf5_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "d.h5").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"d.h5: expected an HDF5 file, found something else"):
        scan(opened(tmp_path))
    with pytest.raises(DataError, match=r"e.h5: expected a file, found none; check `source.path`"):
        scan(opened(tmp_path, path="e.h5"))
    (tmp_path / "f.h5").mkdir()
    with pytest.raises(DataError, match=r"f.h5: expected an HDF5 file, found a folder"):
        scan(opened(tmp_path, path="f.h5"))


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    write(tmp_path, images=RGB, y=np.arange(3))
    with pytest.raises(
        DataError,
        match=r"'y': expected one label, or one list of them, for each of 4 images, found shape \(3,\)",
    ):
        scan(opened(tmp_path, labels=["y"]))


def test_labels_come_from_data_sets_and_from_a_group_of_them(tmp_path: Path) -> None:
    write(tmp_path, images=RGB, meta__who=["a", "b", "c", "d"], meta__age=[1.5, 2, 3, 4], y=[0, 1, 0, 1])
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file["box"] = np.arange(8).reshape(4, 2)
    assert scan(opened(tmp_path, labels=["box"]))[1].labels == {"box": [2, 3]}
    source = opened(tmp_path, labels={"kind": "y"}, table="meta", id="who")
    assert scan(source)[1].labels == {"kind": 1, "age": 2.0}
    assert [s.sample_id for s in scan(source)] == ["a", "b", "c", "d"]
    with pytest.raises(ConfigError, match=r"id: no column 'whom' \(did you mean 'who'\?\)"):
        scan(opened(tmp_path, table="meta", id="whom"))
    with pytest.raises(DataError, match="expected a compound data set or a group of data sets at 'y'"):
        scan(opened(tmp_path, table="y"))


def test_a_chunk_that_is_damaged_takes_its_rows_alone(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        stored = file.create_dataset("images", data=images, chunks=(2, 16, 16), compression="gzip")
        place = stored.id.get_chunk_info(1)
    content = bytearray((tmp_path / "d.h5").read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    (tmp_path / "d.h5").write_bytes(content)
    found = scan(opened(tmp_path))
    assert [s.sample_id for s in found if s.key is None] == ["00000002", "00000003"]
    assert "damaged: row 2 of 'images' cannot be read" in (found[2].reason or "")


def test_values_beyond_the_range_are_one_unreadable_sample(tmp_path: Path) -> None:
    images = (RGB / 255).astype(np.float32)
    images[1, 0, 0, 0] = 3
    source = opened(write(tmp_path, images=images))
    assert [s.reason for s in scan(source)][1] == (
        f"values from {images[1].min():g} to 3, expected 0 to 1; set source.range to what is black and what is white"
    )
    with pytest.raises(UnreadableSample, match="values from"):
        source.read("1")


def test_the_version_may_be_a_column(tmp_path: Path) -> None:
    write(tmp_path, images=RGB, who=["a", "b", "c", "d"], rev=[1, 1, 1, 1])
    before = scan(opened(tmp_path, labels=["who", "rev"], id="who", version="rev"))
    write(tmp_path, images=RGB[::-1], who=["a", "b", "c", "d"], rev=[1, 2, 1, 1])
    after = scan(opened(tmp_path, labels=["who", "rev"], id="who", version="rev"))
    wider = scan(opened(tmp_path, labels=["who", "rev"], id="who", version="rev", range=[0, 256]))
    assert not {s.key for s in wider} & {s.key for s in after}  # other pixels
    with pytest.raises(ConfigError, match="expected `id:` beside the column 'rev', found none"):
        opened(tmp_path, labels=["who", "rev"], version="rev")
    assert [a.key == b.key for a, b in zip(before, after, strict=True)] == [True, False, True, True]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"hello", "expected arrays as NumPy writes them, found something else"),
        ("a.npz", b"hello", "expected arrays as NumPy writes them"),
        ("a.txt", b"hello", r"expected .npy, .npz, .zarr, found suffix '.txt'"),
    ],
)
def test_a_file_that_is_no_array_is_called_that(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        scan(opened(tmp_path, kind="arrays", path=name))


def test_arrays_of_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="arrays of objects are pickles, which are never loaded"):
        scan(opened(tmp_path, kind="arrays", path="a.npy"))


def test_absent_arrays_suggest_the_near_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=RGB)
    with pytest.raises(DataError, match=r"no data set 'images' \(did you mean 'image'\?\)"):
        scan(opened(tmp_path, kind="arrays", path="a.npz"))
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("deep/image", data=RGB)
    with pytest.raises(DataError, match=r"no data set 'image'.*data sets: deep/image"):
        scan(opened(tmp_path, kind="arrays", path="a.zarr", images="image"))
    assert len(scan(opened(tmp_path, kind="arrays", path="a.zarr", images="deep/image"))) == 4


def test_a_zarr_store_has_changed_when_a_chunk_has(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", data=RGB, chunks=(2, 5, 7, 3))
    stamps = {s.stamp for s in scan(opened(tmp_path, kind="arrays", path="a.zarr"))}
    zarr.open_array(tmp_path / "a.zarr", mode="r+")[3] = 0
    assert stamps.isdisjoint({s.stamp for s in scan(opened(tmp_path, kind="arrays", path="a.zarr"))})
    assert array.shape == RGB.shape
