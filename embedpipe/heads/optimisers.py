"""Optimisers of a stack: one step for all members, each with its own learning rate and decay.

References
----------
Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2 (AdamW).
Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from embedpipe.heads.nets import Params

# G members

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Optimiser:
    """State of every member.

    Parameters
    ----------
    params
        Of all members, each (G, ...); changed in place by `step`.
    lr, weight_decay : float32 tensor, shape (G,)
    decays
        Whether decay touches the parameter of a name.
    """

    num_moments = 1

    def __init__(
        self, params: Params, lr: torch.Tensor, weight_decay: torch.Tensor, decays: Callable[[str], bool]
    ) -> None:
        import torch

        self.lr, self.weight_decay, self.decays = lr, weight_decay, decays
        self.moments = {
            name: [torch.zeros_like(p) for _ in range(self.num_moments)] for name, p in params.items()
        }

    def keep(self, members: list[int]) -> None:
        """Drop the state of all members but these."""
        self.lr, self.weight_decay = self.lr[members], self.weight_decay[members]
        self.moments = {name: [moment[members] for moment in of] for name, of in self.moments.items()}

    def step(self, params: Params, gradients: Params, step: int, factor: float) -> None:
        """One step in place.

        Parameters
        ----------
        gradients
            In the same shapes; may be overwritten.
        step
            Counts from 1.
        factor
            What the schedule multiplies every learning rate by.
        """
        for name, p in params.items():
            shape = (-1,) + (1,) * (p.ndim - 1)
            decay = self.weight_decay.view(shape) if self.decays(name) else None
            self._update(p, gradients[name], self.moments[name], (self.lr * factor).view(shape), decay, step)

    def _update(
        self,
        p: torch.Tensor,
        gradient: torch.Tensor,
        moments: list[torch.Tensor],
        lr: torch.Tensor,
        decay: torch.Tensor | None,
        step: int,
    ) -> None:
        raise NotImplementedError


class Sgd(Optimiser):
    """Momentum 0.9; decay is the L2 penalty ``weight_decay / 2 * |weights|²`` of the objective."""

    momentum = 0.9

    def _update(
        self,
        p: torch.Tensor,
        gradient: torch.Tensor,
        moments: list[torch.Tensor],
        lr: torch.Tensor,
        decay: torch.Tensor | None,
        step: int,
    ) -> None:
        (velocity,) = moments
        if decay is not None:
            gradient.addcmul_(p, decay)
        velocity.mul_(self.momentum).add_(gradient)
        p.addcmul_(velocity, lr, value=-1.0)


class AdamW(Optimiser):
    """Decay is decoupled: a share ``lr * weight_decay`` of the weights at each step."""

    num_moments = 2

    def _update(
        self,
        p: torch.Tensor,
        gradient: torch.Tensor,
        moments: list[torch.Tensor],
        lr: torch.Tensor,
        decay: torch.Tensor | None,
        step: int,
    ) -> None:
        import torch

        first, second = moments
        if decay is not None:
            p.mul_(1.0 - lr * decay)
        first.lerp_(gradient, 1.0 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1.0 - BETAS[1])
        correction_1, correction_2 = 1.0 - BETAS[0] ** step, 1.0 - BETAS[1] ** step
        # lr · (first / c1) / (sqrt(second / c2) + eps), with the corrections moved to the small factors
        # in the memory of the gradient: new memory would cost more than the arithmetic
        root = torch.sqrt(second, out=gradient).add_(EPSILON * correction_2**0.5)
        p.addcmul_(torch.div(first, root, out=root), lr * (correction_2**0.5 / correction_1), value=-1.0)


OPTIMISERS: dict[str, type[Optimiser]] = {"sgd": Sgd, "adamw": AdamW}
