"""What ingest remembers of a data set between runs: the key of each file that has not changed.

A small Parquet in the working folder. It only saves reading: lost or damaged, it is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embedpipe.errors import DataError
from embedpipe.manifest.files import read_parquet, write_parquet
from embedpipe.manifest.keys import KEY_NBYTES
from embedpipe.sources.base import Scanned, Seen
from embedpipe.spec import digest

_VERSION = b"3"
_SCHEMA = pa.schema(
    [
        pa.field("locator", pa.string()),
        pa.field("stamp", pa.string()),
        pa.field("key", pa.binary(KEY_NBYTES)),
        pa.field("reason", pa.string()),
        pa.field("extra", pa.string()),
    ]
)


@dataclass(frozen=True)
class Memory:
    """What one project remembers of one data set.

    Projects may share the working folder, so each has a file of its own, found by the path of its root, or by the
    folder itself where that was moved.

    Attributes
    ----------
    folder : Path
        Holds a file for each root.
    source : str
        Canonical JSON of the source's options and of what it is identified by: what another source saw is no use.
    root : Path
        The folder of params.yaml.
    """

    folder: Path
    source: str
    root: Path

    @property
    def path(self) -> Path:
        return self.folder / f"seen-{digest(str(self.root.resolve()))[:16]}.parquet"

    def recall(self) -> dict[str, Seen]:
        """What an earlier run saw, by locator; nothing if it saw another source or root."""
        if self.path.is_file():
            return self._read(self.path, check_root=False)
        for path in sorted(self.folder.glob("seen-*.parquet")):
            if found := self._read(path, check_root=True):
                return found
        return {}

    def is_whole(self) -> bool:
        """Whether what is remembered is all that a finished run saw."""
        try:
            about = pq.read_schema(self.path).metadata or {}
        except (OSError, pa.ArrowException):
            return False
        return about.get(b"whole") == b"yes" and about.get(b"source") == self.source.encode()

    def keep(self, seen: Mapping[str, Seen], *, whole: bool = True) -> None:
        """Keep what is known now, by locator, in place of what was known before.

        Parameters
        ----------
        whole
            False where a run was interrupted, so that there may be more.
        """
        rows = [(at, item.stamp, item.key, item.reason, item.extra) for at, item in seen.items()]
        arrays = [pa.array([row[i] for row in rows], type=field.type) for i, field in enumerate(_SCHEMA)]
        about = {b"version": _VERSION, b"source": self.source.encode(), b"root": _identity(self.root)}
        about[b"whole"] = b"yes" if whole else b"no"
        write_parquet(self.path, pa.Table.from_arrays(arrays, schema=_SCHEMA.with_metadata(about)))

    def _read(self, path: Path, *, check_root: bool) -> dict[str, Seen]:
        try:
            table = read_parquet(path, "ingest makes it")
            about = table.schema.metadata or {}
            if about.get(b"version") != _VERSION or about.get(b"source") != self.source.encode():
                return {}
            if check_root and about.get(b"root") != _identity(self.root):
                return {}
            columns = [table[name].to_pylist() for name in _SCHEMA.names]
        except (DataError, OSError, KeyError, pa.ArrowException):
            return {}
        return {locator: Seen(*rest) for locator, *rest in zip(*columns, strict=True)}


def _identity(root: Path) -> bytes:
    """Device and inode of a folder: it keeps them when it is moved, and no other has them."""
    stat = root.stat()
    return f"{stat.st_dev}:{stat.st_ino}".encode()


def seen_now(samples: Iterable[Scanned]) -> dict[str, Seen]:
    """What is worth remembering of a scan."""
    return {s.locator: Seen(s.stamp, s.key, s.reason, s.extra) for s in samples if s.stamp is not None}
