"""Make the targets of one task: join labels to samples, check them, and seal those of the test.

Reads a manifest and labels (of the data set, or a table of their own); writes the open
targets and those of the test, in two files. Knows nothing of features.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.errors import DataError
from embedpipe.ingest.labels import read_labels, text_of
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.files import write_bytes
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets
from embedpipe.params import did_you_mean
from embedpipe.sources.base import Label
from embedpipe.sources.places import locate
from embedpipe.sources.rows import Rows, is_table, read_rows

ID_COLUMNS = ("sample_id", "id")
_OPEN_SPLITS = ("train", "val", "excluded")


@dataclass(frozen=True)
class TargetsSummary:
    """What was made, for the terminal and for `--json`.

    Attributes
    ----------
    task, kind : str
    classes : list of str
        Empty for numbers.
    num : dict of str to int
        Labelled samples by split, and ``missing``: samples without a label.
    notes : list of str
        What the reader should know, one sentence each.
    """

    task: str
    kind: str
    classes: list[str]
    num: dict[str, int]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def make_targets(
    task: str,
    options: TaskOptions,
    *,
    manifest: Manifest,
    labels_path: Path,
    root: Path,
    open_path: Path,
    sealed_path: Path,
    digest_path: Path,
) -> TargetsSummary:
    """Make the targets of one task.

    Parameters
    ----------
    task : str
        Its name in params.yaml.
    manifest : Manifest
        Of the data set that the task is on.
    labels_path : Path
        The label table that ingest wrote for that data set.
    root : Path
        The folder of params.yaml, where a relative path of labels starts.
    open_path, sealed_path : Path
        Get the targets of train, val and excluded samples, and those of the test.
    digest_path : Path
        Gets the digest of the sealed targets, by which a comparison knows a test figure that was computed
        from others, and need not open them.

    Raises
    ------
    DataError
        If the column is absent, too many labels are missing, labels name unknown ids, or what is left
        cannot be learnt from: one class only, no labels in train or in val.
    """
    where = f"tasks.{task}"
    if "target" not in manifest.domains:
        raise DataError(
            f"{where}.on: expected a data set of domain target, found {options.on!r} of domain source, which no "
            "backbone embeds"
        )
    own = read_labels(labels_path)
    known_ids = set(own["sample_id"].to_pylist())
    notes: list[str] = []
    if is_table(options.labels):
        rows = read_rows(locate(root, options.labels))
        by_id, column, found_in = _from_table(where, task, options, rows, known_ids, notes)
    else:
        column, found_in = options.labels, f"data set {options.on!r}"
        columns = [name for name in own.column_names if name != "sample_id"]
        if column not in columns:
            raise DataError(
                f"{where}.labels: no column {column!r}{did_you_mean(column, columns)} in {found_in}; "
                f"columns: {', '.join(columns) or 'none'}"
            )
        by_id = dict(zip(own["sample_id"].to_pylist(), own[column].to_pylist(), strict=True))

    sample_ids, splits = list(manifest.sample_ids), list(manifest.splits)
    raw = [by_id.get(sample_id) for sample_id in sample_ids]
    names = [text_of(value) for value in raw]
    labels: Sequence[str | float | None] = names
    classes: list[str] = []
    if options.kind == "number":
        labels = _numbers(where, column, sample_ids, raw)
    else:
        classes = sorted({name for name in names if name is not None}, key=_natural)
    _refuse_missing(where, options, column, found_in, labels)
    if options.kind == "number":
        _refuse_constant(where, column, labels)
    else:
        notes += _check_classes(where, options.on, column, classes, labels, splits)
    num = _count(labels, splits)
    notes += _check_splits(where, manifest, num)

    targets = Targets.from_rows(
        task, options.kind, classes, sample_ids=sample_ids, splits=splits, labels=labels
    )
    targets.where(split=_OPEN_SPLITS).write(open_path)
    sealed = targets.where(split="test")
    sealed.write(sealed_path)
    write_bytes(digest_path, f"{sealed.digest}\n".encode())
    return TargetsSummary(task, options.kind, classes, num, notes)


def _from_table(
    where: str, task: str, options: TaskOptions, rows: Rows, known_ids: set[str], notes: list[str]
) -> tuple[dict[str, Label], str, str]:
    """Labels by id from a table of their own; its column; where it was found."""
    id_column = options.id or next((name for name in ID_COLUMNS if name in rows.names), None)
    if id_column is None:
        raise DataError(
            f"{rows.path}: expected a column {' or '.join(ID_COLUMNS)} with sample ids, found columns "
            f"{', '.join(rows.names)}; name it with {where}.id"
        )
    ids = [text_of(value) or "" for value in rows.column(id_column, f"{where}.id")]
    others = [name for name in rows.names if name != id_column]
    column = options.column or (task if task in others else others[0] if len(others) == 1 else None)
    if column is None:
        raise DataError(
            f"{rows.path}: expected a column {task!r} (the task's name) or one column beside {id_column!r}, "
            f"found {', '.join(others) or 'none'}; name it with {where}.column"
        )
    values = rows.column(column, f"{where}.column")

    by_id: dict[str, Label] = {}
    for sample_id, value in zip(ids, values, strict=True):
        if sample_id in by_id and text_of(by_id[sample_id]) != text_of(value):
            raise DataError(
                f"{rows.path}: expected one label an id, found {by_id[sample_id]!r} and {value!r} for "
                f"{sample_id!r}"
            )
        by_id[sample_id] = value
    unknown = [sample_id for sample_id in by_id if sample_id not in known_ids]
    if unknown and len(unknown) == len(by_id):
        example = min(known_ids) if known_ids else "none"
        raise DataError(
            f"{rows.path}: expected ids of data set {options.on!r} (such as {example!r}) in column "
            f"{id_column!r}, "
            f"found none of them, but {', '.join(map(repr, unknown[:3]))}"
        )
    if unknown:
        named = ", ".join(map(repr, unknown[:3])) + (", …" if len(unknown) > 3 else "")
        said = (
            f"{len(unknown):,} of {len(by_id):,} labels are for ids that data set {options.on!r} "
            f"lacks ({named})"
        )
        if options.unknown_ids == "refuse":
            raise DataError(f"{rows.path}: {said}; correct the ids, or set {where}.unknown_ids: ignore")
        notes.append(f"ignored: {said}")
    return by_id, column, str(rows.path)


def _numbers(where: str, column: str, sample_ids: Sequence[str], raw: Sequence[Label]) -> list[float | None]:
    numbers: list[float | None] = []
    wrong: list[str] = []
    for sample_id, value in zip(sample_ids, raw, strict=True):
        if text_of(value) is None:
            numbers.append(None)
            continue
        try:
            number = float(value)  # type: ignore[arg-type]
        except ValueError:
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


def _refuse_missing(
    where: str, options: TaskOptions, column: str, found_in: str, labels: Sequence[object]
) -> None:
    num_missing = sum(label is None for label in labels)
    if num_missing and num_missing == len(labels):
        raise DataError(
            f"{where}: expected labels in column {column!r} of {found_in}, found none for any of "
            f"{len(labels):,} samples; check the column and its ids"
        )
    if num_missing > options.max_missing * len(labels):
        raise DataError(
            f"{where}: expected labels for at least {1 - options.max_missing:.0%} of samples in column "
            f"{column!r} of "
            f"{found_in}, found {num_missing:,} of {len(labels):,} without one; complete it, or raise "
            f"{where}.max_missing if few labels are meant"
        )


def _refuse_constant(where: str, column: str, labels: Sequence[object]) -> None:
    found = {label for label in labels if label is not None}
    if len(found) == 1:
        raise DataError(
            f"{where}: expected numbers that differ in column {column!r}, found {found.pop()} alone; "
            "there is nothing to learn"
        )


def _check_classes(
    where: str,
    dataset: str,
    column: str,
    classes: Sequence[str],
    labels: Sequence[object],
    splits: Sequence[str],
) -> list[str]:
    if len(classes) == 1:
        raise DataError(
            f"{where}: expected at least two classes in column {column!r}, found one only: {classes[0]!r}; "
            "check the folder or the column"
        )
    total = Counter(label for label in labels if label is not None)
    in_train = Counter(
        label for label, split in zip(labels, splits, strict=True) if split == "train" and label is not None
    )
    taught = [name for name in classes if in_train[name]]
    if in_train and len(taught) == 1:
        raise DataError(
            f"{where}: expected at least two classes in train, found one only: {taught[0]!r}; "
            "add samples of the others, or correct the split"
        )
    if len(classes) > 100 and 2 * len(classes) > sum(total.values()):
        raise DataError(
            f"{where}: expected classes with several samples each in column {column!r}, found "
            f"{len(classes):,} "
            f"classes in {sum(total.values()):,} samples; is it a number ({where}.kind: number) or an id?"
        )
    untaught = [name for name in classes if not in_train[name]]
    if untaught and in_train:
        elsewhere = sum(total[name] for name in untaught)
        raise DataError(
            f"{where}: expected a labelled sample of every class in train, found none of "
            f"{_listed('class', 'classes', untaught)} ({elsewhere:,} in other splits), which no head could learn; "
            f"label one there, merge or drop the class, or share classes out with "
            f"datasets.{dataset}.split.stratify"
        )
    notes = []
    single = [name for name in classes if total[name] == 1]
    if single:
        notes.append(
            f"{_listed('class', 'classes', single)} with one sample: it cannot be both learnt and checked; "
            "add samples, or merge it with another class"
        )
    return notes


def _check_splits(where: str, manifest: Manifest, num: Mapping[str, int]) -> list[str]:
    for split, use, key in (("train", "learn from", "lower"), ("val", "select by", "raise")):
        if not num[split]:
            raise DataError(
                f"{where}: expected labelled samples in {split} to {use}, found none; the data set has "
                f"{len(manifest.where(split=split)):,} samples there: label some, or {key} "
                f"datasets.{manifest.dataset}.split.val"
            )
    if not num["test"]:
        return ["no labelled sample is in test: `embedpipe test` will have nothing to open"]
    return []


def _count(labels: Sequence[object], splits: Sequence[str]) -> dict[str, int]:
    labelled = Counter(split for split, label in zip(splits, labels, strict=True) if label is not None)
    num = {split: labelled[split] for split in ("train", "val", "test", "excluded")}
    return {**num, "missing": sum(label is None for label in labels)}


def _listed(one: str, several: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{one if len(names) == 1 else several} {', '.join(map(repr, names[:3]))}{more}"


def _natural(name: str) -> tuple[int, float, str]:
    """Whole numbers by value, before all other names by code point."""
    return (0, int(name), name) if name.lstrip("-").isdecimal() else (1, 0, name)
