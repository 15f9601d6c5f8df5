"""Tar shards: how members become samples, and what can be wrong with a shard."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.manifest.keys import content_key, text_key
from embedpipe.sources.base import Scanned, Seen, Source, open_source

Jpeg = Callable[..., bytes]


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def opened(root: Path, id_column: str | None = None, version: str = "content", **options: Any) -> Source:
    return open_source(
        {"kind": "tar", "path": "*.tar", **options}, root, id_column=id_column, version=version
    )


def scan(source: Source, known: dict[str, Seen] | None = None) -> list[Scanned]:
    return list(source.scan(known or {}))


def test_members_are_grouped_up_to_the_first_dot(tmp_path: Path, jpeg: Jpeg) -> None:
    mask = jpeg(9)
    members = {"a/01.jpg": jpeg(1), "a/01.seg.jpg": mask, "a/01.cls": b"cat\n", "./b.x/02.JPG": jpeg(2)}
    write_tar(tmp_path / "0.tar", members)
    first, second = scan(opened(tmp_path))
    assert (first.sample_id, first.key, first.labels) == ("a/01", content_key(jpeg(1)), {"cls": "cat"})
    assert (second.sample_id, second.key) == ("b.x/02", content_key(jpeg(2)))


def test_fields_of_the_json_are_label_columns(tmp_path: Path, jpeg: Jpeg) -> None:
    about = b'{"who": "ann", "age": 3, "tall": true, "box": [1, 2]}'
    write_tar(tmp_path / "0.tar", {"01.jpg": jpeg(), "01.json": about, "01.txt": b"a cat"})
    (sample,) = scan(opened(tmp_path))
    assert sample.labels == {"who": "ann", "age": 3, "tall": "true", "box": [1, 2], "txt": "a cat"}


def test_an_image_and_its_text_are_one_sample(tmp_path: Path, jpeg: Jpeg) -> None:
    write_tar(
        tmp_path / "0.tar",
        {"01.jpg": jpeg(1), "01.txt": b"one", "02.jpg": jpeg(2), "03.jpg": jpeg(3), "03.txt": b"\xff"},
    )
    source = opened(tmp_path, text="txt")
    assert source.modalities == ("image", "text")
    whole, wordless, bad = scan(source)
    key, locator = whole.also["text"]
    assert key == text_key("one") and source.read(locator) == "one"
    image = source.read(whole.locator)
    assert isinstance(image, Image.Image) and image.size == (64, 64)
    assert (wordless.key, wordless.reason) == (None, "no member .txt, its text")
    assert (bad.key, bad.reason) == (None, "expected UTF-8, found byte 0xff at 0")
    again = scan(
        opened(tmp_path, text="txt"),
        {s.locator: Seen(s.stamp or "", s.key, s.reason, s.extra) for s in (whole, wordless, bad)},
    )
    assert again == [whole, wordless, bad]


def test_shards_may_hold_texts_alone(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"01.txt": b"one", "01.cls": b"x", "02.txt": b" "})
    source = opened(tmp_path, image=None, text="txt")
    good, empty = scan(source)
    assert (good.key, good.labels, source.read(good.locator)) == (text_key("one"), {"cls": "x"}, "one")
    assert empty.reason == "empty text"
    with pytest.raises(ConfigError, match=r"expected `image:`, `text:` or both.*found neither"):
        opened(tmp_path, image=None)


def test_ids_may_be_a_field_or_tell_shards_apart(tmp_path: Path, jpeg: Jpeg) -> None:
    for shard in "ab":
        write_tar(tmp_path / f"{shard}.tar", {"01.jpg": jpeg(), "01.json": f'{{"uid": "{shard}1"}}'.encode()})
    assert [s.sample_id for s in scan(opened(tmp_path, "shard/key"))] == ["a/01", "b/01"]
    assert [s.sample_id for s in scan(opened(tmp_path, "uid"))] == ["a1", "b1"]
    with pytest.raises(
        DataError, match=r"a.tar: id: expected 'who' in each sample's .json or .cls, .* fields: uid"
    ):
        scan(opened(tmp_path, "who"))


def test_a_new_shard_is_indexed_and_the_others_are_not_opened(
    tmp_path: Path, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedpipe.sources.places import Files

    names: list[str] = []
    open_file = Files.open
    monkeypatch.setattr(
        Files, "open", lambda self, at, **how: (names.append(at.rsplit("/", 1)[-1]), open_file(self, at))[1]
    )
    write_tar(tmp_path / "0.tar", {f"{i}.jpg": jpeg(i) for i in range(3)})
    known = {s.locator: Seen(s.stamp or "", s.key, s.reason, s.extra) for s in scan(opened(tmp_path))}
    write_tar(tmp_path / "1.tar", {f"{i}.jpg": jpeg(i) for i in range(3, 5)})
    assert len(scan(opened(tmp_path), known)) == 5
    assert names == ["0.tar", "1.tar"]
    known.popitem()  # as an interrupted run leaves it
    assert len(scan(opened(tmp_path), known)) == 5
    assert names == ["0.tar", "1.tar", "0.tar", "1.tar"]


def test_with_an_etag_as_identity_no_image_is_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"1.jpg": b"not looked at", "1.cls": b"x"})
    (sample,) = scan(opened(tmp_path, version="etag"))
    assert sample.key is not None and sample.labels == {"cls": "x"}


def test_with_a_column_as_identity_a_member_is_known_by_its_name_wherever_it_lies(tmp_path: Path) -> None:
    """A shard that is written again may hold another member of the same size in the same place."""

    def keys() -> dict[str, bytes | None]:
        return {s.sample_id: s.key for s in scan(opened(tmp_path, id_column="key", version="rev"))}

    rev = b'{"rev": 1}'
    write_tar(tmp_path / "0.tar", {"a.jpg": b"one", "a.json": rev, "b.jpg": b"two", "b.json": rev})
    before = keys()
    assert before["a"] != before["b"]
    write_tar(tmp_path / "0.tar", {"c.jpg": b"six", "c.json": rev, "b.jpg": b"two", "b.json": rev})
    assert keys()["c"] not in before.values() and keys()["b"] == before["b"]
    write_tar(tmp_path / "0.tar", {"b.jpg": b"two", "b.json": rev})
    assert keys()["b"] == before["b"]
    write_tar(tmp_path / "0.tar", {"b.jpg": b"two", "b.json": b'{"rev": 2}'})
    assert keys()["b"] != before["b"]


def test_a_corrupt_member_is_one_unreadable_sample(tmp_path: Path, jpeg: Jpeg) -> None:
    write_tar(
        tmp_path / "0.tar",
        {"1.jpg": jpeg(1), "2.jpg": jpeg(2)[:300], "3.jpg": b"", "4.jpg": jpeg(4), "4.json": b"{"},
    )
    source = opened(tmp_path, check="decode")
    reasons = {s.sample_id: s.reason for s in scan(source)}
    assert reasons["1"] is None
    assert "truncated" in (reasons["2"] or "")
    assert reasons["3"] == "empty file (0 bytes)"
    assert "its .json cannot be read" in (reasons["4"] or "")


def test_a_corrupt_header_stops_and_says_where(tmp_path: Path, jpeg: Jpeg) -> None:
    write_tar(tmp_path / "0.tar", {f"{i}.jpg": jpeg(i) for i in range(3)})
    content = bytearray((tmp_path / "0.tar").read_bytes())
    second = 512 + -(-len(jpeg(0)) // 512) * 512
    content[second : second + 200] = b"\x55" * 200
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(
        DataError,
        match=rf"0.tar: damaged after 1 samples: expected the header of a member at byte {second:,}, found",
    ):
        scan(opened(tmp_path))


def test_a_shard_that_is_cut_short_stops_and_says_where(tmp_path: Path, jpeg: Jpeg) -> None:
    write_tar(tmp_path / "0.tar", {f"{i}.jpg": jpeg(i) for i in range(3)})
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[: 512 + len(jpeg(0)) + 2000])
    with pytest.raises(
        DataError, match=r"0.tar: cut short in '1.jpg', after 0 samples: expected .*; copy the shard again"
    ):
        scan(opened(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello " * 200, "expected a tar file, found something else"),
        (
            gzip.compress(b"x" * 2000, mtime=0),
            "expected a tar that is not compressed, since members are read by offset, found gzip",
        ),
        (b"", "expected a tar file, found something else"),
    ],
)
def test_a_file_that_is_no_tar_is_called_that(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(DataError, match=words):
        scan(opened(tmp_path))


def test_shards_without_images_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"1.cls": b"x"})
    with pytest.raises(
        DataError, match=r"expected members such as 0001.jpg and 0001.cls, found no image in 1 shards"
    ):
        scan(opened(tmp_path))
    with pytest.raises(DataError, match=r"expected tar shards, found none; check `source.path`"):
        scan(opened(tmp_path, path="none/*.tar"))
    with pytest.raises(DataError, match=r"001.tar: expected a tar shard, found no such file"):
        scan(opened(tmp_path, path="{001..002}.tar"))


def test_a_shard_that_became_shorter_is_one_unreadable_sample(tmp_path: Path, jpeg: Jpeg) -> None:
    write_tar(tmp_path / "0.tar", {"1.jpg": jpeg(1)})
    source = opened(tmp_path)
    (sample,) = scan(source)
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:700])
    with pytest.raises(
        UnreadableSample, match=r"cut short: expected [\d,]+ bytes at 512 of 0.tar, found 188"
    ):
        source.read(sample.locator)
