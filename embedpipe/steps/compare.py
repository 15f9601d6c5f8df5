"""Step `compare`: every arm on validation, beside the baselines; the leaderboard in the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from rich.console import Console

from embedpipe.compare.comparison import Comparison, compare
from embedpipe.compare.table import leaderboard_table
from embedpipe.compare.test_log import num_openings, read_digests, read_log, with_test_figures
from embedpipe.evaluate.files import read_json
from embedpipe.evaluate.options import Baselines, CompareOptions
from embedpipe.steps.files import read_selection, task_files
from embedpipe.steps.sections import Sections
from embedpipe.terminal import progress_bar, say
from embedpipe.workspace import Workspace


def compare_arms(workspace: Workspace) -> Comparison:
    """Write leaderboard, metrics, comparison and plots, and say what was learnt."""
    sections = Sections(workspace)
    options = sections.whole("compare", CompareOptions)
    tasks = task_files(workspace, sections)
    sealed = {task: workspace.sealed_targets(task) for task in tasks} if options.test == "open" else None
    with progress_bar("comparing") as progress:
        found = compare(
            tasks,
            read_selection(workspace),
            baselines=sections.value("baselines", Baselines),
            seed=sections.seed(),
            test_log=workspace.test_log,
            targets_digests=_digests(workspace, tasks),
            sealed=sealed,
            progress=progress,
        )
    found.write(
        leaderboard=workspace.leaderboard,
        metrics=workspace.metrics,
        comparison=workspace.comparison,
        plots_dir=workspace.plots_dir,
    )
    say(found.comparison["headline"]["sentence"])
    return found


def print_leaderboard(workspace: Workspace) -> None:
    """Print what the last comparison found."""
    leaderboard = read_json(workspace.leaderboard, "run `embedpipe compare`")
    comparison = read_json(workspace.comparison, "run `embedpipe compare`")
    records = read_log(workspace.test_log)  # may have grown since
    leaderboard = with_test_figures(leaderboard, records, _digests(workspace, comparison["tasks"]))
    comparison["test_openings"] = num_openings(records)
    # without a terminal rich would assume 80 columns and fold the arms
    width = max(shutil.get_terminal_size((120, 0)).columns, 80)
    Console(width=width, highlight=False).print(leaderboard_table(leaderboard, comparison))


def _digests(workspace: Workspace, tasks: Iterable[str]) -> dict[str, str | None]:
    return read_digests({task: workspace.sealed_digest(task) for task in tasks})
