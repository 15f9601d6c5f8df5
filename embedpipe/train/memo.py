"""Finished units, kept by what they were computed from.

An entry is a folder named by a hash of features, targets, parameters, seeds and code. It appears whole,
by rename, so a killed run resumes with what it had finished, and a changed head refits that head alone.
What is kept holds no path, and no time but in a file of its own, which says how long the entry took: a
recalled unit gives the same bytes as a fresh one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from embedpipe.manifest.files import write_bytes
from embedpipe.spec import canonical_json, digest

SECONDS = "seconds"
"""File of an entry that says how long it took to compute."""


class Memo:
    """Entries below one folder.

    Parameters
    ----------
    memo_dir
        Lies in the working folder; removing it costs time, never results.
    code
        Digest of the code that computes entries; part of every key.
    is_whole
        Whether an entry's folder holds what it should; one that does not, as after a damage, is computed anew.
    """

    def __init__(self, memo_dir: Path, code: str, is_whole: Callable[[Path], bool] = Path.is_dir) -> None:
        self._dir = memo_dir
        self._code = code
        self._is_whole = is_whole
        self.num_recalled = 0
        self.num_computed = 0
        self._used: set[str] = set()

    def place(self, parts: dict[str, Any]) -> Path:
        """Where the entry lies, whether or not it is there."""
        return self._dir / digest({"code": self._code, **parts})

    def unit(self, parts: dict[str, Any], compute: Callable[[Path], None]) -> Path:
        """Folder of the entry, computed unless it is there.

        Parameters
        ----------
        parts
            Everything the entry depends on, as JSON values.
        compute
            Fills the empty folder it is given.
        """
        entry = self.place(parts)
        self._used.add(entry.name)
        if entry.is_dir():
            if self._is_whole(entry):
                self.num_recalled += 1
                return entry
            shutil.rmtree(entry)
        scratch = self._dir / f".{entry.name}.{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            began = time.perf_counter()
            compute(scratch)
            took = time.perf_counter() - began
            (scratch / SECONDS).write_text(f"{took:.4g}\n", encoding="utf-8")
            for path in sorted(scratch.rglob("*")):
                _sync(path)
            try:
                scratch.rename(entry)
            except OSError:
                if not entry.is_dir():  # else another run finished the same unit first
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self.num_computed += 1
        return entry

    def keep(self, name: str) -> None:
        """Write down which entries were used, as those that `name` needs; what nobody needs `unneeded` lists."""
        write_bytes(_kept_path(self._dir, name), canonical_json(sorted(self._used)).encode())

    def sweep(self) -> None:
        """Remove what processes that are gone left half done."""
        for scratch in self._dir.glob(".*.*"):
            owner = scratch.name.rpartition(".")[2]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
                shutil.rmtree(scratch, ignore_errors=True)


def unneeded(memo_dir: Path, names: Iterable[str]) -> list[Path] | None:
    """Entries that none of `names` needed when it last ran; None while one of them has not run yet."""
    if not memo_dir.is_dir():
        return []
    needed: set[str] = set()
    for name in names:
        try:
            needed.update(json.loads(_kept_path(memo_dir, name).read_bytes()))
        except (OSError, ValueError):
            return None
    entries = [path for path in sorted(memo_dir.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return [path for path in entries if path.name not in needed]


def _kept_path(memo_dir: Path, name: str) -> Path:
    return memo_dir / f"{name}.kept.json"


def seconds_of(entry: Path) -> float | None:
    """Seconds that an entry took, whenever that was; None where nobody wrote it down."""
    try:
        return float((entry / SECONDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def code_digest(packages: Iterable[str], distributions: Iterable[str]) -> str:
    """Digest of the sources of packages or modules of this project, and of library versions.

    Parameters
    ----------
    packages
        Dotted names below `embedpipe`; a package counts with everything in it.
    distributions
        Libraries whose arithmetic results depend on.
    """
    root = Path(__file__).resolve().parent.parent
    state = hashlib.blake2b(digest_size=16)
    for package in sorted(packages):
        place = root.joinpath(*package.split(".")[1:])
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for file in files:
            state.update(file.relative_to(root).as_posix().encode() + b"\0")
            state.update(file.read_bytes() + b"\0")
    for name in sorted(distributions):
        state.update(f"{name} {importlib.metadata.version(name)}\0".encode())
    return state.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
