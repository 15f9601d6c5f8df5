"""Passes of the convex solver on a device that torch drives: value and slope of a loss over all rows.

The same sums as on the processor, in the same precision; steps, histories and preconditioners stay where they are,
since they are small. Rows stay on the device between passes where half of its free memory holds them. Knows
nothing of strengths or heads.
"""

# N rows, D features, G strengths, K outputs, M = G K, n rows of a piece

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embedpipe.heads.design import Design

if TYPE_CHECKING:
    import torch

MOST_ROWS = 8192
"""Rows of a piece: their slopes are summed in the precision of the pass, pieces in float64."""
PIECE = 1 << 26
"""Scores of a piece."""


class DeviceLoss(Protocol):
    """A loss whose targets lie on a device."""

    def __call__(self, scores_nGK: torch.Tensor, part: slice, /) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the rows `part`: losses (n, G, 1) or (n, G, K), and slope in the scores (n, G, K)."""


class DevicePasses:
    """Passes over the rows of a design in one precision."""

    def __init__(self, design: Design, loss: DeviceLoss, dtype: str, device: torch.device) -> None:
        self.design, self.loss, self.dtype, self.device = design, loss, dtype, device
        self._kept: list[tuple[slice, torch.Tensor]] | None = None
        self._room = self._room_nbytes()

    def run(self, flat_MD: np.ndarray, intercept_GK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value (G,), slope in the weights (M, D) and in the intercepts (M,), all float64."""
        import torch

        num_strengths, num_outputs = intercept_GK.shape
        weights_MD = torch.from_numpy(flat_MD).to(self.device)
        intercept = torch.from_numpy(intercept_GK).to(self.device)
        value_G, slope_MD, slope_M = (
            torch.zeros(shape, dtype=torch.float64, device=self.device)
            for shape in ((num_strengths,), flat_MD.shape, (len(flat_MD),))
        )
        piece_rows = min(max(PIECE // (num_strengths * num_outputs), 64), MOST_ROWS)
        for part, block in self._blocks():
            for at in range(0, len(block), piece_rows):
                X_nD = block[at : at + piece_rows]
                rows = slice(part.start + at, part.start + at + len(X_nD))
                scores_nGK = (X_nD @ weights_MD.T).view(len(X_nD), num_strengths, num_outputs) + intercept
                losses, slope_nGK = self.loss(scores_nGK, rows)
                slope_nM = slope_nGK.reshape(len(X_nD), -1)
                value_G += losses.double().sum(dim=(0, 2))
                slope_MD += (slope_nM.T @ X_nD).double()
                slope_M += slope_nM.sum(dim=0).double()
        found = tuple(one.cpu().numpy() for one in (value_G, slope_MD, slope_M))
        return found[0], found[1], found[2]

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        import torch

        if self._kept is not None:
            yield from self._kept
            return
        num_rows, num_features = self.design.rows.shape
        keep = np.dtype(self.dtype).itemsize * num_rows * num_features <= self._room
        kept = []
        for part, block in self.design.blocks(self.dtype, keep=False):
            on_device = torch.from_numpy(block).to(self.device)
            if keep:
                kept.append((part, on_device))
            yield part, on_device
        if keep:
            self._kept = kept

    def _room_nbytes(self) -> int:
        import torch

        if self.device.type != "cuda":
            return 1 << 30
        return int(torch.cuda.mem_get_info(self.device)[0]) // 2
