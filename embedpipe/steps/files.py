"""Files of every task, as selection, comparison and the test read them."""

from __future__ import annotations

from typing import Any

from embedpipe.evaluate.evidence import TaskFiles, TransferFiles
from embedpipe.evaluate.files import read_json
from embedpipe.steps.sections import Sections
from embedpipe.workspace import Workspace


def task_files(workspace: Workspace, sections: Sections, *, transfer: bool = True) -> dict[str, TaskFiles]:
    """By task, in the order of params.yaml.

    Parameters
    ----------
    transfer
        Whether with transfer arms, which start from the selected head and so come behind the selection.
    """
    return {
        task: TaskFiles(
            scores=workspace.scores(task),
            predictions=workspace.predictions(task),
            open_targets=workspace.open_targets(task),
            manifest=workspace.manifest(raw["on"]),
            candidates=workspace.candidates(task),
            cost=workspace.cost(task),
            transfer=TransferFiles(
                workspace.transfer_dir(task) / "scores.json",
                workspace.transfer_dir(task) / "predictions.parquet",
                workspace.transfer_cost(task),
            )
            if transfer
            else None,
        )
        for task, raw in sections.entries("tasks").items()
    }


def read_selection(workspace: Workspace) -> dict[str, Any]:
    """What `select` wrote.

    Raises
    ------
    DataError
        If it has not run, or the file is damaged.
    """
    selection: dict[str, Any] = read_json(workspace.selection, "run `embedpipe select`", keys=("tasks",))
    return selection
