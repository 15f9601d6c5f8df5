"""The training loop: mini-batches, AdamW, one-cycle or constant rate, best weights kept, early stop.

Takes a module and tensors in memory; leaves the module with the best weights it had. No decisions about
data, models or files are made here.
"""

# N samples

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from embedpipe.progress import Progress, silent

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast.

    Attributes
    ----------
    epochs : int
        Most passes over the training samples.
    batch : int
        Samples a step.
    learning_rate : float
        Peak of the one-cycle schedule, or the constant rate.
    weight_decay : float
        Decoupled (AdamW), on tensors of two or more axes: biases and norms are left alone.
    schedule : {"one_cycle", "constant"}
        One cycle: up over the first fifth of all steps, then down by a cosine to a ten-thousandth.
    patience : int or None
        Epochs without a better score after which training stops; None: never early.
    min_gain : float
        A score counts as better only beyond this much.

    References
    ----------
    Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization". Smith and Topin 2018,
    "Super-Convergence" (the one-cycle schedule).
    """

    epochs: int
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["one_cycle", "constant"] = "constant"
    patience: int | None = None
    min_gain: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")


@dataclass
class History:
    """What happened, an entry an epoch.

    Attributes
    ----------
    losses : list of float
        Mean training loss.
    scores : list of float
        Score of the held-out samples, higher is better; without a scorer, minus the training loss.
    best_epoch : int
        From 1; the epoch whose weights the module has. 0 if none had a finite score.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_epoch: int = 0

    @property
    def best_score(self) -> float:
        """Score of the weights that were kept."""
        return self.scores[self.best_epoch - 1] if self.best_epoch else -math.inf


def fit_module(
    module: nn.Module,
    loss: Loss,
    x: torch.Tensor,
    y: torch.Tensor,
    plan: TrainingPlan,
    generator: torch.Generator,
    *,
    score: Callable[[nn.Module], float] | None = None,
    augment: Augment | None = None,
    progress: Progress = silent,
) -> History:
    """Train a module in place, and leave it in eval mode with the best weights it had.

    Parameters
    ----------
    module : nn.Module
        On the device of `x`.
    loss : callable
        From (outputs, targets) of a batch to a scalar.
    x, y : tensors, shape (N, ...)
        Training samples and their targets.
    plan : TrainingPlan
        Schedule and stopping.
    generator : torch.Generator
        On the CPU; decides the order of samples and the augmentation. Dropout and initialisation come from
        torch's global one: run inside `deterministic`.
    score : callable, optional
        From the module in eval mode, without gradients, to a number; higher is better. Without it the
        training loss decides.
    augment : callable, optional
        From (batch, generator) to a batch of the same shape.
    progress : Progress
        Told after each step, in samples.

    Returns
    -------
    History
    """
    num_samples = len(x)
    if num_samples == 0 or len(y) != num_samples:
        raise ValueError(
            f"expected as many targets as samples, at least one; found {len(y)} and {num_samples}"
        )
    optimiser = torch.optim.AdamW(_groups(module, plan.weight_decay), lr=plan.learning_rate)
    batches = _batch_bounds(num_samples, plan.batch)
    num_steps = plan.epochs * len(batches)
    history = History()
    best = _copy_state(module)
    step = 0
    for epoch in range(plan.epochs):
        module.train()
        order = torch.randperm(num_samples, generator=generator).to(x.device)
        total = 0.0
        for start, stop in batches:
            rate = plan.learning_rate * (_one_cycle(step, num_steps) if plan.schedule == "one_cycle" else 1.0)
            for group in optimiser.param_groups:
                group["lr"] = rate
            chosen = order[start:stop]
            inputs = x[chosen] if augment is None else augment(x[chosen], generator)
            value = loss(module(inputs), y[chosen])
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimiser.step()
            total += float(value.detach()) * (stop - start)
            step += 1
            progress(epoch * num_samples + stop, plan.epochs * num_samples, "samples")
        history.losses.append(total / num_samples)
        module.eval()
        with torch.no_grad():
            history.scores.append(float(score(module)) if score is not None else -history.losses[-1])
        if history.scores[-1] > history.best_score + (plan.min_gain if history.best_epoch else 0.0):
            history.best_epoch = epoch + 1
            best = _copy_state(module)
        elif plan.patience is not None and epoch + 1 - history.best_epoch >= plan.patience:
            break
    module.load_state_dict(best)
    module.eval()
    return history


def _one_cycle(step: int, num_steps: int) -> float:
    """Share of the peak rate at a step: linear warm-up over a fifth, then a cosine."""
    warm = max(1, num_steps // 5)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, num_steps - warm)
    return 1e-4 + (1.0 - 1e-4) * 0.5 * (1.0 + math.cos(math.pi * done))


def _batch_bounds(num_samples: int, batch: int) -> list[tuple[int, int]]:
    """Batches of an epoch; a last one of a single sample joins the one before, since batch norm needs two."""
    bounds = [(start, min(start + batch, num_samples)) for start in range(0, num_samples, batch)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], num_samples)]
    return bounds


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    trained = [value for value in module.parameters() if value.requires_grad]
    return [
        {"params": [value for value in trained if value.ndim >= 2], "weight_decay": weight_decay},
        {"params": [value for value in trained if value.ndim < 2], "weight_decay": 0.0},
    ]


def _copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
