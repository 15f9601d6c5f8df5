"""How long, how fast and by which optimiser a module is trained, and the schedule of its rate.

Plain values and arithmetic on them; nothing here touches a tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["constant", "cosine", "one_cycle"]
Optimiser = Literal["adamw", "sgd"]
Precision = Literal["float32", "bfloat16", "float16"]
Keep = Literal["best", "last"]

ONE_CYCLE_WARMUP = 0.2
LOWEST = 1e-4
"""Share of the peak rate at the end of a cosine."""


@dataclass(frozen=True)
class TrainingPlan:
    """What one training run is told.

    Attributes
    ----------
    epochs : int
        Most passes over the training samples, where no phases say otherwise.
    batch : int
        Samples a forward pass, over all processes together.
    learning_rate : float
        Peak of the schedule.
    weight_decay : float
        Decoupled for AdamW, an L2 penalty for SGD; on tensors of two or more axes: biases and norms are left alone.
    schedule : {"constant", "cosine", "one_cycle"}
        After the warm-up the rate stays, or falls by a cosine to a ten-thousandth. One cycle is a cosine with a
        fifth of warm-up. It starts anew with each phase.
    warmup : float
        Share of a phase's steps over which the rate rises from nothing.
    optimiser : {"adamw", "sgd"}
    momentum : float
        Of SGD.
    clip_norm : float or None
        Gradients are scaled down to this norm, over all parameters together.
    accumulate : int
        Batches whose gradients make one step: a batch that many times larger, in the memory of one.
    precision : {"float32", "bfloat16", "float16"}
        Of the forward pass, by autocast; weights stay float32. float16 scales the loss, and needs CUDA.
    ema : float or None
        Decay of a running average of the weights; what is scored and kept is the average.
    patience : int or None
        Epochs without a better score after which training stops; None: never early.
    min_gain : float
        A score counts as better only beyond this much.
    keep : {"best", "last"}
        Which weights the module has in the end.

    References
    ----------
    Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"; 2017, "SGDR". Smith and Topin 2018,
    "Super-Convergence" (one cycle). Polyak and Juditsky 1992 (averages of weights).
    """

    epochs: int
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup: float = 0.0
    optimiser: Optimiser = "adamw"
    momentum: float = 0.9
    clip_norm: float | None = None
    accumulate: int = 1
    precision: Precision = "float32"
    ema: float | None = None
    patience: int | None = None
    min_gain: float = 0.0
    keep: Keep = "best"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("warmup", "momentum", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name}: expected 0 or more and less than 1, found {value}")


def share_of_rate(plan: TrainingPlan, step: int, num_steps: int) -> float:
    """Share of the peak rate at a step of a phase, from 0."""
    share = ONE_CYCLE_WARMUP if plan.schedule == "one_cycle" else plan.warmup
    warm = max(1, int(num_steps * share)) if share else 0
    if step < warm:
        return (step + 1) / warm
    if plan.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, num_steps - warm)
    return LOWEST + (1.0 - LOWEST) * 0.5 * (1.0 + math.cos(math.pi * done))


def batch_bounds(num_samples: int, batch: int) -> list[tuple[int, int]]:
    """Batches of an epoch; a last one of a single sample joins the one before, since batch norm needs two."""
    bounds = [(start, min(start + batch, num_samples)) for start in range(0, num_samples, batch)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], num_samples)]
    return bounds
