"""The optimiser of a run: parameters in groups of one rate and one decay, and its state by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from embedpipe.training.penalties import Penalty
from embedpipe.training.plan import TrainingPlan
from embedpipe.training.policies import Phase

Parameters = Mapping[str, nn.Parameter]


def make_optimiser(
    plan: TrainingPlan, phases: Sequence[Phase], parameters: Parameters, penalty: Penalty | None
) -> torch.optim.Optimizer:
    """One optimiser for all phases, so that what it knows of a parameter outlives them.

    Each group has ``names`` and ``factors``, its factor on the learning rate in each phase. Biases, norms and what a
    penalty holds get no weight decay.
    """
    groups: dict[tuple[bool, tuple[float, ...]], list[str]] = {}
    for name, value in parameters.items():
        decays = value.ndim >= 2 and not (penalty is not None and penalty.covers(name))
        factors = tuple(phase.factor(name) for phase in phases)
        groups.setdefault((not decays, factors), []).append(name)
    described = [
        {
            "params": [parameters[name] for name in names],
            "names": names,
            "factors": factors,
            "weight_decay": 0.0 if flat else plan.weight_decay,
            "lr": plan.learning_rate,
        }
        for (flat, factors), names in sorted(groups.items(), key=lambda one: one[0][0])
    ]
    if plan.optimiser == "sgd":
        return torch.optim.SGD(described, lr=plan.learning_rate, momentum=plan.momentum)
    return torch.optim.AdamW(described, lr=plan.learning_rate)


def set_rates(optimiser: torch.optim.Optimizer, rate: float, phase: int) -> None:
    """Give every group its learning rate in a phase."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factors"][phase]


def state_of(optimiser: torch.optim.Optimizer, parameters: Parameters) -> dict[str, torch.Tensor]:
    """What the optimiser remembers, as tensors by ``parameter/key``."""
    return {
        f"{name}/{key}": kept
        for name, value in parameters.items()
        for key, kept in optimiser.state.get(value, {}).items()
        if isinstance(kept, torch.Tensor)
    }


def restore_state(
    optimiser: torch.optim.Optimizer, parameters: Parameters, state: Mapping[str, torch.Tensor]
) -> None:
    """Take back what `state_of` gave, each tensor in the memory format of its parameter."""
    for key, kept in state.items():
        name, _, what = key.rpartition("/")
        value = parameters[name]
        if kept.shape == value.shape:
            kept = torch.empty_like(value, dtype=kept.dtype).copy_(kept)
        optimiser.state[value][what] = kept
