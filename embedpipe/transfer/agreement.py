"""Whether the live model computes what the store holds: looked at before anything is trained from a cached head.

Reads features and images of some samples; refuses where they differ.
"""

# N samples, D features

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedpipe.backbones.backbone import Backbone
from embedpipe.errors import ProbeMismatch, SpecMismatch
from embedpipe.extract.jpeg import decoder_like
from embedpipe.features.card import BackboneCard

MOST_SAMPLES = 256
TOLERANCE = {"float32": 1e-4, "float16": 3e-3, "bfloat16": 1.5e-2}
"""Relative L2 error, by the precision that the store was computed in. The same as for its built-in batch."""


@dataclass(frozen=True)
class Agreement:
    """How far live features lie from cached ones.

    Attributes
    ----------
    error : float
        See `relative_error`.
    tolerance : float
    num_samples : int
    """

    error: float
    tolerance: float
    num_samples: int


def as_stored(backbone: Backbone, card: BackboneCard, where: str) -> Backbone:
    """The backbone with the preprocessing that the store was made with.

    Raises
    ------
    SpecMismatch
        If weights, architecture, preprocessing or decoder are not those of the store; names the first.
    """
    spec = card.spec
    backbone = backbone.resampling_as(spec.preprocessing)
    for name, mine, there in (
        ("architecture", backbone.architecture, spec.architecture),
        ("weights", backbone.weights_digest, spec.weights_digest),
        ("preprocessing", backbone.preprocessing, spec.preprocessing),
        ("decoder", decoder_like(spec.decoder), spec.decoder),
    ):
        if mine != there:
            raise SpecMismatch(
                f"{where}: the live backbone {card.name!r} is not the one of its store: expected {name} {there}, "
                f"found {mine}; run `embedpipe extract {card.name}`"
            )
    return backbone


def check_agreement(
    live_ND: np.ndarray, cached_ND: np.ndarray, card: BackboneCard, tap: str, where: str
) -> Agreement:
    """Compare live features with those of the store.

    Raises
    ------
    ProbeMismatch
        If they differ by more than the tolerance of the store's precision.
    """
    tolerance = TOLERANCE[card.spec.precision]
    error = relative_error(live_ND, cached_ND)
    if not error <= tolerance:
        raise ProbeMismatch(
            f"{where}: live features of {card.name}/{tap} differ from the cached ones by {error:.2g} (relative L2 "
            f"over {len(live_ND)} samples, expected within {tolerance:g}): what heads have learnt does not hold for "
            f"the live model, so nothing is trained from it; run `embedpipe extract {card.name}` with the library "
            "versions of this run"
        )
    return Agreement(error, tolerance, len(live_ND))


def relative_error(live_ND: np.ndarray, cached_ND: np.ndarray) -> float:
    """L2 distance over all samples, relative to the spread of the cached features about their mean.

    Parameters
    ----------
    live_ND : float32 array
        Rounded here to float16 where that is what the store's values are.
    cached_ND : float32 array
    """
    if live_ND.shape != cached_ND.shape:
        return float("inf")
    cached_ND = cached_ND.reshape(len(cached_ND), -1).astype(np.float64)
    live_ND = live_ND.reshape(len(live_ND), -1)
    with np.errstate(over="ignore"):
        is_half = np.array_equal(cached_ND.astype(np.float16).astype(np.float64), cached_ND)
        rounded_ND = (live_ND.astype(np.float16) if is_half else live_ND).astype(np.float64)
    spread = np.linalg.norm(cached_ND - cached_ND.mean(axis=0))
    # a tap that gives every sample the same feature has no spread of its own
    floor = 1e-6 * max(1.0, float(np.linalg.norm(cached_ND)))
    return float(np.linalg.norm(rounded_ND - cached_ND) / max(float(spread), floor))
