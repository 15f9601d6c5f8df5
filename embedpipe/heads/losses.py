"""Losses of a stack of members: their value, and their gradient with respect to the outputs, written out.

Every head differentiates its own outputs alone, so that one set of formulas serves them all. A label that is
missing (code -1, or NaN) counts nothing. Knows nothing of networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

# G members, K outputs, M rows (or rows x places, where each place has a label)

LossName = Literal["softmax", "sigmoid", "square"]


@dataclass(frozen=True)
class Wanted:
    """What outputs should be.

    Attributes
    ----------
    values : float32 tensor, shape (K, M)
        One-hot classes, truths of each label, or numbers.
    weight : float32 tensor, shape (1, M) or (K, M), or None
        Of each entry, 0 where the label is missing; None where all count 1.
    """

    values: torch.Tensor
    weight: torch.Tensor | None

    def part(self, place: slice) -> Wanted:
        """The rows at `place`."""
        return Wanted(self.values[:, place], None if self.weight is None else self.weight[:, place])

    def to(self, device: torch.device) -> Wanted:
        """The same on another device."""
        return Wanted(self.values.to(device), None if self.weight is None else self.weight.to(device))

    @property
    def count(self) -> float:
        """Number of entries with a label (of rows, where the loss is softmax); at least 1."""
        if self.weight is None:
            return float(self.values.shape[1])
        return max(float((self.weight > 0).sum()) / self.weight.shape[0], 1.0)

    @property
    def mass(self) -> float:
        """Weight of all entries, in the same terms as `count`."""
        if self.weight is None:
            return float(self.values.shape[1])
        return float(self.weight.double().sum()) / self.weight.shape[0]


def wanted_of(name: LossName, y: np.ndarray, weight: np.ndarray | None, num_outputs: int) -> Wanted:
    """Targets in the form that the losses read.

    Parameters
    ----------
    y
        ``softmax``: int64 codes, shape (N, ...), -1 missing. ``sigmoid``: codes 0 and 1, shape (N,), or
        truths, shape (N, K). ``square``: numbers, shape (N, ...) of one output or (N, K). NaN is missing.
    weight
        Of each row, shape (N,), or None.
    num_outputs
        K.
    """
    import torch

    if name == "softmax":
        codes = torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64)).reshape(-1)
        values = torch.zeros((num_outputs, len(codes)))
        labelled = codes >= 0
        values.scatter_(0, codes.clamp(min=0)[None], labelled[None].float())
        known = labelled[None]
    else:
        columns = y.reshape(len(y), -1).T if num_outputs > 1 else y.reshape(1, -1)
        raw = torch.from_numpy(np.ascontiguousarray(columns, dtype=np.float32))
        known = ~torch.isnan(raw)
        values = torch.nan_to_num(raw)
    if weight is None:
        return Wanted(values, None if bool(known.all()) else known.float())
    per_row = values.shape[1] // len(weight)
    of_row = torch.from_numpy(np.repeat(weight.astype(np.float32), per_row))
    return Wanted(values, of_row[None] * known)


def errors(name: LossName, out_GKM: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """Gradient of each member's mean loss with respect to its outputs, shape (G, K, M)."""
    if name == "softmax":
        error_GKM = out_GKM.softmax(dim=1).sub_(wanted.values)
    elif name == "sigmoid":
        error_GKM = out_GKM.sigmoid().sub_(wanted.values)
    else:
        error_GKM = (out_GKM - wanted.values).mul_(2.0)
    if wanted.weight is not None:
        error_GKM.mul_(wanted.weight)
    return error_GKM.mul_(1.0 / wanted.count)


def losses(name: LossName, out_GKM: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """Weighted sum of each member's losses, shape (G,); divided by `Wanted.mass` it is the mean."""
    from torch.nn import functional as F

    if name == "softmax":
        each = -(F.log_softmax(out_GKM, dim=1) * wanted.values).sum(dim=1, keepdim=True)
    elif name == "sigmoid":
        each = F.softplus(out_GKM) - out_GKM * wanted.values
    else:
        each = (out_GKM - wanted.values).square()
    if wanted.weight is not None:
        each = each * wanted.weight
    return each.double().sum(dim=(1, 2)) / (1 if name == "softmax" else out_GKM.shape[1])
