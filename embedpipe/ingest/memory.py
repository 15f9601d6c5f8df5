"""What ingest remembers of a data set between runs: the key of each file that has not changed.

A small Parquet in the working folder. It only saves reading: lost or damaged, it is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from embedpipe.errors import DataError
from embedpipe.manifest.files import read_parquet, write_parquet
from embedpipe.manifest.keys import KEY_NBYTES
from embedpipe.sources.base import Scanned, Seen

_VERSION = b"1"
_SCHEMA = pa.schema(
    [
        pa.field("locator", pa.string()),
        pa.field("stamp", pa.string()),
        pa.field("key", pa.binary(KEY_NBYTES)),
        pa.field("reason", pa.string()),
    ]
)


def remembered(path: Path, source: str) -> dict[str, Seen]:
    """What an earlier run saw, by locator; nothing if it saw another source.

    Parameters
    ----------
    source : str
        Canonical JSON of the source's options and its absolute root.
    """
    try:
        table = read_parquet(path, "ingest makes it")
        metadata = table.schema.metadata or {}
        if metadata.get(b"version") != _VERSION or metadata.get(b"source") != source.encode():
            return {}
        columns = [table[name].to_pylist() for name in _SCHEMA.names]
    except (DataError, OSError, KeyError, pa.ArrowException):
        return {}
    return {locator: Seen(stamp, key, reason) for locator, stamp, key, reason in zip(*columns, strict=True)}


def remember(path: Path, source: str, seen: Mapping[str, Seen]) -> None:
    """Keep what is known now, by locator, in place of what was known before."""
    rows = [(locator, item.stamp, item.key, item.reason) for locator, item in seen.items()]
    arrays = [pa.array([row[i] for row in rows], type=field.type) for i, field in enumerate(_SCHEMA)]
    schema = _SCHEMA.with_metadata({b"version": _VERSION, b"source": source.encode()})
    write_parquet(path, pa.Table.from_arrays(arrays, schema=schema))


def seen_now(samples: Iterable[Scanned]) -> dict[str, Seen]:
    """What is worth remembering of a scan."""
    return {s.locator: Seen(s.stamp, s.key, s.reason) for s in samples if s.stamp is not None}
