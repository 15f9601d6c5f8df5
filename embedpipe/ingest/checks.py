"""Whether targets can be learnt from: checked for each kind before anything is embedded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from embedpipe.errors import DataError
from embedpipe.ingest.converted import Converted


def checked(where: str, dataset: str, found: Converted, splits: Sequence[str]) -> list[str]:
    """Notes on targets of any kind.

    Raises
    ------
    DataError
        If a class, a label or a number cannot be learnt; one sentence that says why.
    """
    kind = found.spec.kind
    if kind == "number":
        _refuse_constant(where, found)
        return []
    if kind == "classes":
        return _check_classes(where, dataset, found.what, found.spec.classes, found.labels, splits)
    if kind == "multilabel":
        return _check_labels(where, found, splits)
    return _check_masks(where, found, splits)


def _refuse_constant(where: str, found: Converted) -> None:
    rows = [label for label in found.labels if label is not None]
    names = found.spec.outputs
    for place in range(len(names) or 1):
        values = {row[place] if names else row for row in rows}
        if len(values) == 1:
            what = f"column {names[place]!r}" if names else found.what
            raise DataError(
                f"{where}: expected numbers that differ in {what}, found {values.pop()} alone; there is nothing to "
                "learn"
            )


def _check_classes(
    where: str,
    dataset: str,
    what: str,
    classes: Sequence[str],
    labels: Sequence[object],
    splits: Sequence[str],
) -> list[str]:
    if len(classes) == 1:
        raise DataError(
            f"{where}: expected at least two classes in {what}, found one only: {classes[0]!r}; "
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
            f"{where}: expected classes with several samples each in {what}, found "
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


def _check_labels(where: str, found: Converted, splits: Sequence[str]) -> list[str]:
    names = found.spec.classes
    rows = [row for row in found.labels if row is not None]
    taught = [
        row for row, split in zip(found.labels, splits, strict=True) if row is not None and split == "train"
    ]
    num_true, num_false = (
        [sum(row[place] is value for row in taught) for place in range(len(names))] for value in (True, False)
    )
    total = [sum(row[place] is True for row in rows) for place in range(len(names))]
    lacking = [name for name, num in zip(names, num_true, strict=True) if not num]
    if taught and lacking:
        elsewhere = sum(num for name, num in zip(names, total, strict=True) if name in lacking)
        raise DataError(
            f"{where}: expected a sample with each label in train, found none with "
            f"{_listed('label', 'labels', lacking)} ({elsewhere:,} in other splits), which no head could learn; add "
            "some there, or drop the label"
        )
    always = [name for name, num in zip(names, num_false, strict=True) if not num]
    if taught and always:
        raise DataError(
            f"{where}: expected a sample without each label in train, found none known to lack "
            f"{_listed('label', 'labels', always)}; there is nothing to learn: drop the label"
        )
    single = [name for name, num in zip(names, total, strict=True) if num == 1]
    if single:
        return [
            f"{_listed('label', 'labels', single)} of one sample: it cannot be both learnt and checked; add samples, "
            "or drop the label"
        ]
    return []


def _check_masks(where: str, found: Converted, splits: Sequence[str]) -> list[str]:
    names = found.spec.classes
    if len(names) == 1:
        raise DataError(
            f"{where}: expected at least two classes in the masks, found one only: {names[0]!r}; check the values, or "
            "`ignore`"
        )
    in_train, elsewhere = (
        Counter(
            code
            for codes, split in zip(found.present, splits, strict=True)
            if (split == "train") is of_train
            for code in codes
        )
        for of_train in (True, False)
    )
    untaught = [code for code in range(len(names)) if not in_train[code]]
    if untaught and in_train:
        num = sum(elsewhere[code] for code in untaught)
        raise DataError(
            f"{where}: expected every class in the masks of train, found none of "
            f"{_listed('class', 'classes', [names[code] for code in untaught])} ({num:,} masks of other splits have "
            "it), which no head could learn; add masks there, or take the value out with `classes` and `ignore`"
        )
    return []


def _listed(one: str, several: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{one if len(names) == 1 else several} {', '.join(map(repr, names[:3]))}{more}"
