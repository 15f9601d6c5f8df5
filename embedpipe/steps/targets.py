"""Step `targets`: the targets of one task, those of the test in a file of their own."""

from __future__ import annotations

from embedpipe.ingest.targets import TargetsSummary, make_targets
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.table import Manifest
from embedpipe.steps.sections import Sections
from embedpipe.terminal import say
from embedpipe.workspace import Workspace


def make_task_targets(workspace: Workspace, task: str) -> TargetsSummary:
    """Join the labels of one task to its samples and seal those of the test."""
    options = Sections(workspace).one("tasks", task, TaskOptions)
    summary = make_targets(
        task,
        options,
        manifest=Manifest.read(workspace.manifest(options.on)),
        labels_path=workspace.labels(options.on),
        root=workspace.root,
        open_path=workspace.open_targets(task),
        sealed_path=workspace.sealed_targets(task),
        digest_path=workspace.sealed_digest(task),
        cache_dir=workspace.ingest_cache(options.on),
    )
    what = {
        "classes": f"{len(summary.classes)} classes",
        "multilabel": f"{len(summary.classes)} labels",
        "number": f"{len(summary.outputs)} numbers" if summary.outputs else "a number",
        "dense": f"{len(summary.classes)} classes at each place",
    }[summary.kind]
    say(f"{task}: {what}; " + ", ".join(f"{split} {num:,}" for split, num in summary.num.items()))
    for note in summary.notes:
        say(f"{task}: {note}")
    return summary
