"""Preprocessing as the files of a model describe it, in the terms of `Preprocessing`.

Reads what transformers and timm write beside their weights. What cannot be said in those terms is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.errors import ConfigError

_FILTERS = {
    0: "nearest-exact",  # to Pillow both are one; on tensors this is the one that Pillow does
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}  # Pillow's numbers
REMEDY = "wrap the model with a python: factory, or say all yourself with preprocess: {resize_px, crop_px, mean, std}"
_NAMES = {*_FILTERS.values(), "nearest"}


def of_processor(raw: Mapping[str, Any], image_px: int | None, where: str) -> Preprocessing:
    """Of an image processor of transformers: what it says of itself, or else its ``preprocessor_config.json``.

    Parameters
    ----------
    raw
        With the defaults of its class. Of a file alone, a size that is a bare number means what it meant for most
        classes: both sides, or the shorter one where a crop follows.
    image_px
        Side of the input by the model's own configuration, where the processor names no size.

    Raises
    ------
    ConfigError
        If it does something else than resize, crop, scale to 0…1 and normalise.
    """
    unusual = [
        key
        for key in ("do_pad", "do_reduce_labels", "do_flip_channel_order", "do_rescale_offset")
        if raw.get(key)
    ]
    unusual += [f"{key}: false" for key in ("do_rescale", "do_resize") if not raw.get(key, True)]
    if abs(float(raw.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-3:
        unusual.append(f"rescale_factor: {raw['rescale_factor']}")
    crops = bool(raw.get("do_center_crop"))
    size, crop = raw.get("size"), raw.get("crop_size") if crops else None
    found = _resize(size, crops)
    if size is not None and found is None:
        unusual.append(f"size: {_shown(size)}")
    if crop is not None and _side(crop) is None:
        unusual.append(f"crop_size: {_shown(crop)}")
    if unusual:
        raise ConfigError(
            f"{where}: the model's image processor asks for {', '.join(unusual)}, which is not done here; {REMEDY}"
        )
    resize_px, squash, longest_px = found or (None, False, None)
    crop_px = _side(crop) or resize_px or image_px
    if crop_px is None:
        raise ConfigError(f"{where}: the model's files name no image size; set preprocess.crop_px")
    resize_px = resize_px or crop_px
    if (
        raw.get("crop_pct") and crop is None
    ):  # ConvNeXt: small sizes are resized by it and cropped, large ones squashed
        squash, crop_px = resize_px >= 384, resize_px
        resize_px = resize_px if squash else int(resize_px / float(raw["crop_pct"]))
    normalise = raw.get("do_normalize", True)
    resample = raw.get("resample", 2)
    name = _FILTERS.get(int(resample), "bilinear") if isinstance(resample, int) else str(resample)
    return Preprocessing(
        resize_px,
        crop_px,
        _numbers(raw.get("image_mean"), 0.5) if normalise else (0.0,) * 3,
        _numbers(raw.get("image_std"), 0.5) if normalise else (1.0,) * 3,
        name if name in _NAMES else "bilinear",
        squash=squash,
        longest_px=longest_px,
        crop_floor=not (squash and resize_px == crop_px),  # of what is not cropped nothing is rounded
    )


def of_data_config(raw: Mapping[str, Any], where: str) -> Preprocessing:
    """Of timm's data configuration.

    Raises
    ------
    ConfigError
        If the input is not square, or its filter is not known.
    """
    _, height, width = raw["input_size"]
    if height != width:
        raise ConfigError(f"{where}: expected a model of square images, found {height}×{width}")
    name = str(raw.get("interpolation", "bilinear"))
    if name not in _NAMES:
        raise ConfigError(f"{where}: the model resizes by {name!r}; set preprocess.interpolation")
    resize_px = math.floor(height / float(raw.get("crop_pct") or 1.0))
    return Preprocessing(
        resize_px,
        height,
        tuple(float(value) for value in raw["mean"]),
        tuple(float(value) for value in raw["std"]),
        name,
        squash=raw.get("crop_mode") == "squash",
        border=raw.get("crop_mode") == "border",
    )


def _resize(size: object, crops: bool) -> tuple[int, bool, int | None] | None:
    """(side, whether both sides are resized to it, most that the longer one may have); None for other ways."""
    if isinstance(size, Mapping):
        given = {key: value for key, value in size.items() if value is not None}
        if set(given) in ({"shortest_edge"}, {"shortest_edge", "longest_edge"}):
            longest = given.get("longest_edge")
            return int(given["shortest_edge"]), False, None if longest is None else int(longest)
        size = given if set(given) == {"height", "width"} else None
    side = _side(size)
    return None if side is None else (side, isinstance(size, Mapping) or not crops, None)


def _shown(size: object) -> str:
    if isinstance(size, Mapping):
        return ", ".join(f"{key} {value}" for key, value in size.items() if value is not None)
    return str(size)


def _side(size: object) -> int | None:
    if isinstance(size, Mapping):
        height, width = size.get("height"), size.get("width")
        return int(height) if height is not None and height == width else None
    return int(size) if isinstance(size, int) else None


def _numbers(value: object, default: float) -> tuple[float, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(float(one) for one in value)
    return (float(value) if isinstance(value, (int, float)) else default,) * 3
