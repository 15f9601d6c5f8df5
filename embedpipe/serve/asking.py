"""Ask a network about images or texts: stage them in threads, stack those of one shape, compute batch after batch."""

# N samples, L tokens

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from embedpipe.backbones.inputs import Inputs
from embedpipe.backbones.staging import PADDING


def ask(
    module: nn.Module,
    inputs: Sequence[Inputs],
    samples: Sequence[Any],
    *,
    batch: int,
    device: torch.device | str = "cpu",
    staged: Callable[[int, Any], list[torch.Tensor]] | None = None,
) -> np.ndarray:
    """What a network says of samples.

    Parameters
    ----------
    module
        On `device`; takes a batch for each of `inputs`.
    samples
        Decoded images, or texts; or anything that `staged` takes.
    staged
        What each of `inputs` stages of a sample, given with its place; by default that alone.

    Returns
    -------
    float32 array, shape (N, ...)
    """

    def stage(place: int, sample: Any) -> list[torch.Tensor]:
        return [one.stage(sample) for one in inputs]

    make = staged or stage
    by_length = bool(inputs[0].staging.lengths)
    found: list[Any] = [None] * len(samples)

    def answer(places: Sequence[int], rows: Sequence[list[torch.Tensor]]) -> None:
        columns = [_stacked(column, one) for column, one in zip(zip(*rows, strict=True), inputs, strict=True)]
        for place, value in zip(
            places, module(*(column.to(device) for column in columns)).float().cpu(), strict=True
        ):
            found[place] = value

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, torch.inference_mode():
        step = (
            len(samples) if by_length else batch
        )  # token ids are small; pixels of one batch are held at a time
        for start in range(0, len(samples), step):
            places = range(start, min(start + step, len(samples)))
            rows = list(pool.map(lambda place: make(place, samples[place]), places))
            if not by_length:
                answer(places, rows)
                continue
            grouped: dict[tuple[int, ...], list[int]] = {}
            for place, row in zip(places, rows, strict=True):
                lengths = (one.staging.padded(len(ids)) for one, ids in zip(inputs, row, strict=True))
                grouped.setdefault(tuple(lengths), []).append(place)
            for some in grouped.values():
                for i in range(0, len(some), batch):
                    answer(some[i : i + batch], [rows[place] for place in some[i : i + batch]])
    return torch.stack(found).numpy()


def _stacked(column: Sequence[torch.Tensor], inputs: Inputs) -> torch.Tensor:
    if not inputs.staging.lengths:
        return torch.stack(list(column))
    length = max(inputs.staging.padded(len(ids)) for ids in column)
    ids_NL = torch.full((len(column), length), PADDING, dtype=inputs.staging.dtype)
    for row, ids in zip(ids_NL, column, strict=True):
        row[: len(ids)] = ids
    return ids_NL
