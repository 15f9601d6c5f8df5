"""The log of test openings: appended to, never rewritten, committed with the project.

One JSON object a line: time, task, arm, k_shot, predictions_digest, targets_digest, num_samples, test. A line
without targets_digest counts as an opening, but its figures are not shown: nobody knows what they are of.
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
FIELDS = ("time", "task", "arm", "k_shot", "predictions_digest", "targets_digest", "num_samples", "test")
OPTIONAL = frozenset({"targets_digest"})


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
            records.append({name: record.get(name) if name in OPTIONAL else record[name] for name in FIELDS})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    records: Sequence[Mapping[str, Any]], row: Mapping[str, Any], targets_digest: str | None
) -> Mapping[str, Any] | None:
    """The latest record about the very predictions of a row of the leaderboard and these very targets."""
    if targets_digest is None:
        return None
    names = ("task", "arm", "predictions_digest")
    record: Mapping[str, Any]
    for record in reversed(records):
        same = all(record[name] == row[name] for name in names)
        if (
            same
            and record["targets_digest"] == targets_digest
            and k_code(record["k_shot"]) == k_code(row["k_shot"])
        ):
            return record
    return None


def with_test_figures(
    rows: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    targets_digests: Mapping[str, str | None],
) -> list[dict[str, Any]]:
    """Rows of the leaderboard with the test figures that the log has for them.

    Parameters
    ----------
    targets_digests
        Digest of each task's sealed targets as they are now; without one its rows stay as they are.
    """
    found = []
    for row in rows:
        record = find_record(records, row, targets_digests.get(row["task"])) if row["test"] is None else None
        found.append({**row, "test": record["test"]} if record else dict(row))
    return found


def read_digests(paths: Mapping[str, Path]) -> dict[str, str | None]:
    """Digest of each task's sealed targets, None where none was written."""
    return {
        task: path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None
        for task, path in paths.items()
    }


def num_openings(records: Sequence[Mapping[str, Any]]) -> int:
    """How often the test was opened: arms that were read at one time count once."""
    return len({record["time"] for record in records})
