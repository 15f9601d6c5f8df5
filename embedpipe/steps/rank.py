"""Rank the taps of a task before any head is trained: not a stage, a question."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from embedpipe.evaluate.metrics import sign_of
from embedpipe.evaluate.options import SelectOptions
from embedpipe.evaluate.words import metric_words
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.table import Manifest
from embedpipe.screen import SCREENS
from embedpipe.steps.sections import Sections
from embedpipe.terminal import progress_bar
from embedpipe.train.screening import screen_task
from embedpipe.workspace import Workspace


def rank_taps(workspace: Workspace, task: str) -> dict[str, Any]:
    """Screen every tap of a task on its training samples.

    Returns
    -------
    dict
        ``task``, ``seconds``, ``metric`` and ``taps``, best mean rank over the screens first; each as
        `embedpipe.train.screening.screen_task` has it, with its ``mean_rank``.
    """
    sections = Sections(workspace)
    options = sections.one("tasks", task, TaskOptions)
    names = [name for name in sections.entries("backbones") if name in (options.backbones or [name])]
    began = time.perf_counter()
    with progress_bar(f"screening taps of {task}") as progress:
        taps = screen_task(
            features={name: workspace.features(name) for name in names},
            manifest=Manifest.read(workspace.manifest(options.on)),
            targets_path=workspace.open_targets(task),
            memo_dir=workspace.memo_dir,
            by=sections.whole("select", SelectOptions).by,
            seed=sections.seed(),
            progress=progress,
        )
    ordered = by_mean_rank(taps)
    return {
        "task": task,
        "seconds": time.perf_counter() - began,
        "metric": ordered[0]["metric"],
        "taps": ordered,
    }


def by_mean_rank(taps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Taps with their mean rank over the screens that have a value for all of them, best first."""
    ranked = []
    for name in SCREENS:
        values = [tap[name] for tap in taps]
        if None not in values:
            sign = 1 if name == "logme" else sign_of(taps[0]["metric"])
            ranked.append(rankdata([-sign * value for value in values]))
    found = [
        {**tap, "mean_rank": float(sum(one[place] for one in ranked) / len(ranked)) if ranked else None}
        for place, tap in enumerate(taps)
    ]
    return sorted(found, key=lambda tap: (tap["mean_rank"] or 0.0, -tap["depth"]))


def show_ranking(ranking: dict[str, Any]) -> None:
    """Print one task's taps, best first."""
    num_rows = ranking["taps"][0]["num_rows"]
    table = Table(
        title=f"{ranking['task']}: {len(ranking['taps'])} taps screened on {num_rows:,} training samples "
        f"in {ranking['seconds']:.1f} s; kNN and ridge: {metric_words(ranking['metric'])}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("backbone", no_wrap=True)
    table.add_column("tap", no_wrap=True)
    for name in ("mean rank", "kNN", "ridge", "LogME"):
        table.add_column(name, justify="right", no_wrap=True)
    for tap in ranking["taps"]:
        values = [tap["mean_rank"], *(tap[name] for name in SCREENS)]
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        cells[0] = "-" if tap["mean_rank"] is None else f"{tap['mean_rank']:.1f}"
        table.add_row(tap["backbone"], tap["tap"], *cells)
    Console(highlight=False, soft_wrap=True).print(table)
