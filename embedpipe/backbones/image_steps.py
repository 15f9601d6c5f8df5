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
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}  # Pillow's numbers
_NAMES = {*_FILTERS.values(), "nearest-exact"}


def of_processor(raw: Mapping[str, Any], image_px: int | None, where: str) -> Preprocessing:
    """Of an image processor of transformers: the content of its ``preprocessor_config.json``.

    Parameters
    ----------
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
    if not raw.get("do_rescale", True):
        unusual.append("do_rescale: false")
    if abs(float(raw.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-3:
        unusual.append(f"rescale_factor: {raw['rescale_factor']}")
    if unusual:
        raise ConfigError(
            f"{where}: the model's image processor asks for {', '.join(unusual)}, which is not done here; wrap the "
            "model with a python: factory"
        )
    size = raw.get("size") if raw.get("do_resize", True) else None
    crop = raw.get("crop_size") if raw.get("do_center_crop") else None
    resize_px, squash = _resize(size, squash=not raw.get("do_center_crop"))
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
    mean = _numbers(raw.get("image_mean"), 0.5) if normalise else (0.0,) * 3
    std = _numbers(raw.get("image_std"), 0.5) if normalise else (1.0,) * 3
    resample = raw.get("resample", 2)
    name = _FILTERS.get(resample, "bilinear") if isinstance(resample, int) else str(resample)
    return Preprocessing(
        max(resize_px, crop_px), crop_px, mean, std, name if name in _NAMES else "bilinear", squash=squash
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
    )


def _resize(size: object, *, squash: bool) -> tuple[int | None, bool]:
    """(side, whether both sides are resized to it); a bare number, in older files, says so by what follows."""
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return int(size["shortest_edge"]), False
    side = _side(size)
    return side, side is not None and (squash or isinstance(size, Mapping))


def _side(size: object) -> int | None:
    if isinstance(size, Mapping):
        height, width = size.get("height"), size.get("width")
        return int(height) if height is not None and height == width else None
    return int(size) if isinstance(size, int) else None


def _numbers(value: object, default: float) -> tuple[float, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(float(one) for one in value)
    return (float(value) if isinstance(value, (int, float)) else default,) * 3
