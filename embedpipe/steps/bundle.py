"""Write an arm as one self-contained artefact: not a stage, since it is made for others.

Reads heads, transfer arms, stores, source models, manifests, predictions and the leaderboard.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from embedpipe.backbones import BackboneOptions
from embedpipe.backbones.hooked import Tapped
from embedpipe.backbones.inputs import Inputs
from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.backbones.tokens import TokenInputs
from embedpipe.compare.test_log import read_digests, read_log, with_test_figures
from embedpipe.errors import ConfigError, DataError, ProbeMismatch, UnreadableSample
from embedpipe.evaluate.files import read_json
from embedpipe.evaluate.predictions import Predictions
from embedpipe.evaluate.words import metric_words
from embedpipe.heads.module import head_module
from embedpipe.heads.registry import load_head
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.table import SPLITS, Manifest
from embedpipe.serve.arms import TrainedArm
from embedpipe.serve.asking import ask
from embedpipe.serve.bundle import Bundle, formats_of_program, wanted_formats, write_bundle
from embedpipe.serve.card import about_arm, readme
from embedpipe.serve.module import ArmModule, ArmSpec, body_spec
from embedpipe.serve.networks import open_network
from embedpipe.serve.networks import row_shape as network_row_shape
from embedpipe.serve.opened import OpenBackbone
from embedpipe.serve.predict import row_shape
from embedpipe.sources.base import open_source
from embedpipe.steps.files import read_selection
from embedpipe.steps.predict import chosen_arms, opened_backbones
from embedpipe.steps.sections import Sections
from embedpipe.terminal import say
from embedpipe.transfer.options import transfer_options
from embedpipe.workspace import Workspace

NUM_CHECKED = 32
"""Validation samples whose predictions the network is compared with."""
TOLERATED = {"float32": 0.02, "float16": 0.05, "bfloat16": 0.1}
"""Largest difference, in probability or standard deviations, by the precision that the features were computed in."""


def bundle_arm(
    workspace: Workspace,
    task: str,
    folder: Path,
    *,
    arm: str | None = None,
    formats: Sequence[str] = (),
    licence: str | None = None,
) -> dict[str, Any]:
    """Write the bundle of a task's selected arm, or of the one named.

    Returns
    -------
    dict
        Folder, arm, formats and the largest difference to the pipeline's own predictions.

    Raises
    ------
    ConfigError
        If the arm cannot be a network, a format cannot be written, or something else stands at `folder`.
    ProbeMismatch
        If the network does not say what the pipeline said.
    """
    to_write, notes = wanted_formats(formats)
    for note in notes:
        say(note)
    (chosen,) = chosen_arms(workspace, [task], [] if arm is None else [arm])
    backbones = opened_backbones(workspace, [chosen], "cpu")
    _refuse_what_needs_code(chosen, backbones)
    sections = Sections(workspace)
    spec, module = network_of(
        chosen,
        backbones,
        {name: sections.one("backbones", name, BackboneOptions) for name in backbones},
    )
    if spec.is_program:
        to_write = formats_of_program(to_write, formats)
    inputs = [backbones[name].backbone.inputs for name in chosen.backbones]
    modality = next(iter(backbones.values())).backbone.modality
    checked = _check(workspace, sections, chosen, modality, backbones, module, inputs)
    params, training = _training(workspace, sections, chosen)
    about = about_arm(
        chosen,
        spec,
        params=params,
        training=training,
        data=_data(workspace, sections, chosen),
        backbones={name: _source_model(opened) for name, opened in backbones.items()},
        metrics=_metrics(workspace, chosen),
        licence=licence,
        versions={
            name: importlib.metadata.version(name) for name in ("embedpipe", "torch", "torchvision", "pillow")
        },
    )
    about["checked"] = checked
    beside = {
        body.tokens["file"]: tokens.tokenizer_json or ""
        for body in spec.bodies
        if body.tokens is not None and isinstance(tokens := backbones[body.name].backbone.inputs, TokenInputs)
    }

    def check(written: Bundle) -> None:
        """A program is another network than the one it is made of, and its tokenizer is read from a file."""
        if spec.is_program:
            network = written.module(torch.device("cpu"))
            _check(workspace, sections, chosen, modality, backbones, network, written.inputs())

    write_bundle(folder, spec, module, about, readme(about), to_write, beside, check)
    return {"out": str(folder), "task": task, "arm": chosen.arm, "formats": to_write, "checked": checked}


def network_of(
    arm: TrainedArm, backbones: Mapping[str, OpenBackbone], options: Mapping[str, BackboneOptions]
) -> tuple[ArmSpec, ArmModule]:
    """The arm as one network, and what it is built from."""
    names = list(arm.backbones)
    tap_specs = {name: list(backbones[name].taps.values()) for name in names}
    first_backbone, first_tap = arm.parts[0]
    first = backbones[first_backbone]
    networks: list[nn.Module]
    if arm.has_body:
        model = open_network(arm, first)
        head, shape = model.head, network_row_shape(arm, first, model)
        networks = [model.body]
    else:
        head = head_module(load_head(arm.folder), trainable=False)
        shape = row_shape(arm, first.features.card.taps[first_tap])
        networks = [backbones[name].backbone.exportable(tap_specs[name]) for name in names]
    for network in networks:
        if isinstance(network, Tapped):
            network.stops = False
    # what was trained with its body never saw features that a store had rounded
    rounds = not arm.has_body
    spec = ArmSpec(
        [
            body_spec(backbones[name].backbone, options[name], tap_specs[name], rounds=rounds)
            for name in names
        ],
        [(names.index(backbone), tap) for backbone, tap in arm.parts],
        head.describe(),
        shape,
        is_program=not all(isinstance(network, fx.GraphModule) for network in networks),
    )
    return spec, spec.build(networks, head)


def _refuse_what_needs_code(arm: TrainedArm, backbones: Mapping[str, OpenBackbone]) -> None:
    """Refuse arms whose inputs no bundle can make again."""
    for name, opened in backbones.items():
        inputs, why = opened.backbone.inputs, ""
        if isinstance(inputs, TokenInputs):
            if inputs.tokenizer_json is None:
                why = "its tokenizer is written in Python"
            elif inputs.window is not None:
                why = "it reads long texts as windows, whose mean is taken before the head"
        elif not isinstance(inputs, Preprocessing):
            why = "samples are prepared by Python code of its own"
        if why:
            raise ConfigError(
                f"task {arm.task!r}: {arm.arm} cannot be bundled, since {name} is no network alone: {why}; "
                "`embedpipe predict` answers for it"
            )
    if len({opened.backbone.modality for opened in backbones.values()}) > 1:
        raise ConfigError(
            f"task {arm.task!r}: expected an arm that reads images or texts, found {arm.arm}, which reads both"
        )


def _check(
    workspace: Workspace,
    sections: Sections,
    arm: TrainedArm,
    modality: str,
    backbones: Mapping[str, OpenBackbone],
    module: nn.Module,
    inputs: Sequence[Inputs],
) -> dict[str, Any]:
    """Compare the network with the predictions that training wrote, on some validation samples."""
    options = sections.one("tasks", arm.task, TaskOptions)
    manifest = Manifest.read(workspace.manifest(options.on)).where(split="val").of(modality)
    source = open_source(manifest.source, workspace.root)
    written = (
        workspace.transfer_dir(arm.task) / "predictions.parquet"
        if arm.has_body
        else workspace.predictions(arm.task)
    )
    said = Predictions.read(written).scores(arm.arm)
    known = set(said.sample_ids.tolist())
    ids: list[str] = []
    samples = []
    for sample, locator in zip(manifest.sample_ids, manifest.locators, strict=True):
        if len(ids) == NUM_CHECKED:
            break
        if sample in known:
            try:
                content = source.read(locator)
            except UnreadableSample:
                continue
            ids.append(str(sample))
            samples.append(content)
    if not ids:
        return {"num_samples": 0, "why": f"no validation {modality} can be read here"}
    found = ask(module, inputs, samples, batch=NUM_CHECKED).reshape(len(ids), -1)
    wanted = said.at(ids)[0]
    unit = max(float(wanted.std()), 1e-12) if arm.target.kind == "number" else 1.0
    difference = float(np.abs(found - wanted).max()) / unit
    precisions = ["float32"] if arm.has_body else [opened.precision for opened in backbones.values()]
    precision = max(precisions, key=lambda one: TOLERATED[one])
    if not difference <= TOLERATED[precision]:
        raise ProbeMismatch(
            f"task {arm.task!r}: the network of {arm.arm} differs from the pipeline's predictions by {difference:.2g}, "
            f"expected at most {TOLERATED[precision]:g} in {precision}; run `dvc repro`, so that head, features and "
            "predictions are of one run"
        )
    return {"num_samples": len(ids), "largest_difference": difference}


def _training(
    workspace: Workspace, sections: Sections, arm: TrainedArm
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Hyperparameters that validation chose; and of a transfer arm, what its weights come from."""
    if not arm.has_body:
        return dict(arm.about["params"]), None
    again = f"run `embedpipe transfer {arm.task}`"
    path = workspace.transfer_dir(arm.task) / "scores.json"
    options = sections.converted("transfer", transfer_options)
    for row in read_json(path, again, keys=("arms",))["arms"]:
        if (row["arm"], row["k_shot"]) == (arm.arm, "all") and row["head"] in options:
            from_random = getattr(options[row["head"]], "load", "all") == "none"
            return dict(row["params"]), {
                "recipe": row["recipe"],
                "from_random_weights": from_random,
                "head": row.get("start"),
                "note": row["note"],
            }
    raise DataError(
        f"{path}: expected scores of {arm.arm}, whose network is saved, and its options in params.yaml, found none; "
        f"{again}"
    )


