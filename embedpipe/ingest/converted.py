"""Labels as they are written, turned into targets of a kind: classes, labels, numbers. Masks have their own module.

Reads what `embedpipe.ingest.raw` joined; says in one sentence what is of another kind than was asked for.
"""

# N samples, K labels, M numbers

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from embedpipe.errors import DataError
from embedpipe.ingest.labels import text_of
from embedpipe.ingest.raw import RawLabels
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.sources.base import Label

_TRUE, _FALSE = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})


@dataclass(frozen=True)
class Converted:
    """Targets of the samples of a manifest, in its order.

    Attributes
    ----------
    spec : TargetSpec
    labels : list, length N
        As `Targets.from_rows` takes them; None where there is none.
    what, found_in : str
        The columns or the folder, and where they were found, for messages.
    notes : list of str
    present : list of sets of int, length N
        Codes that occur in each mask; empty for other kinds.
    """

    spec: TargetSpec
    labels: Sequence[Any]
    what: str
    found_in: str
    notes: list[str] = field(default_factory=list)
    present: Sequence[frozenset[int]] = ()


def converted(where: str, options: TaskOptions, sample_ids: Sequence[str], raw: RawLabels) -> Converted:
    """Targets of any kind but dense.

    Raises
    ------
    DataError
        If values are not of the kind; names the column, the sample and what was found.
    """
    if options.kind == "classes":
        names = _class_names(where, sample_ids, raw)
        classes = sorted({name for name in names if name is not None}, key=natural)
        return Converted(TargetSpec("classes", tuple(classes)), names, raw.words, raw.found_in)
    if options.kind == "number":
        return _numbers(where, options, sample_ids, raw)
    named = options.labels if options.table is None else options.column
    if isinstance(named, list):
        return _columns_of_labels(where, sample_ids, raw)
    return _lists_of_labels(where, options, sample_ids, raw)


def natural(name: str) -> tuple[int, float, str]:
    """Whole numbers by value, before all other names by code point."""
    return (0, int(name), name) if name.lstrip("-").isdecimal() else (1, 0, name)


def _class_names(where: str, sample_ids: Sequence[str], raw: RawLabels) -> list[str | None]:
    for sample_id, value in zip(sample_ids, raw.columns[0], strict=True):
        if isinstance(value, list):
            raise DataError(
                f"{where}: expected one class a sample in {raw.words}, found the list {value!r} for {sample_id!r}; "
                f"set {where}.kind: multilabel"
            )
    return [text_of(value) for value in raw.columns[0]]


def _numbers(where: str, options: TaskOptions, sample_ids: Sequence[str], raw: RawLabels) -> Converted:
    names, columns = raw.names, raw.columns
    if len(columns) == 1 and any(isinstance(value, list) for value in columns[0]):
        names, columns = _spread(where, sample_ids, raw)
    parsed = [_floats(where, name, sample_ids, column) for name, column in zip(names, columns, strict=True)]
    if options.box is not None and len(parsed) != 4:
        raise DataError(
            f"{where}.box: expected four numbers a sample, found {len(parsed)} in {raw.words}; list four columns"
        )
    notes: list[str] = []
    labels: list[Any] = parsed[0]
    outputs: tuple[str, ...] = ()
    if len(parsed) > 1:
        outputs = names
        labels = [None if None in row else list(row) for row in zip(*parsed, strict=True)]
        partly = sum(None in row and row != (None,) * len(row) for row in zip(*parsed, strict=True))
        if partly:
            who = "1 sample has" if partly == 1 else f"{partly:,} samples have"
            notes.append(f"{who} some of the {len(parsed)} numbers alone: missing")
    spec = TargetSpec("number", outputs=outputs, box=options.box)
    return Converted(spec, labels, raw.words, raw.found_in, notes)


