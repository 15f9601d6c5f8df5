"""What is added to a loss: a pull back to where the weights started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from embedpipe.training.policies import _within


class Penalty(Protocol):
    """A term of the loss that depends on the weights alone."""

    def covers(self, name: str) -> bool:
        """Whether it holds this parameter, which then gets no weight decay beside it."""
        ...

    def __call__(self, module: nn.Module) -> torch.Tensor:
        """The term, a scalar."""
        ...


class L2SP:
    """Half the squared distance to the starting point: strength/2 · Σ‖w − w₀‖².

    Parameters
    ----------
    start : mapping of str to tensor
        Weights of the source model, by the names that the trained module has them under.
    strength : float
    leave_out : sequence of str
        Names of new parts, such as the head, which have no source to stay near.

    References
    ----------
    Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks".
    """

    def __init__(
        self, start: Mapping[str, torch.Tensor], strength: float, leave_out: Sequence[str] = ()
    ) -> None:
        self.strength = strength
        self._start = {
            name: value.detach().clone()
            for name, value in start.items()
            if value.is_floating_point() and not any(_within(name, one) for one in leave_out)
        }

    def covers(self, name: str) -> bool:
        """See `Penalty`."""
        return name in self._start

    def __call__(self, module: nn.Module) -> torch.Tensor:
        """See `Penalty`; frozen parameters stand where they started, and are passed over."""
        terms = []
        for name, value in module.named_parameters():
            if name in self._start and value.requires_grad:
                start = self._start[name] = self._start[name].to(value.device)
                terms.append((value - start).square().sum())
        if not terms:
            return torch.zeros(())
        return 0.5 * self.strength * torch.stack(terms).sum()
