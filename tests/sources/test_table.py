"""Tables of texts and of image paths, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.manifest.keys import content_key, text_key
from embedpipe.sources.base import Scanned, Source, open_source
from embedpipe.sources.rows import read_rows


def opened(path: Path, id_column: str | None = None, **options: str) -> Source:
    return open_source({"kind": "table", "path": path.name, **options}, path.parent, id_column=id_column)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def scan(source: Source) -> list[Scanned]:
    return list(source.scan({}))


def test_quotes_in_a_tsv_are_literal(tmp_path: Path) -> None:
    path = written(tmp_path / "sms.tsv", 'Label\tSMS\nham\t"Go" he said\nspam\tsay "yes\n')
    samples = scan(opened(path, text="SMS"))
    assert [s.labels for s in samples] == [{"Label": "ham"}, {"Label": "spam"}]
    assert [s.key for s in samples] == [text_key('"Go" he said'), text_key('say "yes')]


def test_quotes_in_a_csv_enclose_fields(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", 'text,label\r\n"a, b\nc",x\r\n"say ""hi""",y\r\n')
    source = opened(path, text="text")
    assert [source.read(s.locator) for s in scan(source)] == ["a, b\nc", 'say "hi"']


def test_texts_are_named_by_content_so_that_rows_may_move(tmp_path: Path) -> None:
    path = written(tmp_path / "t.tsv", "text\tlabel\none\ta\ntwo\tb\none\tc\n")
    first = {s.sample_id: s.labels["label"] for s in scan(opened(path, text="text"))}
    assert list(first) == [text_key("one").hex(), text_key("two").hex(), text_key("one").hex() + "-2"]
    written(path, "text\tlabel\nzero\tz\ntwo\tb\none\ta\none\tc\n")
    again = {s.sample_id: s.labels["label"] for s in scan(opened(path, text="text"))}
    assert {name: again[name] for name in first} == first


def test_an_id_column_names_the_samples(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "id,text,label\n7,one,a\n8,two,b\n")
    samples = scan(opened(path, "id", text="text"))
    assert [s.sample_id for s in samples] == ["7", "8"]
    assert samples[0].labels == {"label": "a"}


def test_a_row_without_an_id_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "id,text\n7,one\n,two\n")
    with pytest.raises(DataError, match=r"found 1 rows without one in column 'id' \(first: row 2\)"):
        scan(opened(path, "id", text="text"))


def test_empty_texts_are_listed_as_unreadable(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "id,text\n1,one\n2,\n3,  \n")
    source = opened(path, "id", text="text")
    assert [s.reason for s in scan(source)] == [None, "empty text", "empty text"]
    with pytest.raises(UnreadableSample, match="empty text"):
        source.read("1")


def test_parquet_and_json_lines_hold_typed_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "score": [1.5, None], "n": [1, 2]}), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text(
        '{"text": "a", "score": 1.5, "n": 1}\n\n{"text": "b", "n": 2, "ok": true}\n'
    )
    expected = [{"score": 1.5, "n": 1}, {"score": None, "n": 2}]
    assert [s.labels for s in scan(opened(tmp_path / "t.parquet", text="text"))] == expected
    with_ok = [{**expected[0], "ok": None}, {**expected[1], "ok": "true"}]
    assert [s.labels for s in scan(opened(tmp_path / "t.jsonl", text="text"))] == with_ok


def test_image_paths_start_at_the_folder_of_the_table(tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.jpg").write_bytes(jpeg())
    path = written(tmp_path / "t.csv", "file,label\nfiles/a.jpg,x\nfiles/b.jpg,y\n")
    source = opened(path, image="file")
    samples = scan(source)
    assert source.modalities == ("image",)
    assert [(s.sample_id, s.key, s.reason) for s in samples] == [
        ("files/a.jpg", content_key(jpeg()), None),
        ("files/b.jpg", None, "no such file"),
    ]
    image = source.read("files/a.jpg")
    assert not isinstance(image, str)
    assert image.size == (64, 64)


def test_image_paths_may_start_elsewhere(tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.jpg").write_bytes(jpeg())
    path = written(tmp_path / "t.csv", "file,label\na.jpg,x\n")
    assert scan(opened(path, image="file", images="files"))[0].reason is None


def test_a_path_in_two_rows_asks_for_ids(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "file,label\na.jpg,x\na.jpg,y\n")
    with pytest.raises(DataError, match=r"found 1 paths in several rows \('a.jpg'\); name a column"):
        scan(opened(path, image="file"))


def test_an_absent_column_suggests_the_near_one(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "message,label\nx,y\n")
    with pytest.raises(
        DataError,
        match=r"source.text: no column 'mesage' \(did you mean 'message'\?\); columns: message, label",
    ):
        scan(opened(path, text="mesage"))


def test_neither_text_nor_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected `text:`, `image:` or both, .*, found neither"):
        opened(tmp_path / "t.csv")


def test_a_row_may_hold_an_image_and_a_text(tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "b.jpg").write_bytes(jpeg(1))
    path = written(tmp_path / "t.csv", "file,words,label\na.jpg,one,x\nb.jpg, ,y\nc.jpg,three,z\n")
    source = opened(path, image="file", text="words")
    assert source.modalities == ("image", "text")
    whole, wordless, absent = scan(source)
    assert (whole.sample_id, whole.key, whole.labels) == ("a.jpg", content_key(jpeg()), {"label": "x"})
    key, locator = whole.also["text"]
    assert key == text_key("one") and source.read(locator) == "one"
    image = source.read(whole.locator)
    assert not isinstance(image, str) and image.size == (64, 64)
    assert (wordless.key, wordless.reason) == (None, "empty text")
    assert (absent.key, absent.reason) == (None, "no such file")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "a,b\n1,2,3\n", r"line 2: expected 2 fields \(a, b\), found 3; quote fields"),
        ("t.csv", 'a,b\n"x,2\n', r"line 2: .*check its quotes"),
        ("t.csv", "", "expected a header line, found an empty file"),
        ("t.csv", "a,a\n1,2\n", "expected each column once, found 'a' several times"),
        ("t.jsonl", "{]\n", "line 1: expected a JSON object"),
        ("t.jsonl", "3\n", "line 1: expected a JSON object, found int"),
        ("t.parquet", "hello", "expected Parquet, found something else"),
        ("t.xls", "", r"expected a table \(\.csv, \.tsv, \.parquet, \.jsonl\), found suffix '\.xls'"),
    ],
)
def test_a_bad_table_says_which_line_and_why(tmp_path: Path, name: str, content: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_rows(written(tmp_path / name, content))


def test_a_table_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a\nżółw\n".encode("iso-8859-2"))
    with pytest.raises(DataError, match="expected UTF-8, found byte 0xbf at 2; save the table as UTF-8"):
        read_rows(tmp_path / "t.csv")


def test_a_missing_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a table, found no such file"):
        read_rows(tmp_path / "t.csv")


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "text,label\n")
    with pytest.raises(DataError, match="expected rows, found a header alone"):
        scan(opened(path, text="text"))


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbftext\nx\n")
    assert read_rows(tmp_path / "t.csv").names == ["text"]


def test_long_texts_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "text\n" + "x" * 300_000 + "\n")
    assert len(str(read_rows(path).columns["text"][0])) == 300_000
