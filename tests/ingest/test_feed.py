"""A feed of changes: what it names is looked at, and nothing else is listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from embedpipe.errors import DataError
from embedpipe.ingest.memory import Memory
from embedpipe.sources import folder
from embedpipe.sources.places import Files

Png = Callable[[int], bytes]
FED = {"source": {"kind": "folder", "path": "photos"}, "feed": "changes.csv"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the disk was asked for: listings, and files by name."""
    calls: list[str] = []
    list_all, info = folder.list_images, Files.info
    monkeypatch.setattr(folder, "list_images", lambda *at: (calls.append("listing"), list_all(*at))[1])
    monkeypatch.setattr(
        Files, "info", lambda self, at: (calls.append(at.rsplit("/", 1)[-1]), info(self, at))[1]
    )
    return calls


def test_only_what_the_feed_names_is_looked_at(photos: Any, png: Png, asked: list[str]) -> None:
    photos.write("changes.csv", "id,op\n")
    first = photos.ingest(FED)
    assert "feed: nothing is remembered yet, so everything was listed once" in first.notes
    photos.write("photos/cat/new.png", png(500))
    photos.write("photos/dog/000.png", png(501) + b" ")
    photos.write("photos/cat/unseen.png", png(502))
    photos.write(
        "changes.csv", "id,op\ncat/new.png,delete\ncat/new.png,add\ndog/000.png,update\ncat/001.png,delete\n"
    )
    asked.clear()
    summary = photos.ingest(FED)
    assert sorted(asked) == ["000.png", "new.png"]
    ids = set(photos.manifest.sample_ids)
    assert "cat/new.png" in ids and "cat/001.png" not in ids and "cat/unseen.png" not in ids
    assert (summary.num_samples, summary.num_looked_at) == (60, 2)


def test_a_feed_that_says_the_same_again_changes_nothing(photos: Any, png: Png, asked: list[str]) -> None:
    photos.write("changes.csv", "id,op\n")
    photos.ingest(FED)
    photos.write("photos/cat/new.png", png(500))
    photos.write("changes.csv", "id,op\ncat/new.png,add\n")
    photos.ingest(FED)
    before = photos.outputs()
    assert photos.ingest(FED).num_looked_at == 0
    assert photos.outputs() == before


def test_after_an_interrupted_listing_everything_is_listed_again(
    photos: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos.write("changes.csv", "id,op\n")
    keep = Memory.keep
    monkeypatch.setattr(Memory, "keep", lambda self, seen, whole=True: keep(self, seen, whole=False))
    photos.ingest(FED)
    asked.clear()
    photos.ingest(FED)
    assert "listing" in asked


def test_a_sample_that_the_feed_adds_and_the_disk_lacks_is_listed_as_unreadable(photos: Any) -> None:
    photos.write("changes.csv", "id,op\n")
    photos.ingest(FED)
    photos.write("changes.jsonl", '{"id": "cat/gone.png", "op": "add"}\n')
    photos.ingest({**FED, "feed": "changes.jsonl", "max_failed": 0.1})
    assert "cat/gone.png,cat/gone.png,no such file" in photos.quarantine


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,op\na.png,remove\n", "feed: expected op add, update, delete in row 1, found 'remove'"),
        ("id,op\n,add\n", "feed: expected an id in each row, found none in row 1"),
        ("name,op\na.png,add\n", "feed: no column 'id'"),
        ("id,op\nreadme.md,add\n", "feed: expected ids of images below .*photos, .* found 'readme.md'"),
    ],
)
def test_a_feed_that_is_wrong_says_where(photos: Any, content: str, words: str) -> None:
    photos.write("changes.csv", "id,op\n")
    photos.ingest(FED)
    photos.write("changes.csv", content)
    with pytest.raises(DataError, match=words):
        photos.ingest(FED)


def test_a_source_that_is_a_table_takes_no_feed(photos: Any) -> None:
    photos.write("t.csv", "text\nx\n")
    photos.write("changes.csv", "id,op\n")
    with pytest.raises(
        DataError, match=r"photos: feed: expected a source that lists files \(folder\), found one"
    ):
        photos.ingest({"source": {"kind": "table", "path": "t.csv", "text": "text"}, "feed": "changes.csv"})