def _data(workspace: Workspace, sections: Sections, arm: TrainedArm) -> dict[str, Any]:
    options = sections.one("tasks", arm.task, TaskOptions)
    splits = Manifest.read(workspace.manifest(options.on)).splits
    return {
        "dataset": options.on,
        "labels": options.labels,
        "num_train": int(arm.about["num_train"]),
        "splits": {split: int((splits == split).sum()) for split in SPLITS if (splits == split).any()},
    }


def _source_model(opened: OpenBackbone) -> dict[str, Any]:
    card = opened.features.card
    return {
        "model": card.model,
        "weights": card.weights,
        "role": card.role,
        **{f"source_{key}": value for key, value in opened.backbone.origin.items()},
        "fingerprint": card.spec.fingerprint,
        **card.spec.to_dict(),
    }


def _metrics(workspace: Workspace, arm: TrainedArm) -> dict[str, Any]:
    """Figures of the leaderboard, with what the test log has, and how the arm was chosen."""
    if not workspace.leaderboard.exists():
        return {
            "val": None,
            "test": None,
            "note": "Not compared yet: run `embedpipe compare` and bundle again.",
        }
    rows = [
        row
        for row in read_json(workspace.leaderboard, "run `embedpipe compare`")
        if (row["task"], row["arm"], row["k_shot"]) == (arm.task, arm.arm, "all")
    ]
    digests = read_digests({arm.task: workspace.sealed_digest(arm.task)})
    found = with_test_figures(rows, read_log(workspace.test_log), digests)
    if not found:
        return {
            "val": None,
            "test": None,
            "note": "Not on the leaderboard: run `embedpipe compare` and bundle again.",
        }
    return {"val": found[0]["val"], "test": found[0]["test"], "note": _note(workspace, arm, found[0])}


def _note(workspace: Workspace, arm: TrainedArm, row: Mapping[str, Any]) -> str:
    said = "" if row["test"] else "The test has not been opened for this arm. "
    if not row["selected"] or not workspace.selection.exists():
        return said + "This arm is not the selected one of its task."
    chosen = read_selection(workspace)["tasks"][arm.task]
    corrected = chosen["optimism"]["value"]
    return (
        f"{said}Selected among {chosen['num_candidates']:,} candidates on {chosen['num_samples']:,} validation "
        "samples, so its validation figures are optimistic"
        + (
            f"; corrected, its {metric_words(chosen['metric'])} is {corrected:.4g}."
            if corrected is not None
            else "."
        )
    )
