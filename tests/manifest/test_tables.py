"""Manifest and targets: sorted, checked, and the same bytes whenever the same rows are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedpipe.errors import DataError
from embedpipe.manifest.keys import content_key
from embedpipe.manifest.masks import encode_mask
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets


def make_manifest(order: list[int] | None = None) -> Manifest:
    rows = [
        ("b", "train", "B.png"),
        ("a", "val", "A.png"),
        ("é", "test", "É.png"),
        ("c", "excluded", "C.png"),
    ]
    rows = [rows[i] for i in order or range(4)]
    return Manifest.from_rows(
        "photos",
        {"kind": "folder", "path": "x"},
        "image",
        sample_ids=[row[0] for row in rows],
        keys=[content_key(row[2].encode()) for row in rows],
        domain="target",
        groups=[row[0] for row in rows],
        splits=[row[1] for row in rows],
        locators=[row[2] for row in rows],
    )


def test_samples_of_two_modalities_have_a_key_and_a_locator_of_each(tmp_path: Path) -> None:
    names = ["b", "a"]
    made = Manifest.from_rows(
        "photos",
        {"kind": "table"},
        "image",
        sample_ids=names,
        keys=[content_key(b"B"), content_key(b"A")],
        domain=["target", "source"],
        groups=names,
        splits=["train", "test"],
        locators=["B.png", "A.png"],
        also={"text": ([content_key(b"bee"), content_key(b"ant")], ["1", "0"])},
    )
    made.write(tmp_path / "m.parquet")
    manifest = Manifest.read(tmp_path / "m.parquet")
    assert manifest.modalities == ("image", "text")
    assert manifest.domains.tolist() == ["source", "target"]
    assert manifest.keys[0].tobytes() == content_key(b"A")
    texts = manifest.where(split="test").of("text")
    assert (texts.modality, texts.modalities) == ("text", ("text",))
    assert texts.sample_ids.tolist() == ["a"] and texts.locators.tolist() == ["0"]
    assert texts.keys[0].tobytes() == content_key(b"ant")
    with pytest.raises(
        DataError, match="photos: expected samples that have an array, found an image and a text"
    ):
        manifest.of("array")


def test_manifest_rows_are_sorted_by_sample_id() -> None:
    manifest = make_manifest()
    assert manifest.sample_ids.tolist() == ["a", "b", "c", "é"]
    assert manifest.locators.tolist() == ["A.png", "B.png", "C.png", "É.png"]
    assert manifest.splits.tolist() == ["val", "train", "excluded", "test"]
    assert manifest.domains.tolist() == ["target"] * 4
    assert len(manifest) == 4


def test_manifest_keys_are_rows_of_16_bytes() -> None:
    keys = make_manifest().keys
    assert keys.shape == (4, 16)
    assert keys.dtype == np.uint8
    assert keys[0].tobytes() == content_key(b"A.png")
    assert make_manifest().where(split=[]).keys.shape == (0, 16)


def test_manifest_bytes_depend_on_neither_order_nor_time(tmp_path: Path) -> None:
    make_manifest().write(tmp_path / "one.parquet")
    make_manifest([3, 1, 0, 2]).write(tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_manifest_survives_a_round_trip_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "samples.parquet"
    make_manifest().write(path)
    again = Manifest.read(path)
    assert again == make_manifest()
    assert again.source == {"kind": "folder", "path": "x"}
    assert [p.name for p in path.parent.iterdir()] == ["samples.parquet"]


def test_where_selects_splits() -> None:
    manifest = make_manifest()
    assert manifest.where(split="test").sample_ids.tolist() == ["é"]
    assert manifest.where(split=["train", "val"]).sample_ids.tolist() == ["a", "b"]


def test_an_id_used_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"datasets\.photos: expected one sample an id.*'b'.*name a column"):
        make_manifest([0, 0, 1])


def test_a_missing_manifest_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; run `embedpipe ingest`"):
        Manifest.read(tmp_path / "samples.parquet")


def test_a_foreign_parquet_is_no_manifest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="expected a manifest table"):
        Manifest.read(tmp_path / "x.parquet")
    (tmp_path / "y.parquet").write_text("hello")
    with pytest.raises(DataError, match="expected a Parquet file"):
        Manifest.read(tmp_path / "y.parquet")


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    make_manifest().write(path)
    table = pq.read_table(path)
    metadata = {b"embedpipe.manifest": table.schema.metadata[b"embedpipe.manifest"].replace(b'n":1', b'n":9')}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match="expected format version 1, found 9"):
        Manifest.read(path)


def make_targets(kind: str = "classes") -> Targets:
    labels = ["dog", None, "cat", "dog"] if kind == "classes" else [1.5, None, -2.0, 0.0]
    return Targets.from_rows(
        "t",
        kind,  # type: ignore[arg-type]
        ["cat", "dog", "eel"] if kind == "classes" else [],
        sample_ids=["d", "c", "b", "a"],
        splits=["train", "val", "test", "train"],
        labels=labels,
    )


def test_codes_are_places_in_classes_and_missing_is_minus_one() -> None:
    targets = make_targets()
    assert targets.sample_ids.tolist() == ["a", "b", "c", "d"]
    assert targets.codes().tolist() == [1, 0, -1, 1]
    assert targets.codes().dtype == np.int64


def test_values_are_float64_and_missing_is_nan() -> None:
    np.testing.assert_array_equal(make_targets("number").values(), [0.0, -2.0, np.nan, 1.5])


def test_a_digest_of_targets_is_of_ids_and_labels_alone() -> None:
    def digest(labels: list[str | None], ids: str = "abc", split: str = "test") -> str:
        rows = {"sample_ids": list(ids), "splits": [split] * 3, "labels": labels}
        return Targets.from_rows("t", "classes", ["x", "y"], **rows).digest

    same = digest(["x", "y", "x"])
    assert digest(["x", "y", "x"], split="val") == same
    assert len({same, digest(["x", "x", "x"]), digest(["x", "y", None]), digest(["x", "y", "x"], "abd")}) == 4


def test_open_and_sealed_targets_keep_the_same_classes(tmp_path: Path) -> None:
    targets = make_targets()
    targets.where(split="test").write(tmp_path / "sealed.parquet")
    sealed = Targets.read(tmp_path / "sealed.parquet")
    assert sealed.classes == ("cat", "dog", "eel")
    assert sealed.codes().tolist() == [0]
    assert len(targets.where(split=["train", "val"])) == 3


@pytest.mark.parametrize("kind", ["classes", "number"])
def test_targets_survive_a_round_trip(tmp_path: Path, kind: str) -> None:
    make_targets(kind).write(tmp_path / "a.parquet")
    make_targets(kind).write(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert Targets.read(tmp_path / "a.parquet") == make_targets(kind)


def test_missing_targets_say_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; run `dvc repro`"):
        Targets.read(tmp_path / "open.parquet")


KINDS = {
    "multilabel": ({"classes": ["cat", "dog"]}, [[True, None], None, [False, True], [False, False]]),
    "number": ({"classes": [], "outputs": ("x", "y")}, [[1.5, 2.0], None, [-2.0, 0.0], [0.25, 1.0]]),
    "dense": (
        {"classes": ["sky", "sea"], "grid": 2},
        [
            encode_mask(np.array([[0, 1], [255, 1]], np.uint8)),
            None,
            encode_mask(np.zeros((4, 4), np.uint8)),
            None,
        ],
    ),
}
TRUTHS = {
    "multilabel": [[0, 0], [0, 1], [np.nan, np.nan], [1, np.nan]],
    "number": [[0.25, 1.0], [-2.0, 0.0], [np.nan, np.nan], [1.5, 2.0]],
    "dense": [[-1] * 4, [0] * 4, [-1] * 4, [0, 1, -1, 1]],
}


def make_kind(kind: str) -> Targets:
    more, labels = KINDS[kind]
    rows = {"sample_ids": ["d", "c", "b", "a"], "splits": ["train", "val", "test", "train"], "labels": labels}
    return Targets.from_rows("t", kind, **more, **rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_survives_a_round_trip(tmp_path: Path, kind: str) -> None:
    targets = make_kind(kind)
    targets.write(tmp_path / "a.parquet")
    found = Targets.read(tmp_path / "a.parquet")
    assert found == targets and found.digest == targets.digest
    np.testing.assert_array_equal(found.truth(), TRUTHS[kind])
    assert found.spec.width == found.truth().shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_truth_of_named_samples_is_missing_where_there_is_no_row(kind: str) -> None:
    targets = make_kind(kind)
    found = targets.truth_of(np.array(["d", "zz", "b"]))
    whole = targets.truth()
    np.testing.assert_array_equal(found[[0, 2]], whole[[3, 1]])
    assert targets.spec.labelled(found).tolist() == [True, False, True]


def test_a_digest_knows_the_names_of_labels_and_the_grid() -> None:
    rows = {"sample_ids": ["a"], "splits": ["test"]}
    labels = [[True, False]]
    one = Targets.from_rows("t", "multilabel", ["x", "y"], labels=labels, **rows)
    assert one.digest != Targets.from_rows("t", "multilabel", ["y", "x"], labels=labels, **rows).digest
    mask = [encode_mask(np.zeros((4, 4), np.uint8))]
    grids = {Targets.from_rows("t", "dense", ["x", "y"], grid=k, labels=mask, **rows).digest for k in (2, 4)}
    assert len(grids) == 2


def test_a_sample_of_several_numbers_counts_where_all_are_there() -> None:
    spec = make_kind("number").spec
    truth = np.array([[1.0, np.nan], [1.0, 2.0]])
    assert spec.labelled(truth).tolist() == [False, True]
