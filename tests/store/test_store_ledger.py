"""The end of the ledger, read alone, is the end of the ledger read whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedpipe.errors import StoreError
from embedpipe.store import ledger
from embedpipe.store.ledger import Entry, append_entry, cut_torn_line, read_end, read_ledger


def write(path: Path, num_entries: int) -> None:
    for sequence in range(num_entries):
        append_entry(path, Entry(sequence, "block", 10 * sequence, (), {}, removed=("x" * sequence,)))


@pytest.mark.parametrize("tail", [16, 200, 1 << 16])
@pytest.mark.parametrize("torn", [b"", b'{"checksum":"ab', b"y" * 500])
def test_the_last_line_says_how_many_there_are(tmp_path: Path, monkeypatch, tail: int, torn: bytes) -> None:
    monkeypatch.setattr(ledger, "_TAIL_NBYTES", tail)
    path = tmp_path / "ledger.jsonl"
    assert read_end(path) == (0, 0)
    for num_entries in (0, 1, 2, 9):
        path.unlink(missing_ok=True)
        path.touch()
        write(path, num_entries)
        whole = path.stat().st_size
        path.write_bytes(path.read_bytes() + torn)
        entries, nbytes = read_ledger(path)
        assert read_end(path) == (len(entries), nbytes) == (num_entries, whole)
        assert cut_torn_line(path, nbytes) == bool(torn)


def test_a_damaged_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write(path, 3)
    path.write_bytes(path.read_bytes()[:-5] + b"?" + path.read_bytes()[-4:])
    with pytest.raises(StoreError, match="the last line is damaged: expected a valid checksum; restore"):
        read_end(path)
