"""Read and write the JSON files that arms are judged from: equal values give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedpipe.errors import DataError
from embedpipe.manifest.files import write_bytes


def write_json(path: Path, value: Any) -> None:
    """Write atomically, keys in the order given; NaN is refused, since JSON has none."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, hint: str, *, keys: Sequence[str] = ()) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    hint
        What makes the file; the error ends with it.
    keys
        What a mapping must hold at least: the file's own, or each one's in its list.

    Raises
    ------
    DataError
        If the file is missing, is no JSON, or lacks a key.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; {hint}") from error
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found something else ({error}); {hint}") from error
    for one in found if isinstance(found, list) else [found]:
        missing = [key for key in keys if not isinstance(one, dict) or key not in one]
        if missing:
            raise DataError(f"{path}: expected {', '.join(keys)}, found no {missing[0]}; {hint}")
    return found
