"""Answers as one table, an input a row: CSV or Parquet.

Columns: `sample_id`; for each task its answer, under the task's own name, and `p(task=class)` for each class or label;
`error`, empty where there is an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from embedpipe.errors import ConfigError
from embedpipe.manifest.files import write_bytes, write_parquet
from embedpipe.serve.predict import Answer, Answers

SUFFIXES = (".csv", ".parquet")


def answers_table(names: Sequence[str], answers: Answers) -> pa.Table:
    """One row an input, in order; nulls where it has an error."""
    missing = np.array([error is not None for error in answers.errors], bool)
    columns: dict[str, pa.Array] = {"sample_id": pa.array(list(names), pa.string())}
    for answer in answers.answers:
        task, scores = answer.arm.task, answer.scores
        outputs = answer.arm.about.get("outputs", ())
        if not outputs:
            columns[task] = _said(answer, missing)
        for k, name in enumerate(outputs):
            columns[f"{task}.{name}"] = pa.array(scores[:, k], pa.float32(), mask=missing)
        for k, name in enumerate(answer.arm.classes):
            columns[f"p({task}={name})"] = pa.array(scores[:, k], pa.float32(), mask=missing)
    columns["error"] = pa.array(answers.errors, pa.string())
    return pa.table(columns)


def _said(answer: Answer, missing: np.ndarray) -> pa.Array:
    scores, classes = answer.scores, answer.arm.classes
    if answer.arm.kind == "number":
        return pa.array(scores[:, 0], pa.float32(), mask=missing)
    if answer.arm.kind == "multilabel":
        said = ["|".join(name for name, p in zip(classes, row, strict=True) if p > 0.5) for row in scores]
    else:
        said = [classes[place] for place in np.where(missing[:, None], 0.0, scores).argmax(axis=1)]
    return pa.array([None if none else one for one, none in zip(said, missing, strict=True)], pa.string())


def check_out(path: Path) -> None:
    """Refuse what cannot be written, before anything is computed.

    Raises
    ------
    ConfigError
        If the suffix is neither .csv nor .parquet, or a folder stands there.
    """
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        found = "a folder" if path.is_dir() else path.suffix or "none"
        raise ConfigError(
            f"--out {path}: expected a file that ends in {' or '.join(SUFFIXES)}, found {found}"
        )


def write_table(table: pa.Table, out: Path | TextIO) -> None:
    """Write the table to a file by its suffix, or as CSV to a stream."""
    if isinstance(out, Path):
        if out.suffix.lower() == ".parquet":
            write_parquet(out, table)
        else:
            write_bytes(out, _csv(table))
    else:
        out.write(_csv(table).decode())


def _csv(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(quoting_style="needed"))
    content: bytes = sink.getvalue().to_pybytes()
    return content
