"""The labels of a task as they are written: one or several columns of the data set, or of a table of their own.

Joins them to the samples by id, and reads nothing into them: what kind of target they are is not known here.
"""

# N samples

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedpipe.errors import DataError
from embedpipe.ingest.labels import read_labels, text_of
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.table import Manifest
from embedpipe.params import did_you_mean
from embedpipe.sources.base import Label
from embedpipe.sources.places import locate, parent_of
from embedpipe.sources.rows import Rows, read_rows

ID_COLUMNS = ("sample_id", "id")


@dataclass(frozen=True)
class RawLabels:
    """Labels of the samples of a manifest, in its order.

    Attributes
    ----------
    names : tuple of str
        Of the columns.
    columns : tuple of lists, length N
        Values of each; None where there is no row.
    found_in : str
        Where they were found, for messages.
    folder : str or None
        Folder or address of the table, where they lie in one of their own.
    notes : list of str
    """

    names: tuple[str, ...]
    columns: tuple[list[Label], ...]
    found_in: str
    folder: str | None
    notes: list[str]

    @property
    def words(self) -> str:
        """``column 'x'`` or ``columns 'x', 'y'``, for messages."""
        return f"column{'s' * (len(self.names) > 1)} {', '.join(map(repr, self.names))}"


def raw_labels(
    where: str, task: str, options: TaskOptions, *, manifest: Manifest, labels_path: Path, root: Path
) -> RawLabels:
    """Read the columns that a task names.

    Raises
    ------
    DataError
        If a column is absent, or labels name unknown ids.
    """
    own = read_labels(labels_path)
    notes: list[str] = []
    by_id: dict[str, tuple[Label, ...]]
    folder = None
    if options.table is not None:
        rows = read_rows(locate(root, options.table))
        known_ids = set(own["sample_id"].to_pylist())
        names, by_id = _from_table(where, task, options, rows, known_ids, notes)
        found_in, folder = rows.path, parent_of(rows.path)
    else:
        names, found_in = options.label_columns, f"data set {options.on!r}"
        columns = [name for name in own.column_names if name != "sample_id"]
        for name in names:
            if name not in columns:
                raise DataError(
                    f"{where}.labels: no column {name!r}{did_you_mean(name, columns)} in {found_in}; "
                    f"columns: {', '.join(columns) or 'none'}"
                )
        values = zip(*(own[name].to_pylist() for name in names), strict=True)
        by_id = dict(zip(own["sample_id"].to_pylist(), values, strict=True))
    nothing = (None,) * len(names)
    found = [by_id.get(sample_id, nothing) for sample_id in manifest.sample_ids]
    return RawLabels(
        names, tuple([row[i] for row in found] for i in range(len(names))), found_in, folder, notes
    )


def raw_column(
    where: str, options: TaskOptions, name: str, manifest: Manifest, labels_path: Path, root: Path
) -> tuple[list[Label], str]:
    """One column that lies beside the labels, in the order of the manifest; and where it was found.

    Raises
    ------
    DataError
        If it is absent, or says two things of one id; `where` is the key that names it.
    """
    if options.table is not None:
        rows = read_rows(locate(root, options.table))
        ids = [text_of(value) or "" for value in rows.column(_id_column(where, options, rows), where)]
        values, found_in = rows.column(name, where), rows.path
    else:
        own = read_labels(labels_path)
        found_in = f"data set {options.on!r}"
        columns = [one for one in own.column_names if one != "sample_id"]
        if name not in columns:
            raise DataError(
                f"{where}: no column {name!r}{did_you_mean(name, columns)} in {found_in}; "
                f"columns: {', '.join(columns) or 'none'}"
            )
        ids, values = own["sample_id"].to_pylist(), own[name].to_pylist()
    by_id: dict[str, Label] = {}
    for sample_id, value in zip(ids, values, strict=True):
        if sample_id in by_id and by_id[sample_id] != value:
            raise DataError(
                f"{found_in}: expected one {name!r} an id, found {by_id[sample_id]!r} and {value!r} for {sample_id!r}"
            )
        by_id[sample_id] = value
    return [by_id.get(sample_id) for sample_id in manifest.sample_ids], found_in


def _id_column(where: str, options: TaskOptions, rows: Rows) -> str:
    found = options.id or next((name for name in ID_COLUMNS if name in rows.names), None)
    if found is None:
        raise DataError(
            f"{rows.path}: expected a column {' or '.join(ID_COLUMNS)} with sample ids, found columns "
            f"{', '.join(rows.names)}; name it with {where}.id"
        )
    return found


def _from_table(
    where: str, task: str, options: TaskOptions, rows: Rows, known_ids: set[str], notes: list[str]
) -> tuple[tuple[str, ...], dict[str, tuple[Label, ...]]]:
    """Columns of a table of their own, and their values by id."""
    id_column = _id_column(where, options, rows)
    ids = [text_of(value) or "" for value in rows.column(id_column, f"{where}.id")]
    others = [name for name in rows.names if name not in (id_column, options.weight)]
    names = options.table_columns
    if names is None:
        column = task if task in others else others[0] if len(others) == 1 else None
        if column is None:
            raise DataError(
                f"{rows.path}: expected a column {task!r} (the task's name) or one column beside {id_column!r}, "
                f"found {', '.join(others) or 'none'}; name it with {where}.column"
            )
        names = (column,)
    columns = [rows.column(name, f"{where}.column") for name in names]

    by_id: dict[str, tuple[Label, ...]] = {}
    for sample_id, *values in zip(ids, *columns, strict=True):
        if sample_id in by_id and list(map(text_of, by_id[sample_id])) != list(map(text_of, values)):
            before, now = (one[0] if len(names) == 1 else tuple(one) for one in (by_id[sample_id], values))
            raise DataError(
                f"{rows.path}: expected one label an id, found {before!r} and {now!r} for {sample_id!r}"
            )
        by_id[sample_id] = tuple(values)
    _refuse_unknown(where, options, rows, id_column, list(by_id), known_ids, notes)
    return names, by_id


def _refuse_unknown(
    where: str,
    options: TaskOptions,
    rows: Rows,
    id_column: str,
    ids: Sequence[str],
    known_ids: set[str],
    notes: list[str],
) -> None:
    unknown = [sample_id for sample_id in ids if sample_id not in known_ids]
    if unknown and len(unknown) == len(ids):
        example = min(known_ids) if known_ids else "none"
        raise DataError(
            f"{rows.path}: expected ids of data set {options.on!r} (such as {example!r}) in column "
            f"{id_column!r}, "
            f"found none of them, but {', '.join(map(repr, unknown[:3]))}"
        )
    if unknown:
        named = ", ".join(map(repr, unknown[:3])) + (", …" if len(unknown) > 3 else "")
        said = f"{len(unknown):,} of {len(ids):,} labels are for ids that data set {options.on!r} lacks ({named})"
        if options.unknown_ids == "refuse":
            raise DataError(f"{rows.path}: {said}; correct the ids, or set {where}.unknown_ids: ignore")
        notes.append(f"ignored: {said}")
