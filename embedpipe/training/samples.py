"""Where a trainer's batches come from: anything that has a length and can be asked for some of its samples."""

# N samples, B of a batch

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from embedpipe.errors import DataError


class Samples(Protocol):
    """Training samples with their targets."""

    def __len__(self) -> int:
        """N."""
        ...

    def batch(self, index: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """Inputs (a tensor, or a tuple or dict of them) and targets of the samples at `index`, shape (B,).

        Draws no random numbers: it may be called ahead of time, from another thread.
        """
        ...


class TensorSamples:
    """Samples that lie in memory.

    Parameters
    ----------
    x, y : tensors, shape (N, ...)

    Raises
    ------
    DataError
        If there is none, or they are not as many.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        if len(x) == 0 or len(y) != len(x):
            raise DataError(
                f"expected as many targets as samples, at least one; found {len(y)} targets and {len(x)} samples"
            )
        self._x, self._y = x, y

    def __len__(self) -> int:
        return len(self._x)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Samples`."""
        return self._x[index.to(self._x.device)], self._y[index.to(self._y.device)]


def check_codes(codes: torch.Tensor | np.ndarray, num_classes: int, where: str) -> None:
    """Check that every target is the place of a class.

    Raises
    ------
    DataError
        If one lies outside; names the first and how many there are.
    """
    found = torch.as_tensor(codes)
    if found.is_floating_point():
        raise DataError(f"{where}: expected class codes, whole numbers, found {found.dtype}; give integers")
    outside = torch.nonzero((found < 0) | (found >= num_classes)).flatten()
    if len(outside):
        first = int(outside[0])
        raise DataError(
            f"{where}: expected labels of 0 to {num_classes - 1}, found {int(found[first])} at sample {first} "
            f"and {len(outside) - 1} more outside; the model has {num_classes} outputs: give it as many as "
            "there are classes, or check the labels"
        )


def to_device(value: Any, device: torch.device) -> Any:
    """A tensor, or a tuple, list or dict of them, on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(one, device) for key, one in value.items()}
    return type(value)(to_device(one, device) for one in value)
