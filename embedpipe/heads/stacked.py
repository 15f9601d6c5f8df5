"""Train perceptrons of one shape together: one set of batches, weights stacked along a leading axis.

Each member of the stack has its own learning rate, decay, dropout, stopping and best weights, and leaves
the stack when it has stopped. Knows arrays alone: nothing of heads, scaling or classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# N rows, B rows of a batch, D features, G members, H hidden units, K outputs

BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Recipe:
    """What members of a stack may differ in."""

    lr: float
    weight_decay: float
    dropout: float


@dataclass(frozen=True)
class Fitted:
    """One trained member: float32 weights of its best epoch, and how training went."""

    hidden_weights: np.ndarray
    hidden_bias: np.ndarray
    output_weights: np.ndarray
    output_bias: np.ndarray
    num_epochs: int
    best_epoch: int
    stopped_early: bool


def train_stack(
    X_ND: np.ndarray,
    y: np.ndarray,
    X_val: np.ndarray | None,
    y_val: np.ndarray | None,
    *,
    num_outputs: int,
    hidden: int,
    recipes: Sequence[Recipe],
    epochs: int,
    patience: int,
    batch: int,
    seed: int,
) -> list[Fitted]:
    """Train one perceptron per recipe.

    Parameters
    ----------
    X_ND, X_val
        Float32 rows.
    y, y_val
        int64 codes (cross-entropy) or float64 values (squared error), shape (N,).
    num_outputs
        K: classes, or 1.
    epochs, patience, batch
        As `MlpClassifierHead` has them; without validation rows all `epochs` are made and the last weights
        are kept.
    seed
        All members begin with the same weights and see the same batches, so that a member's fit does not
        depend on which others are trained beside it.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    # dropout has a stream of its own: a member without it sees the same order as one trained alone
    masks = torch.Generator().manual_seed(seed + 1)
    X = torch.from_numpy(np.ascontiguousarray(X_ND))
    target = _target(y)
    num_rows, num_features = X.shape
    params = [
        _repeat(_uniform((num_features, hidden), num_features, generator), len(recipes)),
        _repeat(_uniform((1, hidden), num_features, generator), len(recipes)),
        _repeat(_uniform((hidden, num_outputs), hidden, generator), len(recipes)),
        _repeat(_uniform((1, num_outputs), hidden, generator), len(recipes)),
    ]
    lr, decay, dropout = (
        torch.tensor([getattr(recipe, name) for recipe in recipes], dtype=torch.float32)[:, None, None]
        for name in ("lr", "weight_decay", "dropout")
    )
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]
    members = list(range(len(recipes)))
    best_loss = torch.full((len(recipes),), torch.inf)
    best_epoch = [0] * len(recipes)
    best = [[p[g].clone() for p in params] for g in members]
    results: dict[int, Fitted] = {}
    any_dropout = any(recipe.dropout for recipe in recipes)
    step = 0
    for epoch in range(1, epochs + 1):
        order = torch.randperm(num_rows, generator=generator)
        for start in range(0, num_rows, batch):
            rows = order[start : start + batch]
            step += 1
            mask = None
            if any_dropout:
                kept = torch.rand((len(rows), hidden), generator=masks) >= dropout
                mask = kept / (1.0 - dropout)
            gradients = _gradients(params, X[rows], target[rows], mask)
            _adamw(params, gradients, moments, lr, decay, step)
        losses = None if X_val is None or y_val is None else _losses(params, X_val, y_val)
        leaving = []
        for here, member in enumerate(members):
            if losses is None or losses[here] < best_loss[member]:
                best_loss[member] = torch.inf if losses is None else losses[here]
                best_epoch[member] = epoch
                best[member] = [p[here].clone() for p in params]
            early = losses is not None and epoch - best_epoch[member] >= patience
            if early or epoch == epochs:
                leaving.append(here)
                results[member] = _fitted(best[member], epoch, best_epoch[member], early)
        if len(leaving) == len(members):
            break
        if leaving:
            keep = [here for here in range(len(members)) if here not in leaving]
            members = [members[here] for here in keep]
            params = [p[keep] for p in params]
            moments = [(first[keep], second[keep]) for first, second in moments]
            lr, decay, dropout = lr[keep], decay[keep], dropout[keep]
    return [results[member] for member in range(len(recipes))]


