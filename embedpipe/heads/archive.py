"""skops archives whose bytes depend on their content alone.

skops names arrays and shared objects by their address in memory and dates each entry; here both are
replaced, so that the same estimator gives the same file in every process. Knows nothing of heads.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import skops.io

from embedpipe.errors import ConfigError, WeightsError

SCHEMA = "schema.json"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip entry can carry."""


def dump(estimator: Any, name: str) -> bytes:
    """Archive `estimator`.

    Raises
    ------
    ConfigError
        If it holds a type that could not be read back without trusting it; `name` says what it is.
    """
    data: bytes = skops.io.dumps(estimator)
    untrusted = skops.io.get_untrusted_types(data=data)
    if untrusted:
        raise ConfigError(
            f"{name}: holds {', '.join(untrusted)}, which cannot be read back without trusting the file; "
            "choose other parameters or another family"
        )
    return canonical(data)


def load(data: bytes) -> Any:
    """Read an archive; types that skops does not know to be harmless are refused.

    Raises
    ------
    WeightsError
        If the archive is damaged or holds such types.
    """
    try:
        return skops.io.loads(data, trusted=[])
    except (
        skops.io.exceptions.UntrustedTypesFoundException,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
    ) as error:
        raise WeightsError(f"head.skops: cannot be read: {error}; train the head again") from error


def canonical(data: bytes) -> bytes:
    """The same archive with entries in order, without dates, and objects numbered in order of appearance."""
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        entries = {name: found.read(name) for name in found.namelist()}
    schema = json.loads(entries.pop(SCHEMA))
    numbers: dict[Any, int] = {}
    files: dict[str, str] = {}
    _renumber(schema, numbers, files)
    renamed = {files[name]: content for name, content in entries.items()}
    renamed[SCHEMA] = json.dumps(schema, separators=(",", ":"), ensure_ascii=False).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as written:
        for name in sorted(renamed):
            # stored, not deflated: another zlib would compress to other bytes
            written.writestr(zipfile.ZipInfo(name, date_time=EPOCH), renamed[name])
    return out.getvalue()


def _renumber(node: Any, numbers: dict[Any, int], files: dict[str, str]) -> None:
    """Replace ids and file names below `node`, in place; `numbers` and `files` map old to new."""
    if isinstance(node, list):
        for item in node:
            _renumber(item, numbers, files)
    if not isinstance(node, dict):
        return
    if "__id__" in node:
        node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
    if isinstance(node.get("file"), str) and "__loader__" in node:
        old = node["file"]
        suffix = old.rpartition(".")[2]
        node["file"] = files.setdefault(old, f"{len(files):06d}.{suffix}")
    for value in node.values():
        _renumber(value, numbers, files)
