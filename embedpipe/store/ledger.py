"""The ledger of a group: one JSON line a commit, each with its own checksum; and the state it adds up to.

The ledger is the truth about a group: a file that no line names is litter. Lines hold no times, so that an
interrupted run ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedpipe.errors import StoreError
from embedpipe.spec import canonical_json
from embedpipe.store.disk import FileRecord, telling_full, write_all
from embedpipe.store.gates import BlockStatistics
from embedpipe.store.holes import Holes
from embedpipe.store.layout import TapState

NAME = "ledger.jsonl"
_TAIL_NBYTES = 1 << 16


@dataclass(frozen=True)
class TapChange:
    """What one commit did to one tap.

    Attributes
    ----------
    tap : TapState
        After the commit; its holes are left out.
    start, stop : int
        Rows whose holes the commit decided.
    holes : Holes
        All holes in [start, stop) after it.
    statistics : BlockStatistics or None
        Of the rows it added; None where it added none.
    """

    tap: TapState
    start: int
    stop: int
    holes: Holes
    statistics: BlockStatistics | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "tap": self.tap.to_dict(),
            "rows": [self.start, self.stop],
            "holes": self.holes.to_json(),
            "statistics": None if self.statistics is None else self.statistics.to_dict(),
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> TapChange:
        statistics = raw["statistics"]
        start, stop = raw["rows"]
        return cls(
            TapState.from_dict(raw["tap"], Holes.empty()),
            start,
            stop,
            Holes.from_json(raw["holes"]),
            None if statistics is None else BlockStatistics.from_dict(statistics),
        )


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes
    ----------
    sequence : int
        0, 1, 2, ...: so that recovery knows whether a line was written.
    kind : str
        ``block``, ``probe``, ``publish``, ``seed``, ``repair``, ``compact`` or ``forget``.
    num_rows : int
        Rows of the group after it.
    taps : tuple of TapChange
    files : dict
        Path in the group -> record, of every file it wrote; or, of ``publish``, whose MD5 it added.
    removed : tuple of str
        Paths in the group that it took away.
    """

    sequence: int
    kind: str
    num_rows: int
    taps: tuple[TapChange, ...]
    files: dict[str, FileRecord]
    removed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        removed = {"removed": sorted(self.removed)} if self.removed else {}
        return {
            "sequence": self.sequence,
            "kind": self.kind,
            "num_rows": self.num_rows,
            "taps": [change.to_dict() for change in self.taps],
            "files": {path: record.to_dict() for path, record in sorted(self.files.items())},
            **removed,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Entry:
        return cls(
            raw["sequence"],
            raw["kind"],
            raw["num_rows"],
            tuple(TapChange.from_dict(change) for change in raw["taps"]),
            {path: FileRecord.from_dict(record) for path, record in raw["files"].items()},
            tuple(raw.get("removed", ())),
        )


@dataclass(frozen=True)
class LedgerState:
    """What the entries add up to.

    Attributes
    ----------
    num_entries : int
        The next entry's sequence.
    taps : dict of name -> TapState
    files : dict of path in the group -> FileRecord
        Every committed file.
    statistics : dict of tap name -> tuple of BlockStatistics
        Of the blocks so far.
    """

    num_entries: int = 0
    num_rows: int = 0
    taps: dict[str, TapState] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    statistics: dict[str, tuple[BlockStatistics, ...]] = field(default_factory=dict)

    def after(self, entries: Iterable[Entry]) -> LedgerState:
        """The state after further entries."""
        num_entries, num_rows = self.num_entries, self.num_rows
        taps, files = dict(self.taps), dict(self.files)
        statistics = {name: list(before) for name, before in self.statistics.items()}
        for entry in entries:
            num_entries, num_rows = entry.sequence + 1, entry.num_rows
            files.update(entry.files)
            for path in entry.removed:
                files.pop(path, None)
            for change in entry.taps:
                name = change.tap.name
                before = taps[name].holes if name in taps else Holes.empty()
                holes = before.replaced(change.start, change.stop, change.holes)
                taps[name] = dataclasses.replace(change.tap, holes=holes)
                if change.statistics is not None:
                    statistics.setdefault(name, []).append(change.statistics)
        frozen = {name: tuple(each) for name, each in statistics.items()}
        return LedgerState(num_entries, num_rows, taps, files, frozen)


def read_ledger(path: Path) -> tuple[list[Entry], int]:
    """Read every whole line.

    Returns
    -------
    entries : list of Entry
    nbytes : int
        Length of the whole lines; a torn last line, left by a kill, lies beyond.

    Raises
    ------
    StoreError
        If a whole line does not match its checksum; names the line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    nbytes = data.rfind(b"\n") + 1
    entries: list[Entry] = []
    for number, line in enumerate(data[:nbytes].split(b"\n")[:-1], start=1):
        entry = _parse(line)
        if entry is None or entry.sequence != len(entries):
            raise StoreError(
                f"{path}: line {number} is damaged: expected entry {len(entries)} with a valid checksum; "
                "restore the file, or move the group's folder away to embed again"
            )
        entries.append(entry)
    return entries, nbytes


def read_end(path: Path) -> tuple[int, int]:
    """Number of entries and length of the whole lines, by the last line alone: a commit need not read all others.

    Raises
    ------
    StoreError
        If the last whole line does not match its checksum.
    """
    try:
        with path.open("rb") as file:
            nbytes = file.seek(0, os.SEEK_END)
            tail, begin = b"", nbytes
            while begin and tail.count(b"\n") < 2:
                begin = max(0, begin - _TAIL_NBYTES)
                file.seek(begin)
                tail = file.read(nbytes - begin)
    except FileNotFoundError:
        return 0, 0
    whole = tail.rfind(b"\n") + 1
    if not whole:
        return 0, 0
    entry = _parse(tail[tail.rfind(b"\n", 0, whole - 1) + 1 : whole - 1])
    if entry is None:
        raise StoreError(
            f"{path}: the last line is damaged: expected a valid checksum; restore the file, or move the group's "
            "folder away to embed again"
        )
    return entry.sequence + 1, begin + whole


def append_entry(path: Path, entry: Entry) -> None:
    """Append one line, fsynced. A torn line must have been cut off before."""
    line = _format(entry)
    with telling_full(path, len(line)):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            write_all(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)


def cut_torn_line(path: Path, nbytes: int) -> bool:
    """Before an interrupted append is repeated: cut off what it left; True if there was anything."""
    if not path.exists() or path.stat().st_size == nbytes:
        return False
    with path.open("r+b") as file:
        file.truncate(nbytes)
        os.fsync(file.fileno())
    return True


def _format(entry: Entry) -> bytes:
    body = canonical_json(entry.to_dict())
    return f'{{"checksum":"{_checksum(body)}","entry":{body}}}\n'.encode()


def _parse(line: bytes) -> Entry | None:
    try:
        raw = json.loads(line)
        if raw["checksum"] != _checksum(canonical_json(raw["entry"])):
            return None
        return Entry.from_dict(raw["entry"])
    except (ValueError, KeyError, TypeError):
        return None


def _checksum(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()