def _gradients(
    params: list[torch.Tensor], x_BD: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None
) -> list[torch.Tensor]:
    """Gradients of the mean loss of a batch, written out: at this size autograd costs more than the sums."""
    import torch

    hidden_weights, hidden_bias, output_weights, output_bias = params
    num_members = len(hidden_weights)
    x_GBD = x_BD.expand(num_members, *x_BD.shape)
    active_GBH = torch.baddbmm(hidden_bias, x_GBD, hidden_weights).relu_()
    dropped_GBH = active_GBH if mask is None else active_GBH * mask
    out_GBK = torch.baddbmm(output_bias, dropped_GBH, output_weights)
    if target.dtype == torch.int64:
        error_GBK = out_GBK.softmax(dim=-1)
        error_GBK[:, torch.arange(len(x_BD)), target] -= 1.0
    else:
        error_GBK = 2.0 * (out_GBK - target[:, None])
    error_GBK /= len(x_BD)
    back_GBH = error_GBK @ output_weights.transpose(1, 2)
    if mask is not None:
        back_GBH *= mask
    back_GBH *= active_GBH > 0
    return [
        x_GBD.transpose(1, 2) @ back_GBH,
        back_GBH.sum(dim=1, keepdim=True),
        dropped_GBH.transpose(1, 2) @ error_GBK,
        error_GBK.sum(dim=1, keepdim=True),
    ]


def _adamw(
    params: list[torch.Tensor],
    gradients: list[torch.Tensor],
    moments: list[tuple[torch.Tensor, torch.Tensor]],
    lr: torch.Tensor,
    decay: torch.Tensor,
    step: int,
) -> None:
    """One step of AdamW in place, with a learning rate and a decay for each member."""
    correction_1, correction_2 = 1.0 - BETAS[0] ** step, 1.0 - BETAS[1] ** step
    for p, gradient, (first, second) in zip(params, gradients, moments, strict=True):
        p *= 1.0 - lr * decay
        first.lerp_(gradient, 1.0 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1.0 - BETAS[1])
        p -= (lr / correction_1) * first / ((second / correction_2).sqrt_() + EPSILON)


def _losses(params: list[torch.Tensor], X_val: np.ndarray, y_val: np.ndarray) -> torch.Tensor:
    """Mean validation loss of each member, shape (G,)."""
    import torch

    hidden_weights, hidden_bias, output_weights, output_bias = params
    X, target = torch.from_numpy(np.ascontiguousarray(X_val)), _target(y_val)
    hidden_GNH = torch.baddbmm(hidden_bias, X.expand(len(hidden_weights), *X.shape), hidden_weights).relu_()
    out_GNK = torch.baddbmm(output_bias, hidden_GNH, output_weights)
    if target.dtype == torch.int64:
        losses_GN = -out_GNK.log_softmax(dim=-1)[:, torch.arange(len(X)), target]
    else:
        losses_GN = (out_GNK[..., 0] - target).square()
    return losses_GN.mean(dim=1)


def _target(y: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(y if y.dtype == np.int64 else y.astype(np.float32))


def _uniform(shape: tuple[int, int], fan_in: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform in ±1/sqrt(fan_in), as torch's own linear layers begin."""
    import torch

    uniform: torch.Tensor = (torch.rand(shape, generator=generator) * 2.0 - 1.0) / float(fan_in) ** 0.5
    return uniform


def _repeat(p: torch.Tensor, num_members: int) -> torch.Tensor:
    return p.repeat(num_members, 1, 1)


def _fitted(best: list[torch.Tensor], num_epochs: int, best_epoch: int, stopped_early: bool) -> Fitted:
    hidden_weights, hidden_bias, output_weights, output_bias = (p.numpy() for p in best)
    return Fitted(
        hidden_weights, hidden_bias[0], output_weights, output_bias[0], num_epochs, best_epoch, stopped_early
    )
