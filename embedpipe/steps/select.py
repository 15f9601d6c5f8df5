"""Step `select`: tap, backbone, family and hyperparameters jointly, on validation."""

from __future__ import annotations

from typing import Any

from embedpipe.evaluate.options import Baselines
from embedpipe.evaluate.words import metric_words
from embedpipe.select.selection import select
from embedpipe.steps.files import task_files
from embedpipe.steps.sections import Sections
from embedpipe.terminal import progress_bar, say
from embedpipe.workspace import Workspace

SAID = "selected among"
"""A note that the line about the task says in short; selection.json and the page have it whole."""


def select_arms(workspace: Workspace) -> dict[str, Any]:
    """Write data/selection.json."""
    sections = Sections(workspace)
    with progress_bar("selecting") as progress:
        selection = select(
            task_files(workspace, sections, transfer=False),
            baselines=sections.value("baselines", Baselines),
            seed=sections.seed(),
            path=workspace.selection,
            progress=progress,
        )
    for task, chosen in selection["tasks"].items():
        best, ties, corrected = chosen["best"], len(chosen["ties"]), chosen["optimism"]["value"]
        name = metric_words(chosen["metric"])
        say(
            f"{task}: {best['arm']}, of {chosen['num_arms']:,} arms with {chosen['num_candidates']:,} candidates; "
            f"{name} {best['value']:.3f} [{best['ci_low']:.3f}, {best['ci_high']:.3f}] on validation"
            + (f", {corrected:.3f} corrected for being the best of many; " if corrected is not None else "; ")
            + (
                f"{ties} other{'s' * (ties > 1)} cannot be told from it"
                if ties
                else "all others are behind it"
            )
        )
        for note in chosen["notes"]:
            if not note.startswith(SAID):
                say(f"{task}: {note}")
    return selection
