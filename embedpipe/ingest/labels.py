"""The labels of a data set as its source gives them: a table of sample_id and one column a label.

It also has rows for unreadable samples: a label for one of them is no label for an unknown id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from embedpipe.errors import DataError
from embedpipe.manifest.files import read_parquet, write_parquet
from embedpipe.params import did_you_mean
from embedpipe.sources.base import Label


def write_labels(path: Path, sample_ids: Sequence[str], labels: Sequence[Mapping[str, Label]]) -> None:
    """Write labels, rows sorted by sample_id; columns that hold integers or numbers alone stay so."""
    order = sorted(range(len(sample_ids)), key=lambda i: sample_ids[i])
    names = dict.fromkeys(name for row in labels for name in row)
    columns = {"sample_id": pa.array([sample_ids[i] for i in order], pa.string())}
    for name in names:
        if name != "sample_id":
            columns[name] = _column([labels[i].get(name) for i in order])
    write_parquet(path, pa.table(columns))


def read_labels(path: Path) -> pa.Table:
    """Read what `write_labels` wrote."""
    return read_parquet(path, "run `embedpipe ingest`")


def column_of(labels: Sequence[Mapping[str, Label]], name: str, where: str) -> list[Label]:
    """One label of each sample.

    Raises
    ------
    DataError
        If no sample has it; with the near name and all names.
    """
    known = list(dict.fromkeys(key for row in labels for key in row))
    if name not in known:
        raise DataError(
            f"{where}: no label column {name!r}{did_you_mean(name, known)}; "
            f"columns: {', '.join(known) if known else 'none'}"
        )
    return [row.get(name) for row in labels]


def text_of(value: Label) -> str | None:
    """A label as the name of a class: 3 and 3.0 are both ``3``; an empty text is a missing label."""
    if value is None:
        return None
    if isinstance(value, float):
        if value != value:
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value).strip()
    return text or None


def _column(values: list[Label]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int}:
        return pa.array(values, pa.int64())
    if kinds and kinds <= {int, float}:
        return pa.array([float(v) if isinstance(v, int | float) else None for v in values], pa.float64())
    if kinds == {list}:
        lists = [[text_of(one) for one in value] if isinstance(value, list) else None for value in values]
        return pa.array(lists, pa.list_(pa.string()))
    return pa.array([None if value is None else str(value) for value in values], pa.string())
