"""Step `transfer`: arms that adapt the source model itself, on one task. Reads open targets alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from embedpipe.backbones.options import BackboneOptions
from embedpipe.evaluate.files import read_json
from embedpipe.evaluate.options import CompareOptions, SelectOptions
from embedpipe.heads.registry import head_options
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets
from embedpipe.steps.files import read_selection
from embedpipe.steps.sections import Sections
from embedpipe.terminal import progress_bar, say
from embedpipe.train.memo import Memo
from embedpipe.transfer.files import TransferPaths, write_index, write_results
from embedpipe.transfer.options import transfer_options
from embedpipe.workspace import Workspace

if TYPE_CHECKING:
    from embedpipe.transfer.network import OpenedBackbone


def transfer_arms(workspace: Workspace, task: str, arm: str | None = None) -> dict[str, Any]:
    """Train what is not finished yet; write models, predictions, scores and history.

    Parameters
    ----------
    arm
        Train no other; None: all of the task.
    """
    sections = Sections(workspace)
    arms = sections.converted("transfer", transfer_options)
    folder = workspace.transfer_dir(task)
    paths = TransferPaths(
        models_dir=workspace.transfer_models_dir(task),
        predictions=folder / "predictions.parquet",
        scores=folder / "scores.json",
        history=folder / "history.csv",
        cost=workspace.transfer_cost(task),
        memo_dir=workspace.transfer_memo_dir,
        runs_dir=workspace.runs_dir,
    )
    if not any(one.tasks is None or task in one.tasks for one in arms.values()):
        write_index(paths.models_dir, ())
        write_results(paths, task, Targets.read(workspace.open_targets(task)).spec)
        if paths.memo_dir.is_dir():
            Memo(paths.memo_dir, "").keep(f"transfer.{task}")  # none of what is kept
        say(f"{task}: no transfer arm")
        return {"task": task, "num_arms": 0, "num_fitted": 0, "num_recalled": 0, "notes": []}

    from embedpipe.transfer.task import transfer_task

    with progress_bar(f"transfer to {task}") as progress:
        summary = transfer_task(
            arms,
            _given(workspace, sections, task),
            paths,
            select=sections.whole("select", SelectOptions),
            compare=sections.whole("compare", CompareOptions),
            only=arm,
            progress=progress,
        )
    found = {**vars(summary), "notes": list(summary.notes)}
    if int(os.environ.get("RANK", "0")) > 0:  # of several processes the first one speaks
        return found
    say(
        f"{task}: {summary.num_arms:,} transfer arms; {summary.num_fitted:,} fits done now, "
        f"{summary.num_recalled:,} kept from earlier runs"
    )
    for note in summary.notes:
        say(f"{task}: {note}")
    return found


def _given(workspace: Workspace, sections: Sections, task: str) -> Any:
    """Everything that the arms of a task stand on, as the heads of the task had it."""
    from embedpipe.features.table import open_features
    from embedpipe.sources.base import SPOOL, open_source
    from embedpipe.train.fitting import fitting_backbones, present_in
    from embedpipe.train.memory import allowed_nbytes
    from embedpipe.train.plan import plan_units
    from embedpipe.train.samples import task_samples
    from embedpipe.transfer.given import Given

    options = sections.one("tasks", task, TaskOptions)
    manifest = Manifest.read(workspace.manifest(options.on))
    targets = Targets.read(workspace.open_targets(task))
    stores = {
        name: open_features(workspace.features(name))
        for name in sections.entries("backbones")
        if options.backbones is None or name in options.backbones
    }
    fitting, _ = fitting_backbones(task, manifest, stores, options.backbones)
    units, _ = plan_units(
        task,
        targets.kind,
        sections.converted("heads", head_options),
        {name: store.card for name, store in stores.items()},
        task_heads=options.heads,
        task_backbones=fitting if options.backbones is None else options.backbones,
    )
    used = {part.backbone for unit in units for part in unit.parts}
    present = present_in(manifest, {name: store for name, store in stores.items() if name in used})
    backbones = sections.every("backbones", BackboneOptions)
    return Given(
        samples=task_samples(manifest, targets, present),
        manifest=manifest,
        source=open_source(
            manifest.source, workspace.root, spool=workspace.ingest_cache(manifest.dataset) / SPOOL
        ),
        stores={name: stores[name] for name in present},
        units={unit.arm: unit for unit in units},
        scores=read_json(workspace.scores(task), f"run `embedpipe train {task}`", keys=("metric", "arms")),
        chosen=read_selection(workspace)["tasks"][task],
        heads_dir=workspace.heads_dir(task),
        root=workspace.root,
        open_backbone=lambda name: _open_backbone(workspace, name, backbones[name], stores[name]),
        seed=sections.seed(),
        memory_nbytes=allowed_nbytes(),
    )


def _open_backbone(workspace: Workspace, name: str, options: BackboneOptions, store: Any) -> OpenedBackbone:
    from embedpipe.backbones import load_backbone
    from embedpipe.backbones.backbone import Backbone
    from embedpipe.backbones.preprocessing import Preprocessing
    from embedpipe.transfer.agreement import as_stored
    from embedpipe.transfer.network import OpenedBackbone

    source_dir = workspace.source_dir
    backbone = as_stored(
        load_backbone(name, options, workspace.root, source_dir=source_dir),
        store.card,
        f"params.yaml: backbones.{name}",
    )

    def untrained(seed: int) -> Backbone:
        structure: dict[str, Any] = {}
        if options.model == "glyphnet":
            width, image_px = (
                part.partition("=")[2] for part in backbone.architecture.split(":")[1].split(",")
            )
            structure = {"width": int(width), "image_px": int(image_px)}
        elif isinstance(backbone.inputs, Preprocessing) and options.model.startswith("torchvision:"):
            # weights decide what images are, and random ones have those of the model's default
            structure = {"preprocess": backbone.inputs.as_options()}
        random = options.model_copy(update={"weights": f"random:{seed}", **structure})
        made = load_backbone(name, random, workspace.root, source_dir=source_dir)
        return made if made.preprocessing == backbone.preprocessing else made.resampling_tensors()

    return OpenedBackbone(backbone, store, untrained, source_classes_of(workspace, options))


def source_classes_of(workspace: Workspace, options: BackboneOptions) -> tuple[str, ...] | None:
    """Names of the outputs of a backbone's classifier, where somebody wrote them down."""
    if options.source_model is not None:
        card = read_json(workspace.source_dir / options.source_model / "card.json", "run `embedpipe source`")
        return tuple(card["classes"])
    if options.model.startswith("torchvision:") and options.weights is not None:
        import torchvision

        known = torchvision.models.get_model_weights(options.model.removeprefix("torchvision:"))
        if options.weights in known.__members__:
            return tuple(known[options.weights].meta.get("categories") or ()) or None
    return None
