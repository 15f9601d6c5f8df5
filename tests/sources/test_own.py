"""Sources of the user's own, and what the checks say of one that breaks its promises."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.manifest.keys import text_key
from embedpipe.sources.base import Scanned, open_source
from embedpipe.testing import ContractError, check_source

TEXTS = ["one", "two", "two"]


class Notes:
    """Three texts; each flaw breaks one promise."""

    modalities = ("text",)

    def __init__(self, flaw: str) -> None:
        self.flaw, self.count = flaw, 0

    def scan(self, known: Any, progress: Any = None) -> Any:
        for i, text in enumerate(TEXTS):
            key: bytes | None = text_key(text)
            if self.flaw == "constant key":
                key = b"k" * 16
            if self.flaw == "no reason":
                key = None
            name = "same" if self.flaw == "repeated id" else f"n{i}"
            yield Scanned(name, str(i), key) if self.flaw != "dict" else {"id": name}

    def read(self, locator: str) -> Any:
        self.count += 1
        if self.flaw == "forgetful":
            return f"{TEXTS[int(locator)]}{self.count}"
        return TEXTS[int(locator)].encode() if self.flaw == "bytes" else TEXTS[int(locator)]

    def notes(self) -> list[str]:
        return []


def make(options: dict[str, Any], access: Any) -> Any:
    return object() if options["flaw"] == "no source" else Notes(options["flaw"])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "own_notes", sys.modules[__name__])
    return tmp_path


def options(flaw: str, **more: Any) -> dict[str, Any]:
    return {"kind": "python:own_notes:make", "modality": "text", "options": {"flaw": flaw}, **more}


def test_a_source_that_keeps_its_promises_passes(root: Path) -> None:
    check_source(options("none"), root=root)


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ("constant key", "n1: has the key of a sample with other content"),
        ("no reason", "n0: expected a key of 16 bytes, or none and a reason, found None and None"),
        ("repeated id", "lists a sample_id more than once: 'same'"),
        ("forgetful", "has the key of a sample with other content"),
    ],
)
def test_a_promise_that_is_broken_is_named(root: Path, flaw: str, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check_source(options(flaw), root=root)


def test_what_is_no_source_or_no_sample_is_called_that(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a source with modalities, .*, found object without"):
        open_source(options("no source"), root)
    with pytest.raises(DataError, match=r"scan: expected embedpipe.sources.base.Scanned, found dict"):
        list(open_source(options("dict"), root).scan({}))
    with pytest.raises(DataError, match="read: expected str, found bytes"):
        open_source(options("bytes"), root).read("0")
    with pytest.raises(
        ConfigError, match=r"expected own_notes:make to hold images, found text; set source.modality"
    ):
        open_source(options("none", modality="image"), root)


def test_an_error_of_its_own_is_that_of_one_sample(root: Path) -> None:
    with pytest.raises(UnreadableSample, match="own_notes:make: read: IndexError: list index out of range"):
        open_source(options("none"), root).read("7")


def test_a_factory_that_is_not_there_is_one_sentence(root: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"name: nowhere:make: cannot be imported \(No module named 'nowhere'\)"
    ):
        open_source({"kind": "python:nowhere:make"}, root)
    with pytest.raises(ConfigError, match=r"expected module:factory, such as my_package"):
        open_source({"kind": "python:nowhere"}, root)


def test_the_source_of_the_page_on_extending_keeps_its_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "extend.md").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    (tmp_path / "scans.py").write_text(page.split("<!-- code: scans.py -->\n```python\n")[1].split("```")[0])
    (tmp_path / "raw").mkdir()
    for i, size in enumerate((4096, 4096, 100)):
        (tmp_path / "raw" / f"ann-{i}.raw").write_bytes(bytes([i]) * size)
    given = {"kind": "python:scans:open_scans", "options": {"folder": "raw"}}
    check_source(given, root=tmp_path)
    samples = list(open_source(given, tmp_path).scan({}))
    assert [s.labels["patient"] for s in samples] == ["ann"] * 3
    assert samples[2].reason == "expected 4096 bytes, found 100"
    sys.modules.pop("scans")
