"""Ingest: every sample accounted for, nothing read twice, the same bytes each time."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedpipe.errors import ConfigError, DataError, TooManyFailed
from embedpipe.sources import files
from embedpipe.sources.places import Files

Png = Callable[[int], bytes]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, as they are."""
    names: list[str] = []
    fetch = Files.fetch

    def counted(self: Files, address: str, *more: Any) -> bytes:
        names.append(address.rsplit("/", 1)[-1])
        return fetch(self, address, *more)

    monkeypatch.setattr(Files, "fetch", counted)
    return names


def test_every_sample_is_in_the_manifest_or_in_quarantine(photos: Any, folder: dict[str, Any]) -> None:
    photos.write("photos/cat/empty.png", b"")
    photos.write("photos/dog/text.jpg", b"I am no picture")
    summary = photos.ingest({**folder, "max_failed": 0.1})
    assert (summary.num_samples, summary.num_failed) == (60, 2)
    assert len(photos.manifest) == 60
    assert photos.quarantine.splitlines() == [
        "sample_id,locator,reason",
        "cat/empty.png,cat/empty.png,empty file (0 bytes)",
        "dog/text.jpg,dog/text.jpg,not an image that Pillow reads (starts with b'I am no pict')",
    ]
    assert any("left out 2 unreadable samples" in note for note in summary.notes)


