"""Step `train`: every head of one task. Reads open targets alone."""

from __future__ import annotations

from embedpipe.evaluate.options import Baselines, CompareOptions, SelectOptions
from embedpipe.heads.registry import head_options
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.table import Manifest
from embedpipe.steps.sections import Sections
from embedpipe.terminal import progress_bar, say
from embedpipe.train.memory import allowed_nbytes
from embedpipe.train.task import TrainPaths, TrainSummary, train_task
from embedpipe.workspace import Workspace


def train_heads(workspace: Workspace, task: str) -> TrainSummary:
    """Fit what is not finished yet; write heads, predictions and scores."""
    sections = Sections(workspace)
    options = sections.one("tasks", task, TaskOptions)
    backbones = [
        name
        for name in sections.entries("backbones")
        if options.backbones is None or name in options.backbones
    ]
    with progress_bar(f"training heads of {task}") as progress:
        summary = train_task(
            task,
            heads=sections.converted("heads", head_options),
            features={name: workspace.features(name) for name in backbones},
            manifest=Manifest.read(workspace.manifest(options.on)),
            targets_path=workspace.open_targets(task),
            paths=TrainPaths(
                heads_dir=workspace.heads_dir(task),
                predictions=workspace.predictions(task),
                scores=workspace.scores(task),
                candidates=workspace.candidates(task),
                cost=workspace.cost(task),
                memo_dir=workspace.memo_dir,
                moments_dir=workspace.moments_dir,
            ),
            baselines=sections.value("baselines", Baselines),
            select=sections.whole("select", SelectOptions),
            compare=sections.whole("compare", CompareOptions),
            task_heads=options.heads,
            task_backbones=options.backbones,
            seed=sections.seed(),
            memory_nbytes=allowed_nbytes(),
            progress=progress,
        )
    say(
        f"{task}: {summary.num_arms:,} arms; {summary.num_fitted:,} fits done now, "
        f"{summary.num_recalled:,} kept from earlier runs"
    )
    for note in summary.notes:
        say(f"{task}: {note}")
    return summary
