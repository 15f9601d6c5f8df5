"""Step `compare`: every arm on validation, beside the baselines; the leaderboard in the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from rich.console import Console

from embedpipe.compare.comparison import Comparison, compare
from embedpipe.compare.overlap import overlap_notes
from embedpipe.compare.table import leaderboard_table
from embedpipe.compare.test_log import num_openings, read_digests, read_log, with_test_figures
from embedpipe.evaluate.files import read_json
from embedpipe.evaluate.options import Baselines, CompareOptions
from embedpipe.manifest.table import Manifest
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
    notes = _overlaps(workspace, sections)
    with progress_bar("comparing") as progress:
        found = compare(
            tasks,
            read_selection(workspace),
            baselines=sections.value("baselines", Baselines),
            seed=sections.seed(),
            test_log=workspace.test_log,
            targets_digests=_digests(workspace, tasks),
            sealed=sealed,
            notes=notes,
            progress=progress,
        )
    found.write(
        leaderboard=workspace.leaderboard,
        metrics=workspace.metrics,
        comparison=workspace.comparison,
        plots_dir=workspace.plots_dir,
    )
    for task, of_task in notes.items():
        for note in of_task:
            say(f"{task}: {note}")
    say(found.comparison["headline"]["sentence"])
    return found


def print_leaderboard(workspace: Workspace) -> None:
    """Print what the last comparison found."""
    again = "run `embedpipe compare`"
    leaderboard = read_json(workspace.leaderboard, again, keys=("task", "arm", "k_shot", "val", "test"))
    comparison = read_json(workspace.comparison, again, keys=("headline", "tasks", "test_openings"))
    records = read_log(workspace.test_log)  # may have grown since
    leaderboard = with_test_figures(leaderboard, records, _digests(workspace, comparison["tasks"]))
    comparison["test_openings"] = num_openings(records)
    # without a terminal rich would assume 80 columns and fold the arms
    width = max(shutil.get_terminal_size((120, 0)).columns, 80)
    Console(width=width, highlight=False).print(leaderboard_table(leaderboard, comparison))


def _overlaps(workspace: Workspace, sections: Sections) -> dict[str, list[str]]:
    """For each task, what source models have seen of the samples that it is judged on."""
    models = {name: workspace.manifest(raw["on"]) for name, raw in sections.entries("source").items()}
    sources = {name: Manifest.read(path) for name, path in models.items() if path.is_file()}
    targets = {task: raw["on"] for task, raw in sections.entries("tasks").items()}
    return {
        task: overlap_notes(Manifest.read(workspace.manifest(on)), sources) for task, on in targets.items()
    }


def _digests(workspace: Workspace, tasks: Iterable[str]) -> dict[str, str | None]:
    return read_digests({task: workspace.sealed_digest(task) for task in tasks})
