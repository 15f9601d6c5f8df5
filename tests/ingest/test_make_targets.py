"""Targets: labels joined by id, the test sealed, and every unusable column refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embedpipe.errors import ConfigError, DataError
from embedpipe.manifest.targets import Targets

Png = Callable[[int], bytes]


def text_set(project: Any, labels: list[str], splits: list[str] | None = None) -> None:
    """A data set of texts with a column `label`; ids t00, t01 …"""
    splits = splits or [("train", "train", "val", "test")[i % 4] for i in range(len(labels))]
    rows = [
        f"t{i:02d},text {i},{label},{split}"
        for i, (label, split) in enumerate(zip(labels, splits, strict=True))
    ]
    project.write("t.csv", "\n".join(["id,text,label,part", *rows]) + "\n")
    project.ingest(
        {
            "source": {"kind": "table", "path": "t.csv", "text": "text"},
            "id": "id",
            "split": {"column": "part"},
        }
    )


def read(project: Any, name: str) -> Targets:
    return Targets.read(project.targets_dir / f"{name}.parquet")


def test_the_test_is_sealed_and_classes_agree(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest({**folder, "split": {"val": 0.2, "test": 0.3}})
    summary = photos.targets(labels="label")
    opened, sealed = read(photos, "open"), read(photos, "sealed")
    assert set(sealed.splits) == {"test"}
    assert set(opened.splits) == {"train", "val"}
    assert opened.classes == sealed.classes == ("cat", "dog")
    assert (photos.targets_dir / "sealed.digest").read_text() == f"{sealed.digest}\n"
    assert len(opened) + len(sealed) == 60
    for targets in (opened, sealed):
        classes = [targets.classes[code] for code in targets.codes()]
        assert classes == [name.split("/")[0] for name in targets.sample_ids]
    assert summary.num["test"] == len(sealed)
    assert summary.num["missing"] == 0


def test_a_task_on_the_source_domain_is_refused(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest({**folder, "domain": "source"})
    with pytest.raises(
        DataError, match="expected a data set of domain target, found 'photos' of domain source"
    ):
        photos.targets(labels="label")


def test_outputs_are_the_same_bytes_again(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    photos.targets(labels="label")
    before = photos.outputs()
    photos.targets(labels="label")
    assert photos.outputs() == before


def test_classes_that_are_numbers_are_ordered_by_value(project: Any) -> None:
    text_set(project, ["10", "9", "2"] * 8)
    assert project.targets(labels="label").classes == ["2", "9", "10"]


def test_numbers_are_read_and_missing_ones_are_nan(project: Any) -> None:
    text_set(project, ["1.5", "", "-2", "1e3"] * 4)
    summary = project.targets(labels="label", kind="number")
    assert summary.num == {"train": 4, "val": 4, "test": 4, "excluded": 0, "missing": 4}
    np.testing.assert_array_equal(read(project, "open").values(), [1.5, np.nan, -2.0] * 4)
    np.testing.assert_array_equal(read(project, "sealed").values(), [1000.0] * 4)


def test_a_number_column_with_words_is_refused(project: Any) -> None:
    text_set(project, ["1", "2", "3", "4", "five", "nan", "7", "8"])
    with pytest.raises(
        DataError,
        match=r"tasks.kind: expected finite numbers in column 'label', found 2 other values "
        r"\('five' for 't04', 'nan' for 't05'\); correct them, or set tasks.kind.kind: classes",
    ):
        project.targets(labels="label", kind="number")


def test_a_constant_number_is_refused(project: Any) -> None:
    text_set(project, ["3"] * 8)
    with pytest.raises(DataError, match=r"expected numbers that differ in column 'label', found 3.0 alone"):
        project.targets(labels="label", kind="number")


def test_an_absent_column_suggests_the_near_one(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    with pytest.raises(
        DataError,
        match=r"tasks.kind.labels: no column 'labl' \(did you mean 'label'\?\) in data set 'photos'; "
        r"columns: label",
    ):
        photos.targets(labels="labl")


def test_a_half_empty_column_is_refused_with_the_count(project: Any) -> None:
    text_set(project, ["a", "", "b", ""] * 5)
    with pytest.raises(
        DataError,
        match=r"expected labels for at least 60% of samples in column 'label' of data set 'photos', "
        r"found 10 of 20 without one; complete it, or raise tasks.kind.max_missing",
    ):
        project.targets(labels="label")


def test_few_labels_may_be_meant(project: Any) -> None:
    text_set(project, ["a", "", "b", "a"] + ["", "b", "a", ""] + [""] * 12)
    summary = project.targets(labels="label", max_missing=0.9)
    assert summary.num["missing"] == 15


def test_a_column_without_labels_is_refused(photos: Any, folder: dict[str, Any], png: Png) -> None:
    for path in (photos.root / "photos").rglob("*.png"):
        path.rename(photos.root / "photos" / path.name)
    photos.ingest(folder)
    with pytest.raises(
        DataError, match="expected labels in column 'label' of data set 'photos', found none for any"
    ):
        photos.targets(labels="label")


def test_one_class_only_is_refused(project: Any, png: Png, folder: dict[str, Any]) -> None:
    for i in range(20):
        project.write(f"photos/cat/{i}.png", png(i))
    project.ingest(folder)
    with pytest.raises(
        DataError, match=r"tasks.kind: expected at least two classes in column 'label', found one only: 'cat'"
    ):
        project.targets(labels="label")


def test_one_class_only_in_train_is_refused(project: Any) -> None:
    text_set(project, ["a", "a", "b", "b"] * 3)
    with pytest.raises(DataError, match="expected at least two classes in train, found one only: 'a'"):
        project.targets(labels="label")


def test_a_class_with_one_sample_is_reported(project: Any) -> None:
    text_set(project, ["a", "b", "a", "b"] * 4 + ["lonely"])
    assert project.targets(labels="label").notes == [
        "class 'lonely' with one sample: it cannot be both learnt and checked; "
        "add samples, or merge it with another class"
    ]


def test_a_class_absent_from_train_is_refused_before_anything_is_embedded(project: Any) -> None:
    text_set(
        project,
        ["a", "b", "a", "b", "late", "late"],
        ["train", "train", "val", "test", "val", "test"],
    )
    with pytest.raises(
        DataError,
        match=r"every class in train, found none of class 'late' \(2 in other splits\), which no head could learn; "
        "label one there, merge or drop the class",
    ):
        project.targets(labels="label")


def test_ids_in_place_of_classes_are_refused(project: Any) -> None:
    text_set(project, [f"c{i}" for i in range(120)])
    with pytest.raises(DataError, match=r"found 120 classes in 120 samples; is it a number .* or an id"):
        project.targets(labels="label")


@pytest.mark.parametrize("empty", ["train", "val"])
def test_a_split_without_labels_is_refused(project: Any, empty: str) -> None:
    splits = [("train", "train", "val", "test")[i // 2 % 4] for i in range(16)]
    labels = ["" if split == empty else "ab"[i % 2] for i, split in enumerate(splits)]
    text_set(project, labels, splits)
    with pytest.raises(DataError, match=rf"expected labelled samples in {empty} to .*, found none"):
        project.targets(labels="label", max_missing=0.9)


def test_a_test_without_labels_is_reported(project: Any) -> None:
    text_set(project, ["a", "b", "a", ""] * 4)
    assert project.targets(labels="label").notes == [
        "no labelled sample is in test: `embedpipe test` will have nothing to open"
    ]


def test_labels_may_come_from_a_table_of_their_own(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    rows = [f"{name},{'big' if i % 3 else 'small'}" for i, name in enumerate(photos.manifest.sample_ids)]
    photos.write("labels/size.csv", "\n".join(["sample_id,size", *rows]))
    summary = photos.targets(labels="labels/size.csv")
    assert summary.classes == ["big", "small"]
    assert sum(summary.num[split] for split in ("train", "val", "test")) == 60


def test_the_column_of_the_tasks_name_is_taken(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    rows = [f"{name},x{i},{'ab'[i % 2]}" for i, name in enumerate(photos.manifest.sample_ids)]
    photos.write("labels.tsv", "\n".join(["id,note,kind", *rows]).replace(",", "\t"))
    assert photos.targets(labels="labels.tsv").classes == ["a", "b"]


def test_a_table_with_several_columns_asks_which(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    photos.write("labels.csv", "id,a,b\n1,2,3\n")
    with pytest.raises(DataError, match=r"found a, b; name it with tasks.kind.column"):
        photos.targets(labels="labels.csv")
    with pytest.raises(DataError, match=r"tasks.kind.column: no column 'c'; columns: id, a, b"):
        photos.targets(labels="labels.csv", column="c")


def test_a_table_without_ids_asks_which_column_they_are_in(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    photos.write("labels.csv", "name,label\nx,y\n")
    with pytest.raises(
        DataError, match=r"expected a column sample_id or id .* found columns name, label; name it"
    ):
        photos.targets(labels="labels.csv")


def labels_with_unknown(photos: Any, unknown: list[str]) -> None:
    rows = [f"{name},{name[:3]}" for name in [*photos.manifest.sample_ids, *unknown]]
    photos.write("labels.csv", "\n".join(["id,label", *rows]))


def test_labels_for_unknown_ids_are_refused_by_name(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    labels_with_unknown(photos, ["cow/1.png", "cow/2.png", "cow/3.png", "cow/4.png"])
    with pytest.raises(
        DataError,
        match=r"4 of 64 labels are for ids that data set 'photos' lacks "
        r"\('cow/1.png', 'cow/2.png', 'cow/3.png', …\); "
        r"correct the ids, or set tasks.kind.unknown_ids: ignore",
    ):
        photos.targets(labels="labels.csv")


def test_labels_for_unknown_ids_may_be_ignored(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    labels_with_unknown(photos, ["cow/1.png"])
    summary = photos.targets(labels="labels.csv", unknown_ids="ignore")
    assert summary.classes == ["cat", "dog"]
    assert summary.notes == ["ignored: 1 of 61 labels are for ids that data set 'photos' lacks ('cow/1.png')"]


def test_a_label_for_an_unreadable_sample_is_no_unknown_id(photos: Any, folder: dict[str, Any]) -> None:
    photos.write("photos/cat/bad.png", b"")
    photos.ingest({**folder, "max_failed": 0.1})
    labels_with_unknown(photos, ["cat/bad.png"])
    assert photos.targets(labels="labels.csv").num["missing"] == 0


def test_ids_of_which_none_match_show_both_kinds(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    photos.write("labels.csv", "id,label\n1,a\n2,b\n")
    with pytest.raises(
        DataError,
        match=r"expected ids of data set 'photos' \(such as 'cat/001.png'\) in column 'id', "
        r"found none of them, but '1', '2'",
    ):
        photos.targets(labels="labels.csv")


def test_two_labels_for_one_id_are_refused(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    photos.write("labels.csv", "id,label\ncat/001.png,a\ncat/001.png,b\n")
    with pytest.raises(DataError, match=r"expected one label an id, found 'a' and 'b' for 'cat/001.png'"):
        photos.targets(labels="labels.csv")


def test_a_missing_table_of_labels_is_one_sentence(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    with pytest.raises(DataError, match="expected a table, found no such file"):
        photos.targets(labels="labels.csv")


def test_a_column_without_a_table_is_refused(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest(folder)
    with pytest.raises(
        ConfigError, match="column names a column of a table of labels, but labels 'label' is"
    ):
        photos.targets(labels="label", column="x")
