"""Open the test: not a stage, since `dvc repro` must never do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedpipe.compare.sealed import open_test
from embedpipe.compare.test_log import num_openings, read_log
from embedpipe.steps.files import read_selection, task_files
from embedpipe.steps.sections import Sections
from embedpipe.terminal import say
from embedpipe.workspace import Workspace


def read_test(
    workspace: Workspace, tasks: Sequence[str], arms: Sequence[str] | None, *, quiet: bool = False
) -> list[dict[str, Any]]:
    """Judge the selected arms (or those named) on the test, log it, and return the records."""
    sections = Sections(workspace)
    files = {task: one for task, one in task_files(workspace, sections).items() if task in tasks}
    records = open_test(
        files,
        {task: workspace.sealed_targets(task) for task in files},
        read_selection(workspace),
        log=workspace.test_log,
        arms=arms,
        seed=sections.seed(),
    )
    if not quiet:
        for record in records:
            figures = ", ".join(
                f"{metric} {one['value']:.3f} [{one['ci_low']:.3f}, {one['ci_high']:.3f}]"
                for metric, one in record["test"].items()
            )
            labels = "all labels" if record["k_shot"] == "all" else f"{record['k_shot']} labels a class"
            print(f"{record['task']}: {record['arm']} at {labels}: {figures}")
        times = num_openings(read_log(workspace.test_log))
        say(
            f"the test has been read {times} time{'s' if times != 1 else ''}; {workspace.test_log.name} says when: "
            "commit it. `dvc repro` shows the figures in the report"
        )
    return records
