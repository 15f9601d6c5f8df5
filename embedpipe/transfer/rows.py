"""What is written of an arm: its row in the scores, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from embedpipe.evaluate.arms import ALL, PER_DRAW, k_label
from embedpipe.train.memo import seconds_of
from embedpipe.transfer.arms import MODEL, ArmFit, Job
from embedpipe.transfer.options import ArmOptions, TrainedOptions
from embedpipe.transfer.start import Start

CLASSIFIER = "classifier"
"""What stands for the tap of an arm that reads the source classifier."""


def arm_row(job: Job, options: ArmOptions, start: Start | None, k: int, fitted: ArmFit) -> dict[str, Any]:
    """Row of one arm at one number of labels, as those of heads; ``recipe`` tells it from them."""
    card, about = job.opened.store.card, fitted.about
    is_random = isinstance(options, TrainedOptions) and options.load == "none"
    row: dict[str, Any] = {
        "arm": job.arm,
        "head": job.name,
        "family": options.recipe,
        "recipe": options.recipe,
        "backbone": job.opened.name,
        "role": "random" if is_random else card.role,
        **_tap_of(start, about),
    }
    if k == ALL:
        best = about["best"]
        row |= {"candidates": about["candidates"], **about["said"]}
        row["params"] = {} if best is None else about["candidates"][best]["params"]
    else:
        row |= {"per_draw": about["draws"], "params": _shared(about["draws"])}
    row["note"] = _note(options, start, about, k)
    return {**row, "k_shot": k_label(k), "draws": len(fitted.scores)}


def cost_row(arm: str, k: int, folder: Path) -> dict[str, Any]:
    """What one arm cost; it reads no features."""
    return {
        "arm": arm,
        "k_shot": k_label(k),
        "seconds": seconds_of(folder),
        "nbytes": 0,
        "num_parameters": _num_parameters(folder) if k == ALL else None,
    }


def _tap_of(start: Start | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """The tap that is read; where draws chose several, that they did."""
    if start is None:
        return {"tap": CLASSIFIER, "node": CLASSIFIER, "reduction": "none", "depth": 1.0}
    tap = start.unit.tap
    if any(draw["tap"] != tap.name for draw in about.get("draws", ())):
        return {"tap": PER_DRAW}
    return {"tap": tap.name, "node": tap.node, "reduction": tap.reduction, "depth": tap.depth}


def _note(options: ArmOptions, start: Start | None, about: Mapping[str, Any], k: int) -> str | None:
    notes = []
    if start is not None and start.note:
        is_new = isinstance(options, TrainedOptions) and options.head == "new"
        notes.append(f"{'reads the tap of' if is_new else 'starts from'} {start.note}")
    if k == ALL:
        said = about["said"]
        best = None if about["best"] is None else about["candidates"][about["best"]]
        if best is None:
            notes.append("no candidate has a finite score on validation")
        elif "epoch" in best:
            notes.append(f"weights of epoch {best['epoch']} of {best['num_epochs']}, chosen on validation")
        failed = [one["params"]["learning_rate"] for one in about["candidates"] if "failure" in one]
        if failed:
            notes.append(f"the loss was not finite at learning rate {', '.join(map(str, failed))}")
        if "loaded" in said:
            notes.append(said["loaded"])
        if "leep" in said:
            notes.append(f"LEEP {said['leep']:.3f}")
    elif "leep" in about["draws"][0]:
        notes.append(f"LEEP {np.mean([one['leep'] for one in about['draws']]):.3f}")
    elif isinstance(options, TrainedOptions):
        notes.append("last weights: nothing chooses among epochs")
    return "; ".join(notes) or None


def _shared(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = draws[0]["params"]
    return {name: value for name, value in first.items() if all(d["params"][name] == value for d in draws)}


def _num_parameters(folder: Path) -> int | None:
    if not (folder / MODEL).is_file():
        return None
    with safe_open(folder / MODEL, framework="np") as tensors:
        sizes = [math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()]  # noqa: SIM118
    return int(sum(sizes))
