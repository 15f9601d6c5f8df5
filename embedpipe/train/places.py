"""Places of dense tasks: what part of an image a backbone sees, and how its own grid becomes the one that is judged.

Every backbone resizes the shorter side and crops the centre, so what it sees is a square in the middle of the image, of
a share of the shorter side. Arms are judged on the square that all backbones of the task see, so that none is judged on
places that it was not shown.
"""

# N samples, K classes, Y X rows and columns of the tap's grid, G places a side that are judged

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ConfigError
from embedpipe.features.card import BackboneCard


def seen_share(card: BackboneCard) -> float:
    """Side of the square that a backbone sees, as a share of the shorter side of the image.

    Raises
    ------
    ConfigError
        If its preprocessing is not a resize of the shorter side and a centre crop.
    """
    try:
        steps = json.loads(card.spec.preprocessing)
        if steps.get("aspect") == "bordered" or "longest_px" in steps:
            raise ValueError("the square is of another part of each image")
        return min(1.0, float(steps["crop_px"]) / float(steps["resize_px"]))
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"backbone {card.name!r}: a dense task needs to know which part of an image it sees: expected "
            "preprocessing by a resize of the shorter side and a centre crop, found something else; name other "
            "`backbones` in the task"
        ) from error


def seen_by_all(cards: Mapping[str, BackboneCard]) -> float:
    """Side of the square that every backbone sees."""
    return min((seen_share(card) for card in cards.values()), default=1.0)


def judged_codes(
    proba_NKYX: npt.NDArray[np.floating], grid: int, inside: float = 1.0
) -> npt.NDArray[np.int64]:
    """The likeliest class at each judged place, [N, G * G], row by row.

    Probabilities are resampled between the places of the tap, as maps of logits are in semantic segmentation: bilinear,
    and antialiased where the tap's grid is the finer one. A grid equal to the judged one is taken as it is.

    Parameters
    ----------
    inside
        Side of the judged square as a share of the side of what the tap saw; both have the same centre.
    """
    down_GY, across_GX = (_weights(grid, places, inside) for places in proba_NKYX.shape[2:])
    judged_NKGG = np.einsum("gy,nkyx,hx->nkgh", down_GY, proba_NKYX, across_GX, optimize=True)
    codes: npt.NDArray[np.int64] = judged_NKGG.argmax(axis=1).reshape(len(proba_NKYX), grid * grid)
    return codes


def _weights(grid: int, places: int, inside: float) -> npt.NDArray[np.float64]:
    """What each place of the tap counts at each judged one along an axis, [G, places]: a triangle around its centre."""
    step = places * inside / grid
    centres_G = (np.arange(grid) + 0.5) * step + places * (1 - inside) / 2 - 0.5
    apart = np.abs(np.arange(places) - centres_G[:, None]) / max(1.0, step)
    triangle = np.maximum(0.0, 1.0 - apart)
    weights: npt.NDArray[np.float64] = triangle / triangle.sum(axis=1, keepdims=True)
    return weights
