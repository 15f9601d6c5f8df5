"""Durable file operations, and a full disk told in one sentence.

Everything the store writes goes through here or through zarr-python inside `telling_full`.
Knows nothing of arrays or ledgers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from embedpipe.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_NBYTES = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """Size and checksums of one file.

    Attributes
    ----------
    blake2b : str
        blake2b-128 of the bytes, 32 hex digits: what the store verifies by.
    md5 : str
        MD5 of the bytes: what DVC names the file by.
    """

    nbytes: int
    blake2b: str
    md5: str

    def to_dict(self) -> dict[str, Any]:
        return {"nbytes": self.nbytes, "blake2b": self.blake2b, "md5": self.md5}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        return cls(raw["nbytes"], raw["blake2b"], raw["md5"])


def record_of_bytes(data: bytes) -> FileRecord:
    """Size and checksums of `data`."""
    blake2b = hashlib.blake2b(data, digest_size=16).hexdigest()
    return FileRecord(len(data), blake2b, hashlib.md5(data, usedforsecurity=False).hexdigest())


def record_of_file(path: Path) -> FileRecord:
    """Size and checksums of a file, read once."""
    blake2b = hashlib.blake2b(digest_size=16)
    md5 = hashlib.md5(usedforsecurity=False)
    nbytes = 0
    with path.open("rb") as file:
        while data := file.read(_READ_NBYTES):
            blake2b.update(data)
            md5.update(data)
            nbytes += len(data)
    return FileRecord(nbytes, blake2b.hexdigest(), md5.hexdigest())


@contextlib.contextmanager
def telling_full(path: Path, nbytes: int | None = None) -> Iterator[None]:
    """Turn "no space left" inside the block into one sentence.

    Parameters
    ----------
    nbytes
        Bytes that the block was about to write, for the message.

    Raises
    ------
    DiskFullError
        Names the path, what was needed, what is free and what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFullError(_full_message(path, nbytes)) from error


def _full_message(path: Path, nbytes: int | None) -> str:
    existing = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    needed = "" if nbytes is None else f"{_megabytes(nbytes)} needed, "
    return (
        f"{path}: the disk is full ({needed}{_megabytes(free)} free): free some space and run again; "
        "everything committed so far is kept"
    )


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"


def write_file(path: Path, data: bytes) -> None:
    """Write a new file, fsynced. The parent must exist."""
    with telling_full(path, len(data)):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """`os.write` until all of `data` is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step: a temporary beside it, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f"{path.name}.tmp")
    write_file(temporary, data)
    with telling_full(path):
        os.replace(temporary, path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """fsync one finished file."""
    with telling_full(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_folder(path: Path) -> None:
    """fsync one folder, so that names in it survive a power cut."""
    sync_file(path)


def make_folder(path: Path) -> None:
    """Create `path` with its parents, told in one sentence where the disk is full."""
    with telling_full(path):
        path.mkdir(parents=True, exist_ok=True)


def sync_folders(root: Path, paths: Iterable[Path]) -> None:
    """fsync every folder between `root` and the files that were renamed into place, deepest first."""
    folders = {parent for path in paths for parent in path.parents if parent.is_relative_to(root)}
    for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
        sync_folder(folder)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
