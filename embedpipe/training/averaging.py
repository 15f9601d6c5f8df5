"""Weights between weights: a running average over the steps, and the line between two models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from embedpipe.errors import ShapeError

State = dict[str, torch.Tensor]


class RunningAverage:
    """Exponential moving average of everything a module holds, whole numbers apart, which follow it.

    Parameters
    ----------
    module : nn.Module
    decay : float
        Share of the average that a step keeps; less over the first steps, (1 + t) / (10 + t), so that the
        start is forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.state = copied(module)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1.0 - decay)
            else:
                self.state[name].copy_(value)


def copied(module: nn.Module) -> State:
    """A module's state, in memory of its own."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def interpolate(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor], alpha: float) -> State:
    """(1 − α) start + α end, of every float tensor; exactly `start` at 0 and `end` at 1.

    Whole numbers, such as counts of batches, are those of the nearer one.

    Raises
    ------
    ShapeError
        If the two do not hold the same tensors.

    References
    ----------
    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
    """
    if {name: value.shape for name, value in start.items()} != {n: v.shape for n, v in end.items()}:
        raise ShapeError("interpolate: expected two states of one architecture, found other names or shapes")
    if alpha in (0.0, 1.0):
        return {name: value.clone() for name, value in (start if alpha == 0.0 else end).items()}
    return {
        name: torch.lerp(value, end[name], alpha)
        if value.is_floating_point()
        else (value if alpha < 0.5 else end[name]).clone()
        for name, value in start.items()
    }
