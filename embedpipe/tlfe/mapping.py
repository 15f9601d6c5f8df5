"""From features of the source to the shape that the target has at a place: linear, convolutional, layer by layer.

Knows shapes and modules; nothing of stores or training.
"""

# N samples, C channels, H W rows and columns, T tokens, D features

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from embedpipe.errors import ConfigError, ShapeError
from embedpipe.params import did_you_mean

Shape = tuple[int, ...]
MAPPINGS = ("linear", "conv", "layerwise")
MOST_WEIGHTS = 1 << 26
"""Weights of one linear mapping: 256 MB in float32, and more of them than samples to learn from."""


class Flat(nn.Module):
    """Every number of a feature to every number of the shape: a transform matrix."""

    def __init__(self, source: Shape, target: Shape) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(source), math.prod(target))
        self._target = target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mapped: torch.Tensor = self.linear(x.flatten(1))
        return mapped.reshape(x.shape[0], *self._target)


class PerToken(nn.Module):
    """The same matrix for every token."""

    def __init__(self, source: Shape, target: Shape) -> None:
        super().__init__()
        self.linear = nn.Linear(source[1], target[1])

    def forward(self, x_NTD: torch.Tensor) -> torch.Tensor:
        mapped: torch.Tensor = self.linear(x_NTD)
        return mapped


class Conv(nn.Module):
    """A 1×1 convolution to the channels, and the rows and columns of the shape: averaged down, or interpolated up."""

    def __init__(self, source: Shape, target: Shape) -> None:
        super().__init__()
        self.conv = nn.Conv2d(source[0], target[0], 1)
        self._size = (target[1], target[2])

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        size = tuple(x_NCHW.shape[2:])
        if size[0] > self._size[0] or size[1] > self._size[1]:
            x_NCHW = F.adaptive_avg_pool2d(x_NCHW, self._size)
        mapped: torch.Tensor = self.conv(x_NCHW)
        if tuple(mapped.shape[2:]) != self._size:
            mapped = F.interpolate(mapped, self._size, mode="bilinear", align_corners=False)
        return mapped


class Layerwise(nn.Module):
    """Each layer mapped on its own, added up with learned weights of sum 1.

    References
    ----------
    Peters et al. 2018, "Deep Contextualized Word Representations", equation 1.
    """

    def __init__(self, sources: Sequence[Shape], target: Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_one(source, target) for source in sources)
        self.mixture = nn.Parameter(torch.zeros(len(sources)))

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        weights = self.mixture.softmax(dim=0)
        mapped = [layer(x) for layer, x in zip(self.layers, features, strict=True)]
        total: torch.Tensor = weights[0] * mapped[0]
        for weight, one in zip(weights[1:], mapped[1:], strict=True):
            total = total + weight * one
        return total


def make_mapping(wanted: str | None, sources: dict[str, Shape], target: Shape, place: str) -> nn.Module:
    """A mapping with fresh weights from torch's global generator.

    Parameters
    ----------
    wanted
        ``linear``, ``conv`` or ``layerwise``; None: `layerwise` for several layers, `conv` from a map to a map,
        `linear` else.
    sources
        Shape of one sample's features by layer of the source.
    target
        Shape that the target network has at `place`.

    Raises
    ------
    ConfigError
        If there is no such mapping.
    ShapeError
        If it does not lead from these shapes to that one.
    """
    if wanted is not None and wanted not in MAPPINGS:
        raise ConfigError(
            f"mapping: expected {', '.join(MAPPINGS)}, found {wanted!r}{did_you_mean(wanted, MAPPINGS)}"
        )
    if wanted == "layerwise" or (wanted is None and len(sources) > 1):
        for layer, source in sources.items():
            _check("layerwise", layer, source, target, place)
        return Layerwise(list(sources.values()), target)
    if len(sources) > 1:
        raise ShapeError(
            f"mapping {wanted!r}: expected one layer, found {len(sources)} ({', '.join(sources)}); take 'layerwise'"
        )
    ((layer, source),) = sources.items()
    if wanted == "conv" and not (len(source) == len(target) == 3):
        raise ShapeError(
            f"mapping 'conv': expected a map (channels, rows, columns) at both ends, found {layer} of shape {source} "
            f"and the target's {place} of shape {target}; take 'linear', or another layer or place"
        )
    if wanted == "linear":
        _check_size(layer, source, target, place)
        return PerToken(source, target) if _are_tokens(source, target) else Flat(source, target)
    _check(wanted or "chosen", layer, source, target, place)
    return _one(source, target)


def _one(source: Shape, target: Shape) -> nn.Module:
    if len(source) == len(target) == 3:
        return Conv(source, target)
    return PerToken(source, target) if _are_tokens(source, target) else Flat(source, target)


def _are_tokens(source: Shape, target: Shape) -> bool:
    return len(source) == len(target) == 2 and source[0] == target[0]


def _check(mapping: str, layer: str, source: Shape, target: Shape, place: str) -> None:
    if not (len(source) == len(target) == 3 or _are_tokens(source, target)):
        _check_size(layer, source, target, place)


def _check_size(layer: str, source: Shape, target: Shape, place: str) -> None:
    if _are_tokens(source, target):
        return
    num_weights = math.prod(source) * math.prod(target)
    if num_weights > MOST_WEIGHTS:
        raise ShapeError(
            f"a linear mapping from {layer} of shape {source} to the target's {place} of shape {target} would have "
            f"{num_weights:,} weights, expected at most {MOST_WEIGHTS:,}; take a deeper layer, or a place behind the "
            "target's pooling"
        )
