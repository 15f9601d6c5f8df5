"""What happens to a vector behind its tap: dimensions cut, length made 1.

Knows nothing of models or stores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from embedpipe.errors import ConfigError
from embedpipe.spec import canonical_json

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Output:
    """Steps behind the taps.

    Attributes
    ----------
    dims : int or None
        Numbers kept of each vector, the first ones.
    l2 : bool
        Whether vectors are scaled to length 1 after that.
    norm : str or None
        ``final`` or ``none`` where the model has a final norm: done before the reduction, and said here.

    References
    ----------
    Kusupati et al. 2022, "Matryoshka Representation Learning".
    """

    dims: int | None = None
    l2: bool = False
    norm: str | None = None

    def check(self, where: str, shapes: Mapping[str, Shape]) -> None:
        """Refuse what does not fit a tap.

        Raises
        ------
        ConfigError
            If a tap is no vector, or has fewer numbers than are kept.
        """
        if self.dims is None and not self.l2:
            return
        for tap, shape in shapes.items():
            key = "l2" if self.dims is None else "dims"
            if len(shape) != 1:
                raise ConfigError(
                    f"{where}.{key}: expected taps that are vectors, found {tap} of shape {list(shape)}; reduce it, or "
                    "give it a backbone of its own"
                )
            if self.dims is not None and self.dims > shape[0]:
                raise ConfigError(
                    f"{where}.dims: expected at most {shape[0]}, as {tap} has, found {self.dims}"
                )

    def shape(self, shape: Shape) -> Shape:
        """Shape of a tap after them."""
        return shape if self.dims is None else (self.dims,)

    def apply(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Apply them to float32 features (N, D)."""
        if self.dims is not None:
            features = {tap: value[:, : self.dims] for tap, value in features.items()}
        if self.l2:
            features = {tap: F.normalize(value.float(), dim=1) for tap, value in features.items()}
        return features

    def described(self, canonical: str) -> str:
        """Canonical JSON of the steps before the model, with those behind the taps."""
        steps = {"dims": self.dims, "l2": self.l2 or None, "norm": self.norm}
        given = {key: value for key, value in steps.items() if value is not None}
        return canonical_json({**json.loads(canonical), "output": given}) if given else canonical
