"""A folder of images: classes, splits, what is passed over, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.manifest.keys import content_key
from embedpipe.sources.base import Seen, open_source

Tree = Callable[[dict[str, bytes]], Path]
Jpeg = Callable[..., bytes]


def scan(folder: Path, **options: object) -> dict[str, tuple[object, ...]]:
    source = open_source({"kind": "folder", "path": str(folder), **options}, folder.parent)
    return {s.sample_id: (s.labels["label"], s.split, s.reason) for s in source.scan({})}


def test_a_class_is_a_sub_folder(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree({"cat/a.jpg": jpeg(0), "dog/b.JPG": jpeg(1), "dog/deep/c.jpg": jpeg(2)})
    assert scan(folder) == {
        "cat/a.jpg": ("cat", None, None),
        "dog/b.JPG": ("dog", None, None),
        "dog/deep/c.jpg": ("dog", None, None),
    }


def test_train_val_and_test_above_the_classes_are_splits(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree({"train/cat/a.jpg": jpeg(), "valid/cat/b.jpg": jpeg(), "Test/dog/c.jpg": jpeg()})
    assert scan(folder) == {
        "Test/dog/c.jpg": ("dog", "test", None),
        "train/cat/a.jpg": ("cat", "train", None),
        "valid/cat/b.jpg": ("cat", "val", None),
    }


def test_a_class_may_be_called_train(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree({"train/a.jpg": jpeg(), "car/b.jpg": jpeg()})
    assert scan(folder) == {"car/b.jpg": ("car", None, None), "train/a.jpg": ("train", None, None)}


def test_split_folders_beside_class_folders_are_refused(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree({"train/cat/a.jpg": jpeg(), "val/cat/b.jpg": jpeg(), "extra/c.jpg": jpeg()})
    with pytest.raises(DataError, match=r"found both: 'extra' beside them; move it"):
        scan(folder)


def test_images_in_no_class_folder_have_no_label(write_tree: Tree, jpeg: Jpeg) -> None:
    assert scan(write_tree({"a.jpg": jpeg()})) == {"a.jpg": (None, None, None)}


def test_hidden_and_other_files_are_passed_over_and_counted(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree(
        {"cat/a.jpg": jpeg(), "cat/.hidden.jpg": b"", ".git/x.jpg": b"", "cat/notes.txt": b"", "README": b""}
    )
    source = open_source({"kind": "folder", "path": str(folder)}, folder)
    assert [s.sample_id for s in source.scan({})] == ["cat/a.jpg"]
    assert source.notes() == [
        "passed over 2 files that are no images by their suffix (1 x .txt, 1 x no suffix)"
    ]


def test_linked_folders_are_followed_once(write_tree: Tree, jpeg: Jpeg, tmp_path: Path) -> None:
    folder = write_tree({"cat/a.jpg": jpeg()})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.jpg").write_bytes(jpeg(1))
    os.symlink(elsewhere, folder / "dog")
    os.symlink(folder, folder / "cat" / "loop")
    assert list(scan(folder)) == ["cat/a.jpg", "dog/b.jpg"]


def test_bad_files_are_listed_with_reasons_and_do_not_stop_the_scan(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree({"cat/a.jpg": jpeg(), "cat/empty.jpg": b"", "cat/text.jpg": b"not a picture at all"})
    os.symlink(folder / "nowhere", folder / "cat" / "gone.jpg")
    reasons = {name: reason for name, (_, _, reason) in scan(folder).items()}
    assert reasons["cat/a.jpg"] is None
    assert reasons["cat/empty.jpg"] == "empty file (0 bytes)"
    assert reasons["cat/gone.jpg"] == "no such file"
    assert str(reasons["cat/text.jpg"]).startswith(
        "not an image that Pillow reads (starts with b'not a pictur"
    )


def test_a_truncated_file_is_found_by_a_full_check(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree({"cat/cut.jpg": jpeg(side_px=128)[:2000]})
    assert scan(folder)["cat/cut.jpg"][2] is None
    assert "truncated" in str(scan(folder, check="decode")["cat/cut.jpg"][2])


def test_keys_are_those_of_the_bytes(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree({"cat/a.jpg": jpeg(0), "dog/same.jpg": jpeg(0)})
    keys = [s.key for s in open_source({"kind": "folder", "path": str(folder)}, folder).scan({})]
    assert keys == [content_key(jpeg(0))] * 2


def test_what_was_seen_is_believed_while_size_and_time_stay(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree({"cat/a.jpg": jpeg(0)})
    source = open_source({"kind": "folder", "path": str(folder)}, folder)
    (first,) = source.scan({})
    assert first.stamp is not None
    believed = {"cat/a.jpg": Seen(first.stamp, b"x" * 16, None)}
    assert [s.key for s in source.scan(believed)] == [b"x" * 16]
    os.utime(folder / "cat/a.jpg", ns=(1, 1))
    assert [s.key for s in source.scan(believed)] == [content_key(jpeg(0))]


def test_read_decodes_by_locator(write_tree: Tree, jpeg: Jpeg) -> None:
    folder = write_tree({"cat/a.jpg": jpeg(side_px=32)})
    source = open_source({"kind": "folder", "path": "photos"}, folder.parent)
    image = source.read("cat/a.jpg")
    assert not isinstance(image, str)
    assert (image.size, image.mode) == ((32, 32), "RGB")
    with pytest.raises(UnreadableSample, match="no such file"):
        source.read("cat/b.jpg")


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected a folder of images, found no such folder; check `source.path`"
    ):
        scan(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(DataError, match="expected a folder of images, found a file"):
        scan(tmp_path / "x")


def test_an_empty_folder_says_what_it_holds(write_tree: Tree) -> None:
    with pytest.raises(DataError, match="expected images in a folder a class, found nothing"):
        scan(write_tree({}))
    with pytest.raises(DataError, match=r"found 2 x \.txt; suffixes that count"):
        scan(write_tree({"cat/a.txt": b"", "cat/b.txt": b""}))


def test_an_id_column_is_refused(write_tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="id: expected 'relpath' or nothing, found 'name'; a folder source"):
        open_source({"kind": "folder", "path": "x"}, tmp_path, id_column="name")


def test_an_unknown_kind_suggests_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown kind 'foldr' \(did you mean 'folder'\?\)"):
        open_source({"kind": "foldr"}, tmp_path)
