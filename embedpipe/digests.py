"""Digests of files by their content, remembered so that a file which has not changed is not read again.

Knows nothing of what files are for.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from embedpipe.spec import digest

_VERSION = 1
_SETTLED_S = (
    2.0  # a file younger than this may be written again within the same tick of its file system's clock
)


class FileDigests:
    """blake2b-128 of files, remembered in `folder` by path, size, modification time and inode.

    What is remembered only saves reading: lost or damaged, it is made anew. An edit that keeps all three, with the
    times put back, is not seen.

    Parameters
    ----------
    folder : Path
        Holds a file for each root: projects may share it.
    root : Path
        Folder of the project.

    Attributes
    ----------
    num_read : int
        Files that were read, since they are new or changed.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._path = folder / f"seen-{digest(str(root.resolve()))[:16]}.json"
        self._before = self._recall()
        self._seen: dict[str, list[object]] = {}
        self.num_read = 0

    def of(self, path: Path) -> str:
        """Digest of one file, 32 hex digits.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        place, stamp = str(path.resolve()), _stamp(path)
        known = self._before.get(place) or self._seen.get(place)
        if isinstance(known, list) and len(known) == 2 and known[0] == stamp:
            self._seen[place] = known
            return str(known[1])
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        self.num_read += 1
        if _stamp(path) == stamp and time.time_ns() - path.stat().st_mtime_ns > _SETTLED_S * 1e9:
            self._seen[place] = [stamp, found]
        return found

    def keep(self) -> None:
        """Remember the files that were asked for, in place of what was remembered before."""
        if self._seen == self._before:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"version": _VERSION, "files": self._seen}), encoding="utf-8")
        temporary.replace(self._path)

    def _recall(self) -> Mapping[str, list[object]]:
        try:
            raw = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        found = raw.get("files") if isinstance(raw, dict) and raw.get("version") == _VERSION else None
        return found if isinstance(found, dict) else {}


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]
