"""The log of test openings: appended to, never rewritten, committed with the project.

One JSON object a line: time, task, arm, k_shot, predictions_digest, num_samples, test.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedpipe.errors import DataError
from embedpipe.evaluate.arms import k_code

ABOUT = "about"
"""Key of a line that says what the file is: an empty file would have DVC warn at each run."""
FIELDS = ("time", "task", "arm", "k_shot", "predictions_digest", "num_samples", "test")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every record, oldest first; none where there is no log yet.

    Raises
    ------
    DataError
        If a line is no record; names the line.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if set(record) == {ABOUT}:
                continue
            records.append({name: record[name] for name in FIELDS})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: line {number}: expected one JSON object with {', '.join(FIELDS)}, "
                f"found {line[:60]!r}; mend the line, or restore the file with git"
            ) from error
    return records


def append_log(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append one line a record and wait until they are on disk."""
    lines = "".join(
        json.dumps({name: one[name] for name in FIELDS}, allow_nan=False) + "\n" for one in records
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a writer was cut off: its half line must not swallow ours
                lines = "\n" + lines
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def find_record(
    records: Sequence[Mapping[str, Any]], task: str, arm: str, k_shot: int, digest: str
) -> Mapping[str, Any] | None:
    """The latest record about these very predictions."""
    record: Mapping[str, Any]
    for record in reversed(records):
        same = (record["task"], record["arm"], record["predictions_digest"]) == (task, arm, digest)
        if same and k_code(record["k_shot"]) == k_shot:
            return record
    return None


def num_openings(records: Sequence[Mapping[str, Any]]) -> int:
    """How often the test was opened: arms that were read at one time count once."""
    return len({record["time"] for record in records})
