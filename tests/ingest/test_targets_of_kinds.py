"""Targets of labels, of several numbers and of masks: how they may be written, and what is refused in words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedpipe.errors import ConfigError, DataError
from embedpipe.manifest.masks import decode_mask
from embedpipe.manifest.targets import Targets

SPLITS = ("train", "train", "val", "test")


def table(project: Any, columns: dict[str, list[Any]], suffix: str = "parquet") -> None:
    """A data set of texts with these label columns; ids t00, t01 …"""
    num = len(next(iter(columns.values())))
    rows = {
        "id": [f"t{i:02d}" for i in range(num)],
        "text": [f"text {i}" for i in range(num)],
        "part": [SPLITS[i % 4] for i in range(num)],
        **columns,
    }
    path = project.root / f"t.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(rows), path)
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps({k: v[i] for k, v in rows.items()}) for i in range(num)))
    else:
        lines = [",".join("" if v[i] is None else str(v[i]) for v in rows.values()) for i in range(num)]
        path.write_text("\n".join([",".join(rows), *lines]) + "\n")
    source = {"kind": "table", "path": path.name, "text": "text"}
    project.ingest({"source": source, "id": "id", "split": {"column": "part"}})


def truth(project: Any) -> tuple[Targets, Any]:
    """All targets in the order of the samples."""
    parts = [Targets.read(project.targets_dir / f"{name}.parquet") for name in ("open", "sealed")]
    ids = np.sort(np.concatenate([part.sample_ids.astype(str) for part in parts]))
    both = [part.truth_of(ids) for part in parts]
    return parts[0], np.where(parts[0].spec.known(both[0]), both[0], both[1])


LISTS: list[Any] = [["a", "b"], ["b"], ["a"], [], None, ["a"], ["a"], ["b"]]
TRUTH = [[1, 1], [0, 1], [1, 0], [0, 0], [np.nan, np.nan], [1, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_lists_of_labels_are_read_from_any_table_and_an_empty_one_is_no_label(
    project: Any, suffix: str
) -> None:
    joined = [None if one is None else ";".join(one) or ";" for one in LISTS]
    table(project, {"tags": joined if suffix == "csv" else LISTS}, suffix)
    more = {"separator": ";"} if suffix == "csv" else {}
    summary = project.targets(labels="tags", kind="multilabel", **more)
    assert summary.classes == ["a", "b"] and summary.num["missing"] == 1
    np.testing.assert_array_equal(truth(project)[1], TRUTH)


def test_labels_of_a_table_of_their_own_are_joined_by_id(project: Any) -> None:
    table(project, {"tags": LISTS})
    rows = {
        "id": ["t01", "t00", *(f"t{i:02d}" for i in range(2, 8))],
        "kind": [["x"], ["y"], *[["x", "y"], []] * 3],
    }
    pq.write_table(pa.table(rows), project.root / "own.parquet")
    project.targets(labels="own.parquet", kind="multilabel")
    assert truth(project)[1][:3].tolist() == [[0, 1], [1, 0], [1, 1]]


def test_columns_of_0_and_1_are_labels_each_of_which_may_be_unknown(project: Any) -> None:
    columns = {"wings": [1, 0, None, 1] * 2, "legs": ["true", "False", "0", None] * 2}
    table(project, columns)
    summary = project.targets(labels=["wings", "legs"], kind="multilabel")
    assert (
        summary.classes == ["wings", "legs"]
        and "4 labels of labelled samples are unknown" in summary.notes[0]
    )
    np.testing.assert_array_equal(truth(project)[1][:4], [[1, 1], [0, 0], [np.nan, 0], [1, np.nan]])


def test_one_column_of_0_and_1_is_a_label_where_it_is_written_as_a_list(project: Any) -> None:
    table(project, {"wings": ["1.0", "0.0", "1", "1", "", "1", "0", "0"]}, "csv")
    assert project.targets(labels=["wings"], kind="multilabel").classes == ["wings"]
    np.testing.assert_array_equal(truth(project)[1][:4, 0], [1, 0, 1, 1])


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_several_columns_of_numbers_are_one_target_and_count_where_all_are_there(
    project: Any, suffix: str
) -> None:
    table(project, {"x": [1.5, 2, 3, 4] * 2, "y": [1, None, 3, 5] * 2}, suffix)
    summary = project.targets(labels=["x", "y"], kind="number")
    assert summary.outputs == ["x", "y"] and summary.num["missing"] == 2
    assert "2 samples have some of the 2 numbers alone: missing" in summary.notes[0]
    np.testing.assert_array_equal(truth(project)[1][:3], [[1.5, 1], [np.nan, np.nan], [3, 3]])


def test_a_list_column_of_numbers_is_several_and_may_be_a_box(project: Any) -> None:
    table(project, {"bbox": [[i, 1.0 + i, 2 * i, 5.0 - i] for i in range(8)]})
    summary = project.targets(labels="bbox", kind="number", box="xywh")
    assert summary.outputs == ["bbox[0]", "bbox[1]", "bbox[2]", "bbox[3]"]
    assert truth(project)[0].spec.box == "xywh"
    assert truth(project)[1][2].tolist() == [2, 3, 4, 3]


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        (
            {"tags": [3, 4] * 4},
            {"labels": "tags", "kind": "multilabel"},
            "expected lists of labels in column 'tags' of data set 'photos', found 3 for 't00'; give "
            "tasks.kind.separator",
        ),
        (
            {"tags": ["a;b", "a"] * 4},
            {"labels": "tags", "kind": "multilabel"},
            "found 'a;b' for 't00'; give tasks.kind.separator if labels stand in one text",
        ),
        (
            {"tags": [["a"], ["b"], ["c"], []] * 2},
            {"labels": "tags", "kind": "multilabel"},
            "expected a sample with each label in train, found none with label 'c' \\(2 in other splits\\)",
        ),
        (
            {"tags": [["a"], ["a", "b"], ["a"], []] * 2},
            {"labels": "tags", "kind": "multilabel"},
            "found none known to lack label 'a'; there is nothing to learn: drop the label",
        ),
        ({"tags": [[]] * 8}, {"labels": "tags", "kind": "multilabel"}, "found empty lists alone"),
        (
            {"tags": [["a"], ["b"]] * 4},
            {"labels": "tags"},
            "expected one class a sample in column 'tags', found the list \\['a'\\] for 't00'; set "
            "tasks.kind.kind: multilabel",
        ),
        (
            {"up": [0, 1] * 4, "down": [0, 2] * 4},
            {"labels": ["up", "down"], "kind": "multilabel"},
            "expected 0 and 1 \\(or true and false, or nothing\\) in column 'down', found 2 for 't01'",
        ),
        (
            {"up": [None] * 8, "down": [None] * 8},
            {"labels": ["up", "down"], "kind": "multilabel"},
            "expected labels in columns 'up', 'down' of data set 'photos', found none for any of 8 samples",
        ),
        (
            {"x": [1, 2] * 4, "y": ["1", "left"] * 4},
            {"labels": ["x", "y"], "kind": "number"},
            "expected finite numbers in column 'y', found 4 other values \\('left' for 't01'",
        ),
        (
            {"x": [1, 2] * 4, "y": [7, 7] * 4},
            {"labels": ["x", "y"], "kind": "number"},
            "expected numbers that differ in column 'y', found 7.0 alone",
        ),
        (
            {"b": [[1, 2], [1, 2, 3]] * 4},
            {"labels": "b", "kind": "number"},
            "expected lists of one length in column 'b', found 2 numbers for 't00' and 3 for 't01'",
        ),
        (
            {"b": [[1, 2], [3, 4]] * 4},
            {"labels": "b", "kind": "number", "box": "xywh"},
            "box: expected four numbers a sample, found 2 in column 'b'",
        ),
        (
            {"m": ["a", "b"] * 4},
            {"labels": "m", "kind": "dense"},
            "expected a data set of images for kind dense",
        ),
    ],
)
def test_what_is_of_another_kind_or_cannot_be_learnt_is_said_in_one_sentence(
    project: Any, columns: dict[str, list[Any]], options: dict[str, Any], words: str
) -> None:
    table(project, columns)
    with pytest.raises(DataError, match=words) as caught:
        project.targets(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": "a", "separator": ";"}, "separator is for tasks of kind multilabel, found kind classes"),
        ({"labels": "a", "kind": "number", "grid": 4}, "grid is for tasks of kind dense, found kind number"),
        ({"labels": ["a", "b"]}, "expected one column for kind classes, found 2"),
        (
            {"labels": ["a", "b", "c"], "kind": "number", "box": "xywh"},
            "expected four columns of numbers, found 3",
        ),
        ({"labels": ["a", "a"], "kind": "number"}, "a column is named twice"),
        ({"labels": []}, "found an empty one"),
        ({"labels": "a", "kind": "numbr"}, "numbr"),
        ({"labels": "m", "kind": "dense", "classes": {"x": 0, "y": [1, 0]}}, "a value is of two classes"),
        (
            {"labels": "m", "kind": "dense", "classes": {"x": 0, "y": 9}, "ignore": [9]},
            "value 9 is both a class and ignored",
        ),
    ],
)
def test_options_that_do_not_fit_the_kind_are_refused(
    project: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        project.targets(**options)


@pytest.fixture
def masked(photos: Any) -> Any:
    """The photos, with a mask of 6 x 6 pixels beside each but one: values 0 and 3, and 255 in a corner."""
    for i in range(60):
        values = np.where(np.random.default_rng(i).random((6, 6)) < 0.5, 0, 3).astype(np.uint8)
        values[0, 0] = 255
        path = photos.root / "masks" / ("cat" if i % 2 else "dog") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i != 9:
            Image.fromarray(values).save(path)
    photos.ingest({"source": {"kind": "folder", "path": "photos"}, "split": {"val": 0.2, "test": 0.3}})
    return photos


def test_masks_beside_the_images_become_codes_and_those_that_lack_are_missing(masked: Any) -> None:
    summary = masked.targets(labels="masks/", kind="dense", grid=3)
    assert summary.classes == ["0", "3"] and summary.num["missing"] == 1
    opened = Targets.read(masked.targets_dir / "open.parquet")
    cells = dict(zip(opened.sample_ids, opened.masks().cells, strict=True))
    assert cells.get("cat/009.png") is None
    name = next(name for name, cell in cells.items() if cell is not None)
    values = np.asarray(Image.open(masked.root / "masks" / name))
    expected = np.where(values == 255, 255, values // 3)
    np.testing.assert_array_equal(decode_mask(cells[name]), expected)


def test_masks_are_found_by_a_column_of_paths_in_a_table_of_their_own(masked: Any) -> None:
    paths = sorted((masked.root / "masks").rglob("*.png"))
    names = [path.relative_to(masked.root / "masks").as_posix() for path in paths]
    lines = [f"{name},{name}" for name in names]
    masked.write("where.csv", "\n".join(["id,mask", *lines]) + "\n")
    named = {"ground": 0, "thing": 3}
    summary = masked.targets(labels="where.csv", kind="dense", masks="masks", classes=named)
    assert summary.classes == ["ground", "thing"] and summary.num["missing"] == 1
    with pytest.raises(DataError, match=r"found no file at 59 of them .*name the folder they start at with"):
        masked.targets(labels="where.csv", kind="dense")


def test_masks_of_a_palette_are_their_indices_and_equal_channels_are_one(masked: Any) -> None:
    for i, path in enumerate(sorted((masked.root / "masks").rglob("*.png"))):
        grey = Image.open(path)
        if i % 2:
            grey = Image.fromarray(np.asarray(grey))
            grey.putpalette([7] * 768)
        else:
            grey = grey.convert("RGB")
        grey.save(path)
    assert masked.targets(labels="masks/", kind="dense").classes == ["0", "3"]


def test_values_of_16_bits_are_read_where_classes_name_them(masked: Any) -> None:
    for path in (masked.root / "masks").rglob("*.png"):
        values = np.asarray(Image.open(path)).astype(np.uint16)
        Image.fromarray(np.where(values == 255, 60000, values * 1000).astype(np.uint16)).save(path)
    summary = masked.targets(labels="masks/", kind="dense", classes={"a": 0, "b": 3000}, ignore=[60000])
    cells = Targets.read(masked.targets_dir / "open.parquet").masks().cells
    codes = np.unique([decode_mask(cell) for cell in cells if cell is not None])
    assert summary.classes == ["a", "b"] and codes.tolist() == [0, 1, 255]


def spoil(masked: Any, image: Image.Image, name: str = "cat/001.png") -> None:
    image.save(masked.root / "masks" / name)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            Image.new("L", (4, 6)),
            "expected the size of its image, 6 x 6 pixels, found 4 x 6; make them alike",
        ),
        (Image.new("RGB", (6, 6), (1, 2, 3)), "expected one value a pixel, found 3 channels that differ"),
        (Image.new("L", (6, 6), 8), "expected values 0, 3 in masks, found 8 in that of 'cat/001.png'"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(masked: Any, image: Image.Image, words: str) -> None:
    spoil(masked, image)
    with pytest.raises(DataError, match=words):
        masked.targets(labels="masks/", kind="dense", classes={"a": 0, "b": [3]})


def test_masks_that_teach_nothing_or_are_not_there_are_refused(masked: Any) -> None:
    with pytest.raises(DataError, match="expected a folder of masks, found no folder"):
        masked.targets(labels="mask/", kind="dense")
    with pytest.raises(
        DataError, match=r"expected masks named as the images, such as 'cat/001.png', found none"
    ):
        (masked.root / "other").mkdir()
        masked.targets(labels="./other", kind="dense")
    with pytest.raises(DataError, match="expected at least two classes in the masks, found one only: '0'"):
        masked.targets(labels="masks/", kind="dense", ignore=[3, 255])
    named = {"a": 0, "b": 3, "c": 4}
    with pytest.raises(
        DataError, match="expected every class in the masks of train, found none of class 'c'"
    ):
        masked.targets(labels="masks/", kind="dense", classes=named)
    masked.write("masks/cat/001.png", b"no image")
    with pytest.raises(DataError, match=r"001.png: the mask of 'cat/001.png': expected an image file"):
        masked.targets(labels="masks/", kind="dense")
    (masked.root / "masks/cat/001.png").unlink()
    Image.new("L", (6, 6)).save(masked.root / "masks/cat/001.jpg")
    with pytest.raises(DataError, match="expected a format that keeps values, such as PNG, found JPEG"):
        masked.targets(labels="masks/", kind="dense")


def test_masks_at_an_address_are_those_here(masked: Any) -> None:
    import fsspec

    masked.targets(labels="masks/", kind="dense")
    here = masked.outputs()
    memory = fsspec.filesystem("memory")
    if memory.exists("/far"):
        memory.rm("/far", recursive=True)
    for path in (masked.root / "masks").rglob("*.png"):
        memory.pipe(f"/far/{path.relative_to(masked.root / 'masks').as_posix()}", path.read_bytes())
    masked.targets(labels="memory://far", kind="dense")
    assert masked.outputs() == here
