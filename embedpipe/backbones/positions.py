"""How many places of a text a model knows: as many as the table holds in which it looks up one place after the other.

Seen while a model runs, since neither configurations nor names of modules agree on it.
"""

# N texts, L tokens

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class PositionLookups(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the tables that are asked for ascending rows, one a token; a context around a run of a model.

    Parameters
    ----------
    num_tokens : int
        Of each text in that run, padding left out.

    Attributes
    ----------
    places : int or None
        Tokens of the longest text that there are rows for; None where no table was seen: the model computes places, or
        knows none.
    """

    def __init__(self, num_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places: int | None = None
        self._num_tokens = num_tokens

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.embedding.default:
            self._look(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _look(self, table: torch.Tensor, rows_NL: torch.Tensor) -> None:
        if rows_NL.ndim > 2 or rows_NL.shape[-1] < self._num_tokens or rows_NL.device.type == "meta":
            return
        first_L = rows_NL.reshape(-1, rows_NL.shape[-1])[0, : self._num_tokens]
        if len(first_L) < 3 or not bool((first_L.diff() == 1).all()):
            return
        places = table.shape[0] - int(first_L[0])  # some keep their first rows for padding
        self.places = min(places, self.places or places)
