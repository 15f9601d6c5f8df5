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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import xxhash

from embedpipe.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_NBYTES = 1 << 20
_PARALLEL_NBYTES = 1 << 20
"""A part of a file from this size on is written by a thread, which leaves the interpreter to others."""
NUM_HELD = 4
"""Parts that are being written while the next is made."""
_FLUSH_NBYTES = 16 << 20
"""After so many bytes the disk is asked to begin, so that the last fsync has little left to wait for."""


@dataclass(frozen=True)
class FileRecord:
    """Size and checksum of one file. Equal records mean equal files.

    Attributes
    ----------
    xxh3 : str
        XXH3-128, 32 hex digits: what the store verifies by. It finds damage at the speed of memory; it is no
        proof against somebody who forges files, nor is the MD5 that DVC names them by.
    md5 : str or None
        What DVC names the file by; None until it was published.
    """

    nbytes: int
    xxh3: str
    md5: str | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        md5 = {} if self.md5 is None else {"md5": self.md5}
        return {"nbytes": self.nbytes, "xxh3": self.xxh3, **md5}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        return cls(raw["nbytes"], raw["xxh3"], raw.get("md5"))


def record_of_bytes(data: bytes) -> FileRecord:
    """Size and checksum of `data`."""
    return FileRecord(len(data), xxhash.xxh3_128_hexdigest(data))


def record_of_file(path: Path) -> FileRecord:
    """Size and checksum of a file."""
    xxh3 = xxhash.xxh3_128()
    nbytes = _hash_file(path, xxh3)
    return FileRecord(nbytes, xxh3.hexdigest())


def md5_of_file(path: Path) -> str:
    """MD5 of a file, as DVC computes it."""
    md5 = hashlib.md5(usedforsecurity=False)
    _hash_file(path, md5)
    return md5.hexdigest()


def md5s_of_files(paths: Sequence[Path]) -> list[str]:
    """`md5_of_file` of each, on every core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(md5_of_file, paths))


def _hash_file(path: Path, state: Any) -> int:
    nbytes = 0
    with path.open("rb") as file:
        while data := file.read(_READ_NBYTES):
            state.update(data)
            nbytes += len(data)
    return nbytes


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


def write_file(path: Path, data: bytes | Iterable[memoryview], *, sync: bool = True) -> FileRecord:
    """Write a new file, fsynced. The parent must exist.

    Parameters
    ----------
    data
        All of it; or its parts, of which large ones are written while the next is made: a part must
        stay as it is until `NUM_HELD` more were asked for.
    sync
        False leaves the fsync to the caller.

    Returns
    -------
    FileRecord
        Of what was written.
    """
    parts = [memoryview(data)] if isinstance(data, bytes) else data
    with telling_full(path, len(data) if isinstance(data, bytes) else None):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            record = _write_parts(fd, parts)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
    return record


def _write_parts(fd: int, parts: Iterable[memoryview]) -> FileRecord:
    xxh3 = xxhash.xxh3_128()
    nbytes = flushed = 0
    tasks: list[Future[Any]] = []
    flushes: list[Future[Any]] = []
    one = partial(ThreadPoolExecutor, 1)
    with one() as writing, one() as flushing:
        for part in parts:
            nbytes += part.nbytes
            if part.nbytes < _PARALLEL_NBYTES and not tasks:
                xxh3.update(part)
                write_all(fd, part)
                continue
            xxh3.update(part)
            tasks.append(writing.submit(write_all, fd, part))
            if nbytes - flushed >= _FLUSH_NBYTES:
                flushed = nbytes
                flushes.append(flushing.submit(_flush_after, tasks[-1], fd))
            if len(tasks) >= NUM_HELD:
                tasks[-NUM_HELD].result()
        for task in [*tasks, *flushes]:
            task.result()
    return FileRecord(nbytes, xxh3.hexdigest())


def _flush_after(written: Future[Any], fd: int) -> None:
    written.result()
    os.fsync(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """`os.write` until all of `data` is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_file(path: Path, data: bytes, *, tag: str = "") -> None:
    """Put `data` at `path` in one step: a temporary beside it, fsync, rename, fsync of the folder.

    Parameters
    ----------
    tag
        Tells the temporary of one process from those of others, where several may write the file at once.
    """
    temporary = path.with_name(f"{path.name}{tag}.tmp")
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
