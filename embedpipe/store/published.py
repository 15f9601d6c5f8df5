"""What `store.json` in a published store says: spec, taps with their holes, every file with its checksums."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.errors import StoreError
from embedpipe.spec import FORMAT_VERSION, BackboneSpec, canonical_json, digest
from embedpipe.store.disk import FileRecord
from embedpipe.store.holes import Holes
from embedpipe.store.layout import TapState

NAME = "store.json"


@dataclass(frozen=True)
class Contents:
    """Everything there is to know of a store without opening an array.

    Attributes
    ----------
    taps : dict of name -> TapState
    files : dict of path in the store -> FileRecord
        Every file but this one.
    """

    spec: BackboneSpec
    num_rows: int
    taps: dict[str, TapState]
    files: dict[str, FileRecord]

    def to_bytes(self) -> bytes:
        """Byte-deterministic JSON, with a checksum of its own."""
        body: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "spec": self.spec.to_dict(),
            "fingerprint": self.spec.fingerprint,
            "num_rows": self.num_rows,
            "taps": {
                name: {**tap.to_dict(), "holes": tap.holes.to_json()} for name, tap in self.taps.items()
            },
            "files": {path: record.to_dict() for path, record in self.files.items()},
        }
        body["checksum"] = digest(body)
        return (json.dumps(json.loads(canonical_json(body)), indent=1, ensure_ascii=False) + "\n").encode()


def read_contents(folder: Path) -> Contents:
    """Read and check `store.json`.

    Raises
    ------
    StoreError
        If it is missing, damaged, or of another format version.
    """
    try:
        data = (folder / NAME).read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"{folder}: expected a feature store, found no {NAME}; run extract") from error
    return parse_contents(data, folder / NAME)


def parse_contents(data: bytes, path: Path | str) -> Contents:
    """`read_contents` of bytes that were read elsewhere; `path` is named in errors."""
    try:
        raw = json.loads(data)
        version = raw["format_version"]
        if version == FORMAT_VERSION:
            contents = Contents(
                BackboneSpec.from_dict(raw["spec"]),
                raw["num_rows"],
                {
                    name: TapState.from_dict(tap, Holes.from_json(tap["holes"]))
                    for name, tap in raw["taps"].items()
                },
                {name: FileRecord.from_dict(record) for name, record in raw["files"].items()},
            )
            if contents.to_bytes() != data:
                raise ValueError("its checksum differs")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged: {error}; publish the store again: run extract") from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path}: expected store format {FORMAT_VERSION}, found {version}; use the version of embedpipe "
            "that wrote it, or run extract again"
        )
    return contents
