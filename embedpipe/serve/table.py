"""Answers as one table, an input a row: CSV or Parquet.

Columns: `sample_id`; for each task its answer, under the task's own name, and `p(task=class)` for each class or label
(`task.output` where the answer is several numbers); `error`, empty where there is an answer.
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
        columns |= _columns(answer, missing)
    columns["error"] = pa.array(answers.errors, pa.string())
    return pa.table(columns)


def _columns(answer: Answer, missing: np.ndarray) -> dict[str, pa.Array]:
    task, target = answer.arm.task, answer.arm.target
    numbers = [pa.array(column, pa.float32(), mask=missing) for column in answer.scores.T]
    if target.kind == "number":
        names = [f"{task}.{output}" for output in target.outputs] or [task]
        return dict(zip(names, numbers, strict=True))
    if target.kind == "multilabel":
        said = [
            "|".join(name for name, p in zip(target.classes, row, strict=True) if p > 0.5)
            for row in answer.scores
        ]
    else:
        winners = np.where(missing[:, None], 0.0, answer.scores).argmax(axis=1)
        said = [target.classes[place] for place in winners]
    shown = [None if none else one for one, none in zip(said, missing, strict=True)]
    probabilities = zip((f"p({task}={name})" for name in target.classes), numbers, strict=True)
    return {task: pa.array(shown, pa.string()), **dict(probabilities)}


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