def test_every_kind_of_bad_image_is_listed_with_its_reason(
    photos: Any, folder: dict[str, Any], png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedpipe.sources.decode.MAX_PIXELS", 36)  # as large as the good ones are
    bomb = io.BytesIO()
    Image.new("L", (7, 7)).save(bomb, "PNG")
    photos.write("photos/cat/bomb.png", bomb.getvalue())
    photos.write("photos/cat/cut.png", png(0)[:-30])
    photos.write("photos/cat/zero.png", b"")
    photos.write("photos/dog/text.jpg", b"I am no picture")
    raw = {"source": {**folder["source"], "check": "decode"}, "max_failed": 0.1}
    summary = photos.ingest(raw)
    assert (summary.num_samples, summary.num_failed) == (60, 4)
    reasons = dict(line.split(",", 2)[::2] for line in photos.quarantine.splitlines()[1:])
    assert "a decompression bomb: 7x7 px from" in reasons["cat/bomb.png"]
    assert "truncated" in reasons["cat/cut.png"] or "damaged" in reasons["cat/cut.png"]
    assert reasons["cat/zero.png"] == "empty file (0 bytes)"
    assert "not an image that Pillow reads" in reasons["dog/text.jpg"]
    assert not set(reasons) & set(photos.manifest.sample_ids)


def test_labels_are_apart_and_cover_unreadable_samples(photos: Any, folder: dict[str, Any]) -> None:
    photos.write("photos/cat/empty.png", b"")
    photos.ingest({**folder, "max_failed": 0.1})
    labels = pq.read_table(photos.labels_path)
    assert labels.column_names == ["sample_id", "label"]
    assert labels["sample_id"].to_pylist() == sorted([*photos.manifest.sample_ids, "cat/empty.png"])
    assert "label" not in photos.manifest.table.column_names


def memory(project: Any) -> Path:
    (path,) = (project.root / "cache").glob("seen-*.parquet")
    return Path(path)


def test_a_moved_project_reads_nothing_again(
    photos: Any, folder: dict[str, Any], opened: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    photos.ingest(folder)
    before = photos.outputs()
    moved = type(photos)(photos.root.rename(tmp_path_factory.mktemp("elsewhere") / "project"))
    opened.clear()
    assert moved.ingest(folder).num_looked_at == 0
    assert opened == [] and moved.outputs() == before


def test_two_projects_that_share_a_memory_do_not_mix(
    photos: Any, folder: dict[str, Any], opened: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Files of one name, size and time, but other content, as unpacked archives have them."""
    other = type(photos)(tmp_path_factory.mktemp("other") / "project")
    shutil.copytree(photos.root, other.root)
    (photos.root / "cache").mkdir()
    (other.root / "cache").symlink_to(photos.root / "cache")
    for project, byte in ((photos, b"1"), (other, b"2")):
        path = project.write("photos/cat/same.png", (other.root / "photos/cat/001.png").read_bytes() + byte)
        os.utime(path, ns=(10**18, 10**18))
        project.ingest(folder)
    keys = [
        dict(zip(one.manifest.sample_ids, map(bytes, one.manifest.keys), strict=True))
        for one in (photos, other)
    ]
    assert keys[0]["cat/same.png"] != keys[1]["cat/same.png"]
    opened.clear()
    photos.ingest(folder), other.ingest(folder)
    assert opened == []


def test_nothing_is_read_again_when_nothing_changed(
    photos: Any, folder: dict[str, Any], opened: list[str]
) -> None:
    photos.write("photos/cat/empty.png", b"")
    raw = {**folder, "max_failed": 0.1}
    assert photos.ingest(raw).num_looked_at == 61
    assert len(opened) == 61
    before = photos.outputs()
    opened.clear()
    summary = photos.ingest(raw)
    assert opened == []
    assert summary.num_looked_at == 0
    assert photos.outputs() == before


def test_only_new_and_changed_files_are_read(
    photos: Any, folder: dict[str, Any], opened: list[str], png: Png
) -> None:
    photos.ingest(folder)
    opened.clear()
    photos.write("photos/cat/new.png", png(1000))
    changed = photos.write("photos/cat/001.png", png(2000))
    os.utime(changed, ns=(10**18, 10**18))
    summary = photos.ingest(folder)
    assert sorted(opened) == ["001.png", "new.png"]
    assert summary.num_looked_at == 2


def test_another_check_reads_again(photos: Any, folder: dict[str, Any], opened: list[str]) -> None:
    photos.ingest(folder)
    opened.clear()
    photos.ingest({"source": {**folder["source"], "check": "decode"}})
    assert len(opened) == 60


def test_what_was_read_before_an_interruption_is_not_read_again(
    photos: Any, folder: dict[str, Any], opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CHUNK", 20)

    def stop(done: int, total: int, what: str) -> None:
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        photos.ingest(folder, progress=stop)
    opened.clear()
    assert photos.ingest(folder).num_samples == 60
    assert len(opened) == 20


def test_a_damaged_memory_is_made_anew(photos: Any, folder: dict[str, Any], opened: list[str]) -> None:
    photos.ingest(folder)
    before = photos.outputs()
    memory(photos).write_bytes(b"rubbish")
    opened.clear()
    photos.ingest(folder)
    assert len(opened) == 60
    assert photos.outputs() == before


def test_outputs_do_not_depend_on_history(photos: Any, folder: dict[str, Any], png: Png) -> None:
    photos.ingest(folder)
    photos.write("photos/cat/zzz.png", png(1000))
    photos.ingest(folder)
    grown = photos.outputs()
    memory(photos).unlink()
    photos.ingest(folder)
    assert photos.outputs() == grown


def test_growth_keeps_every_split(photos: Any, folder: dict[str, Any], png: Png) -> None:
    photos.ingest(folder)
    before = dict(zip(photos.manifest.sample_ids, photos.manifest.splits, strict=True))
    for i in range(60):  # half of them copies of what is there
        photos.write(f"photos/cat/more{i}.png", png(i if i % 2 else 5000 + i))
    photos.ingest(folder)
    after = dict(zip(photos.manifest.sample_ids, photos.manifest.splits, strict=True))
    assert {name: after[name] for name in before} == before
    for i in range(1, 60, 2):
        assert after[f"cat/more{i}.png"] == before[f"cat/{i:03d}.png"]


def test_another_seed_leaves_the_test_alone(photos: Any, folder: dict[str, Any]) -> None:
    raw = {**folder, "split": {"val": 0.4, "test": 0.3}}
    tests, validations = [], []
    for seed in range(3):
        photos.ingest(raw, seed=seed)
        tests.append(set(photos.manifest.where(split="test").sample_ids))
        validations.append(frozenset(photos.manifest.where(split="val").sample_ids))
    assert tests[0] == tests[1] == tests[2]
    assert len(set(validations)) == 3


def test_val_folder_without_test_is_the_test(project: Any, png: Png, folder: dict[str, Any]) -> None:
    for i in range(80):
        project.write(f"photos/{'val' if i < 20 else 'train'}/{'ab'[i % 2]}/{i}.png", png(i))
    summary = project.ingest(folder)
    assert summary.splits["test"] == 20
    assert {name.split("/")[0] for name in project.manifest.where(split="test").sample_ids} == {"val"}
    assert summary.splits["train"] + summary.splits["val"] == 60
    assert "val came without test: it is the test" in summary.notes[0]


def test_duplicates_across_given_splits_leave_train_and_are_reported(
    project: Any, png: Png, folder: dict[str, Any]
) -> None:
    for split, numbers in (("train", range(20)), ("val", range(18, 26)), ("test", range(25, 30))):
        for i in numbers:
            project.write(f"photos/{split}/a/{i}.png", png(i))
    summary = project.ingest(folder)
    assert summary.splits == {"train": 18, "val": 7, "test": 5, "excluded": 3}
    assert summary.notes == ["excluded 3 samples whose content is also in test or val (2 of train, 1 of val)"]


def table(project: Any, rows: list[str], header: str = "id,text,label,part,who") -> dict[str, Any]:
    project.write("t.csv", "\n".join([header, *rows]) + "\n")
    return {"source": {"kind": "table", "path": "t.csv", "text": "text"}, "id": "id"}


def test_a_split_column_is_followed(project: Any) -> None:
    parts = ["training", "Validation", "test", "excluded"]
    raw = table(project, [f"{i},t{i},x,{parts[i % 4]},w" for i in range(8)])
    project.ingest({**raw, "split": {"column": "part"}})
    assert project.manifest.splits.tolist() == ["train", "val", "test", "excluded"] * 2


def test_a_split_column_with_other_words_is_refused(project: Any) -> None:
    raw = table(project, ["1,a,x,train,w", "2,b,x,tets,w", "3,c,x,,w"])
    with pytest.raises(
        DataError,
        match=r"datasets.photos.split.column: expected train, val, test or excluded in column 'part', "
        r"found 'tets' in 1 rows, nothing in 1 rows",
    ):
        project.ingest({**raw, "split": {"column": "part"}})


def test_an_absent_split_or_group_column_suggests_the_near_one(project: Any) -> None:
    raw = table(project, ["1,a,x,train,w"])
    with pytest.raises(
        DataError, match=r"photos.split.column: no label column 'prt' \(did you mean 'part'\?\)"
    ):
        project.ingest({**raw, "split": {"column": "prt"}})
    with pytest.raises(DataError, match=r"photos.group: no label column 'whom' \(did you mean 'who'\?\)"):
        project.ingest({**raw, "group": "whom"})


def test_a_group_never_straddles_splits(project: Any) -> None:
    raw = table(project, [f"{i},text {i},x,p,person {i % 40}" for i in range(200)])
    project.ingest({**raw, "group": "who", "split": {"val": 0.3, "test": 0.3}})
    manifest = project.manifest
    assert set(manifest.splits) == {"train", "val", "test"}
    pairs = set(zip(manifest.groups, manifest.splits, strict=True))
    assert len(pairs) == 40
    assert ("group:person 7") in manifest.groups


def test_groups_across_given_splits_are_reported(project: Any) -> None:
    raw = table(project, ["1,a,x,train,ann", "2,b,x,test,ann", "3,c,x,val,bob"])
    summary = project.ingest({**raw, "group": "who", "split": {"column": "part"}})
    assert summary.notes == [
        "1 groups lie in several of the given splits ('ann'); given splits are kept, so scores may be "
        "too good"
    ]


def test_stratified_splits_are_exact_and_warn(project: Any) -> None:
    raw = table(project, [f"{i},t{i},{'rare' if i < 20 else 'common'},p,w" for i in range(200)])
    summary = project.ingest({**raw, "split": {"val": 0.25, "test": 0.1, "stratify": "label"}})
    assert summary.splits == {"test": 20, "val": 50, "train": 130}
    assert "splits are stratified by 'label'" in summary.notes[0]
    assert "adding samples moves others" in summary.notes[0]


def test_a_missing_folder_names_the_data_set(project: Any, folder: dict[str, Any]) -> None:
    with pytest.raises(
        DataError, match=r"datasets.photos: .*photos: expected a folder of images, found no such"
    ):
        project.ingest(folder)


def test_an_empty_folder_names_the_data_set(project: Any, folder: dict[str, Any]) -> None:
    (project.root / "photos").mkdir()
    with pytest.raises(
        DataError, match=r"datasets.photos: .*expected images in a folder a class, found nothing"
    ):
        project.ingest(folder)


def test_too_many_unreadable_samples_stop_the_run(photos: Any, folder: dict[str, Any]) -> None:
    for i in range(4):
        photos.write(f"photos/cat/bad{i}.png", b"")
    with pytest.raises(TooManyFailed) as caught:
        photos.ingest(folder)
    words = str(caught.value)
    assert "datasets.photos: expected at most 1.00% unreadable samples, found 4 of 64 (6.25%)" in words
    assert "cat/bad0.png: empty file (0 bytes)" in words
    assert "and 1 more in " in words
    assert "mend or remove them, or raise datasets.photos.max_failed" in words
    assert photos.quarantine.count("empty file") == 4


def test_a_set_without_one_readable_sample_is_refused(project: Any, folder: dict[str, Any]) -> None:
    project.write("photos/cat/a.png", b"")
    with pytest.raises(
        TooManyFailed, match=r"expected readable samples, found none of 1: cat/a.png: empty file"
    ):
        project.ingest({**folder, "max_failed": 1.0})


def test_an_id_used_twice_is_refused(project: Any) -> None:
    raw = table(project, ["1,a,x,p,w", "1,b,x,p,w"])
    with pytest.raises(
        DataError, match=r"datasets.photos: expected one sample an id, found 1 ids more than once"
    ):
        project.ingest(raw)


def test_an_id_column_of_a_folder_is_refused_with_its_place(photos: Any, folder: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"params.yaml: datasets.photos.id: expected 'relpath' or nothing"):
        photos.ingest({**folder, "id": "name"})


def test_shares_that_leave_no_train_are_refused(photos: Any, folder: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"params.yaml: datasets.photos.split: val 0.6 and test 0.5 leave no train"
    ):
        photos.ingest({**folder, "split": {"val": 0.6, "test": 0.5}})


def test_a_misspelt_source_key_suggests_the_right_one(project: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"datasets.photos.source.pth: unknown key \(did you mean 'path'\?\)"
    ):
        project.ingest({"source": {"kind": "folder", "pth": "x"}})


def test_the_domain_stands_on_every_sample(photos: Any, folder: dict[str, Any]) -> None:
    photos.ingest({**folder, "domain": "source"})
    assert set(photos.manifest.domains) == {"source"}


def test_progress_is_reported(photos: Any, folder: dict[str, Any]) -> None:
    told: list[tuple[int, int, str]] = []
    photos.ingest(folder, progress=lambda *args: told.append(args))
    assert told[-1] == (60, 60, "files")
