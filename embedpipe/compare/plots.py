"""Flat CSV for `dvc plots`, one row a point."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedpipe.compare.costs import COLUMNS as COSTS
from embedpipe.manifest.files import write_bytes

LEARNING = ("task", "metric", "backbone", "role", "k_shot", "num_labels", "value", "ci_low", "ci_high")
LAYERS = (
    "task",
    "metric",
    "backbone",
    "role",
    "tap",
    "node",
    "reduction",
    "depth",
    "head",
    "k_shot",
    "value",
    "ci_low",
    "ci_high",
)
CONFUSION = ("task", "actual", "predicted")


def write_plots(
    plots_dir: Path, comparison: Mapping[str, Any], costs: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write `learning_curve.csv`, `layer_curve.csv`, `cost.csv`, `confusion.csv` and `confusion/<task>.csv`.

    The confusion files hold one row a validation sample, as DVC's `confusion` template counts them itself;
    `confusion.csv` is that of the first task of classes.
    """
    tasks = comparison["tasks"]
    for name, columns, key in (
        ("learning_curve", LEARNING, "learning_curves"),
        ("layer_curve", LAYERS, "layer_curves"),
    ):
        rows = [
            {"task": task, "metric": one["metric"], **point}
            for task, one in tasks.items()
            for point in one[key]
        ]
        _write(plots_dir / f"{name}.csv", columns, rows)
    _write(plots_dir / "cost.csv", COSTS, costs)
    with_classes = {task: one["confusion"] for task, one in tasks.items() if one["confusion"] is not None}
    for task, table in with_classes.items():
        _write(plots_dir / "confusion" / f"{task}.csv", CONFUSION, _pairs(task, table))
    # an output of the stage, with files in it or without
    (plots_dir / "confusion").mkdir(parents=True, exist_ok=True)
    for stale in (plots_dir / "confusion").glob("*.csv"):
        if stale.stem not in with_classes:
            stale.unlink()
    first = next(iter(with_classes.items()), None)
    _write(plots_dir / "confusion.csv", CONFUSION, _pairs(*first) if first else [])


def _pairs(task: str, table: Mapping[str, Any]) -> list[dict[str, str]]:
    names: Sequence[str] = table["classes"]
    return [
        {"task": task, "actual": names[true], "predicted": names[predicted]}
        for true, row in enumerate(table["counts"])
        for predicted, count in enumerate(row)
        for _ in range(count)
    ]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())
