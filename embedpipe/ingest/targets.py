"""Make the targets of one task: join labels to samples, check them, and seal those of the test.

Reads a manifest and labels (of the data set, or a table of their own); writes the open
targets and those of the test, in two files. Knows nothing of features.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.errors import DataError
from embedpipe.ingest.checks import checked
from embedpipe.ingest.converted import Converted, converted
from embedpipe.ingest.mask_files import mask_targets
from embedpipe.ingest.raw import raw_labels
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.ingest.weights import weights_of
from embedpipe.manifest.files import write_bytes
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets
from embedpipe.progress import Progress, silent
from embedpipe.spec import digest

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
    outputs : list of str
        Names of the numbers, where there are several.
    """

    task: str
    kind: str
    classes: list[str]
    num: dict[str, int]
    notes: list[str]
    outputs: list[str] = dataclasses.field(default_factory=list)

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
    cache_dir: Path | None = None,
    progress: Progress = silent,
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
    cache_dir : Path, optional
        Where masks that were read are remembered.

    Raises
    ------
    DataError
        If the column is absent, its values are of another kind, too many labels are missing, labels name unknown
        ids, or what is left cannot be learnt from: one class only, no labels in train or in val.
    """
    where = f"tasks.{task}"
    if "target" not in manifest.domains:
        raise DataError(
            f"{where}.on: expected a data set of domain target, found {options.on!r} of domain source, which no "
            "backbone embeds"
        )
    sample_ids, splits = list(manifest.sample_ids), list(manifest.splits)
    if options.folder is None:
        raw = raw_labels(where, task, options, manifest=manifest, labels_path=labels_path, root=root)
    else:
        raw = None
    if options.kind == "dense":
        memory_path = (
            None if cache_dir is None else cache_dir / f"masks-{task}-{digest(str(root))[:16]}.parquet"
        )
        found = mask_targets(
            where, options, manifest, raw, root=root, memory_path=memory_path, progress=progress
        )
    else:
        assert raw is not None
        found = converted(where, options, sample_ids, raw)
    notes = [*(raw.notes if raw is not None else ()), *found.notes]
    _refuse_missing(where, options, found)
    notes += checked(where, options.on, found, splits)
    num = _count(found.labels, splits)
    notes += _check_splits(where, manifest, num)

    targets = Targets.of(task, found.spec, sample_ids=sample_ids, splits=splits, labels=found.labels)
    weighted = targets
    if options.weight is not None:
        weights, more = weights_of(
            where, options, found.labels, manifest=manifest, labels_path=labels_path, root=root
        )
        notes += more
        weighted = targets.weighted(sample_ids, weights)
    weighted.where(split=_OPEN_SPLITS).write(open_path)
    sealed = targets.where(split="test")
    sealed.write(sealed_path)
    write_bytes(digest_path, f"{sealed.digest}\n".encode())
    return TargetsSummary(task, options.kind, list(found.spec.classes), num, notes, list(found.spec.outputs))


def _refuse_missing(where: str, options: TaskOptions, found: Converted) -> None:
    labels = found.labels
    num_missing = sum(label is None for label in labels)
    if num_missing and num_missing == len(labels):
        raise DataError(
            f"{where}: expected labels in {found.what} of {found.found_in}, found none for any of "
            f"{len(labels):,} samples; check the column and its ids"
        )
    if num_missing > options.max_missing * len(labels):
        raise DataError(
            f"{where}: expected labels for at least {1 - options.max_missing:.0%} of samples in {found.what} of "
            f"{found.found_in}, found {num_missing:,} of {len(labels):,} without one; complete it, or raise "
            f"{where}.max_missing if few labels are meant"
        )


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
