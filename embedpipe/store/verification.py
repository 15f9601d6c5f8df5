"""Read every file of a store and name what is missing, changed, cut short or not part of it.

Works on published stores and on working groups, while a kill has left a commit half done too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from embedpipe.errors import StoreError
from embedpipe.store import commit, ledger, lock, published
from embedpipe.store.disk import FileRecord, record_of_file
from embedpipe.store.group import GROUP, read_info

MISSING, SIZE, CHECKSUM, LITTER = "missing", "size", "checksum", "litter"


@dataclass(frozen=True)
class Damage:
    """One file that is not as it should be.

    Attributes
    ----------
    path : Path
    kind : str
        ``missing``, ``size``, ``checksum`` or ``litter`` (a file that the store does not name).
    expected, found : str
    """

    path: Path
    kind: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class VerifyReport:
    """What verification read and found.

    Attributes
    ----------
    damages : list of Damage
        By path.
    num_files, nbytes : int
        Files read, and their bytes.
    """

    damages: list[Damage]
    num_files: int
    nbytes: int

    @property
    def ok(self) -> bool:
        return not self.damages


def verify(path: Path | str) -> VerifyReport:
    """Compare every file of a store with its recorded size and checksum.

    Parameters
    ----------
    path
        A published store or the folder of a working group. What a kill left in a group's journal is no
        damage: recovery finishes or drops it.

    Raises
    ------
    StoreError
        If `path` is no store at all.
    """
    path = Path(path)
    if (path / GROUP).exists() or (path / ledger.NAME).exists():
        return _verify_group(path)
    if not path.is_dir() or not any(path.iterdir()):
        raise StoreError(f"{path}: expected a feature store, found none; run extract")
    return _verify_published(path)


def _verify_group(path: Path) -> VerifyReport:
    own: list[Damage] = []
    try:
        read_info(path)
    except StoreError as error:
        kind = CHECKSUM if (path / GROUP).exists() else MISSING
        own.append(Damage(path / GROUP, kind, "the group's spec", str(error)))
    try:
        state = commit.read_state(path, moving=True)
    except StoreError as error:
        intent = path / commit.JOURNAL / commit.INTENT
        culprit = intent if str(error).startswith(str(intent)) else path / ledger.NAME
        kind = CHECKSUM if culprit.exists() else MISSING
        own.append(Damage(culprit, kind, "whole lines with valid checksums", str(error)))
        return VerifyReport(own, len(own), 0)
    body = commit.read_intent(path)
    pending = set()
    if body is not None:
        pending = {name for _, name in body["moves"]} | set(body["entry"].get("removed", ()))
    expected = {GROUP, ledger.NAME, *state.files, *pending}
    report = _compare(path, state.files)
    found = [p for p in _files(path) if p.relative_to(path).parts[0] != commit.JOURNAL]
    found = [p for p in found if p.parent != path or not p.name.startswith(lock.NAME)]
    return _merged(own, report, _litter(path, found, expected), num_own=2)


def _verify_published(path: Path) -> VerifyReport:
    try:
        contents = published.read_contents(path)
    except StoreError as error:
        kind = CHECKSUM if (path / published.NAME).exists() else MISSING
        return VerifyReport([Damage(path / published.NAME, kind, "the store's contents", str(error))], 1, 0)
    report = _compare(path, contents.files)
    return _merged([], report, _litter(path, _files(path), {published.NAME, *contents.files}), num_own=1)


def _compare(root: Path, files: Mapping[str, FileRecord]) -> VerifyReport:
    damages: list[Damage] = []
    nbytes = 0
    for name, expected in sorted(files.items()):
        path = root / name
        try:
            size = path.stat().st_size
        except OSError:
            damages.append(Damage(path, MISSING, f"{expected.nbytes} bytes", "nothing"))
            continue
        if size != expected.nbytes:
            damages.append(Damage(path, SIZE, f"{expected.nbytes} bytes", f"{size} bytes"))
            continue
        try:
            found = record_of_file(path).xxh3
        except OSError as error:  # a failing disk
            found = error.strerror or str(error)
        nbytes += size
        if found != expected.xxh3:
            damages.append(Damage(path, CHECKSUM, f"XXH3 {expected.xxh3}", found))
    return VerifyReport(damages, len(files), nbytes)


def _files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() or p.is_symlink())


def _litter(root: Path, found: Iterable[Path], expected: set[str]) -> list[Damage]:
    return [
        Damage(path, LITTER, "no such file", f"{path.stat().st_size} bytes")
        for path in found
        if path.relative_to(root).as_posix() not in expected
    ]


def _merged(own: list[Damage], report: VerifyReport, litter: list[Damage], num_own: int) -> VerifyReport:
    """All damages by path; `num_own` files were read besides those in the report."""
    damages = sorted([*own, *report.damages, *litter], key=lambda damage: damage.path)
    return VerifyReport(damages, report.num_files + num_own, report.nbytes)
