"""Answer for new inputs: not a stage, since its inputs are no part of the project.

Reads `tasks`, `backbones`, `extract`, heads, transfer arms, stores and, where no arm is named, the selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedpipe.backbones import BackboneOptions
from embedpipe.errors import ConfigError
from embedpipe.extract.options import ExtractOptions
from embedpipe.serve.arms import SavedArms, TrainedArm, choose_arms
from embedpipe.serve.inputs import list_inputs
from embedpipe.serve.opened import OpenBackbone, open_backbone
from embedpipe.serve.predict import Answers, predict
from embedpipe.serve.table import answers_table
from embedpipe.steps.files import read_selection
from embedpipe.steps.sections import Sections
from embedpipe.terminal import progress_bar, say
from embedpipe.workspace import Workspace

BATCH = 32
"""Inputs a pass where `extract.batch` is auto."""


def chosen_arms(workspace: Workspace, tasks: Sequence[str], asked: Sequence[str]) -> list[TrainedArm]:
    """The selected arm of each task, or those asked for; see `embedpipe.serve.arms.choose_arms`."""
    selection = None if asked else read_selection(workspace)
    saved = {
        task: SavedArms(workspace.heads_dir(task), workspace.transfer_models_dir(task)) for task in tasks
    }
    return choose_arms(saved, asked, selection)


def opened_backbones(
    workspace: Workspace, arms: Sequence[TrainedArm], device: str | None = None
) -> dict[str, OpenBackbone]:
    """Every backbone that the arms read, with all taps that they read in it."""
    sections = Sections(workspace)
    options = sections.whole("extract", ExtractOptions)
    found = {}
    for name in dict.fromkeys(name for arm in arms for name in arm.backbones):
        taps = list(dict.fromkeys(tap for arm in arms for backbone, tap in arm.parts if backbone == name))
        found[name] = open_backbone(
            name,
            sections.one("backbones", name, BackboneOptions),
            workspace.features(name),
            taps,
            root=workspace.root,
            source_dir=workspace.source_dir,
            device=device or options.device,
        )
        for note in found[name].notes:
            say(note)
    return found


def predict_inputs(
    workspace: Workspace,
    path: Path,
    *,
    tasks: Sequence[str],
    named: bool = True,
    arms: Sequence[str] = (),
    column: str | None = None,
    id_column: str | None = None,
    device: str | None = None,
) -> tuple[pa.Table, dict[str, Any]]:
    """A table of answers, and what a machine may want to know of how they came about.

    Parameters
    ----------
    path
        A folder of images, an image, or a table.
    tasks
        Those that are wanted.
    named
        Whether somebody asked for them; of all tasks, those that no table can answer are left out and said.
    arms
        As `choose_arms`; none: the selected one of each task.

    Raises
    ------
    ConfigError, DataError, SpecMismatch, ProbeMismatch
        Before any input is looked at, but for what is wrong with the inputs as a whole.
    """
    chosen = _without_maps(chosen_arms(workspace, tasks, arms), named)
    backbones = opened_backbones(workspace, chosen, device)
    modalities = {opened.backbone.modality for opened in backbones.values()}
    if len(modalities) != 1:
        raise ConfigError(
            f"{path}: expected arms that read one kind of input, found {' and '.join(sorted(modalities))}; "
            "predict them one after the other with --task"
        )
    options = Sections(workspace).whole("extract", ExtractOptions)
    with progress_bar("looking at inputs") as progress:
        inputs = list_inputs(path, modalities.pop(), column=column, id_column=id_column, progress=progress)
    with progress_bar("predicting") as progress:
        found = predict(
            chosen,
            backbones,
            inputs,
            batch=options.batch if isinstance(options.batch, int) else BATCH,
            decode_threads=options.decode_threads,
            progress=progress,
        )
    return answers_table(inputs.names, found), _summary(path, chosen, found)


def _without_maps(arms: Sequence[TrainedArm], named: bool) -> list[TrainedArm]:
    """The arms whose answers a table has columns for.

    Raises
    ------
    ConfigError
        If there is none, or one that was asked for is another.
    """
    kept = [arm for arm in arms if arm.target.kind != "dense"]
    for arm in arms:
        if arm.target.kind == "dense":
            why = "it answers for every place of an image, and a table of predictions has a row an image"
            if named or not kept:
                raise ConfigError(
                    f"task {arm.task!r}: {arm.arm} cannot be predicted: {why}; name other tasks"
                )
            say(f"{arm.task}: left out: {why}")
    return kept


def _summary(path: Path, arms: Sequence[TrainedArm], found: Answers) -> dict[str, Any]:
    return {
        "inputs": str(path),
        "num_inputs": len(found.errors),
        "num_failed": sum(error is not None for error in found.errors),
        "arms": {arm.task: arm.arm for arm in arms},
        "computed": found.num_computed,
        "known": found.num_known,
    }