def _spread(
    where: str, sample_ids: Sequence[str], raw: RawLabels
) -> tuple[tuple[str, ...], tuple[list[Label], ...]]:
    """The numbers of a list column as columns."""
    (name,), (column,) = raw.names, raw.columns
    lengths: dict[int, str] = {}
    for sample_id, value in zip(sample_ids, column, strict=True):
        if isinstance(value, list):
            lengths.setdefault(len(value), sample_id)
        elif value is not None:
            raise DataError(
                f"{where}: expected lists of numbers in {raw.words}, found {value!r} for {sample_id!r}"
            )
    if len(lengths) > 1:
        (one, first), (other, second) = list(lengths.items())[:2]
        raise DataError(
            f"{where}: expected lists of one length in {raw.words}, found {one} numbers for {first!r} and {other} for "
            f"{second!r}"
        )
    num = next(iter(lengths))
    return tuple(f"{name}[{i}]" for i in range(num)), tuple(
        [value[i] if isinstance(value, list) else None for value in column] for i in range(num)
    )


def _floats(where: str, column: str, sample_ids: Sequence[str], raw: Sequence[Label]) -> list[float | None]:
    numbers: list[float | None] = []
    wrong: list[str] = []
    for sample_id, value in zip(sample_ids, raw, strict=True):
        if text_of(value) is None:
            numbers.append(None)
            continue
        try:
            number = float(value)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            number = math.nan
        if not math.isfinite(number):
            wrong.append(f"{value!r} for {sample_id!r}")
        numbers.append(number)
    if wrong:
        raise DataError(
            f"{where}: expected finite numbers in column {column!r}, found {len(wrong):,} other values "
            f"({', '.join(wrong[:3])}); correct them, or set {where}.kind: classes"
        )
    return numbers


def _columns_of_labels(where: str, sample_ids: Sequence[str], raw: RawLabels) -> Converted:
    parsed = []
    for name, column in zip(raw.names, raw.columns, strict=True):
        truths: list[bool | None] = []
        for sample_id, value in zip(sample_ids, column, strict=True):
            text = text_of(value)
            known = text is None or text.lower() in _TRUE | _FALSE
            if not known:
                raise DataError(
                    f"{where}: expected 0 and 1 (or true and false, or nothing) in column {name!r}, found {value!r} "
                    f"for {sample_id!r}; correct it, or name a list column"
                )
            truths.append(None if text is None else text.lower() in _TRUE)
        parsed.append(truths)
    rows = [list(row) for row in zip(*parsed, strict=True)]
    labels = [None if all(one is None for one in row) else row for row in rows]
    unknown = sum(one is None for row in labels if row is not None for one in row)
    notes = [f"{unknown:,} labels of labelled samples are unknown and left out"] if unknown else []
    return Converted(TargetSpec("multilabel", raw.names), labels, raw.words, raw.found_in, notes)


def _lists_of_labels(
    where: str, options: TaskOptions, sample_ids: Sequence[str], raw: RawLabels
) -> Converted:
    sets: list[set[str] | None] = []
    for sample_id, value in zip(sample_ids, raw.columns[0], strict=True):
        if isinstance(value, list):
            sets.append({name for one in value if (name := text_of(one)) is not None})
        elif text_of(value) is None:
            sets.append(None)
        elif options.separator is not None and isinstance(value, str):
            sets.append({name for one in value.split(options.separator) if (name := one.strip())})
        else:
            raise DataError(
                f"{where}: expected lists of labels in {raw.words} of {raw.found_in}, found {value!r} for "
                f"{sample_id!r}; give {where}.separator if labels stand in one text, or write columns of 0 and 1 as a "
                "list"
            )
    classes = tuple(sorted({name for one in sets if one is not None for name in one}, key=natural))
    if not classes and any(one is not None for one in sets):
        raise DataError(f"{where}: expected labels in {raw.words} of {raw.found_in}, found empty lists alone")
    labels = [None if one is None else [name in one for name in classes] for one in sets]
    return Converted(TargetSpec("multilabel", classes), labels, raw.words, raw.found_in)
