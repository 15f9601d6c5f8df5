"""What each sample counts in learning: a column of numbers, checked and joined to the samples.

Stands beside the labels, so that changing it reruns one task.
"""

# N samples

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from embedpipe.errors import DataError
from embedpipe.ingest.labels import text_of
from embedpipe.ingest.raw import raw_column
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.table import Manifest


def weights_of(
    where: str,
    options: TaskOptions,
    labels: Sequence[object],
    *,
    manifest: Manifest,
    labels_path: Path,
    root: Path,
) -> tuple[list[float | None], list[str]]:
    """Weights in the order of the manifest, None where nothing is learnt from; and notes.

    Raises
    ------
    DataError
        If the column is absent, a training sample with a label has no weight in it or none that is a number of 0 or
        more, or all are 0.
    """
    assert options.weight is not None
    where = f"{where}.weight"
    values, found_in = raw_column(where, options, options.weight, manifest, labels_path, root)
    weights: list[float | None] = []
    for sample_id, split, label, value in zip(
        manifest.sample_ids, manifest.splits, labels, values, strict=True
    ):
        if split != "train" or label is None:
            weights.append(None)
            continue
        text = text_of(value) if not isinstance(value, list) else repr(value)
        if text is None:
            raise DataError(
                f"{where}: expected a weight of every labelled training sample in column {options.weight!r} of "
                f"{found_in}, found none for {sample_id!r}; give it one, 0 to leave it out"
            )
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise DataError(
                f"{where}: expected numbers of 0 or more in column {options.weight!r} of {found_in}, found {text!r} "
                f"for {sample_id!r}"
            )
        weights.append(weight)
    counted = [weight for weight in weights if weight is not None]
    nothing = sum(weight == 0 for weight in counted)
    if counted and nothing == len(counted):
        raise DataError(
            f"{where}: expected a training sample of a weight above 0 in column {options.weight!r} of {found_in}, "
            "found 0 for all"
        )
    return weights, [f"{nothing:,} training samples weigh 0: not learnt from"] if nothing else []
