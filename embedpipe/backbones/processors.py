"""How a model of transformers wants its images, told by its own image processor, and held to what that one does.

A processor is code, and its files leave defaults to its class: so the class is asked, and what it gives for images of
noise is compared. What comes out otherwise is refused: features of other inputs are other features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from embedpipe.backbones.hub import Found
from embedpipe.backbones.image_steps import REMEDY, of_processor
from embedpipe.backbones.options import BackboneOptions
from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.errors import ConfigError

MOST_LEVELS, MEAN_LEVELS = 3.0, 1.0
"""Grey levels of 255 by which any pixel of noise may differ; and all on average, where Pillow alone has the filter."""
_FULL = frozenset({"crop_px", "mean", "std"})


def steps_of_folder(
    found: Found, options: BackboneOptions, image_px: int | None, where: str
) -> Preprocessing:
    """Steps that a model's image processor takes, before params.yaml changes any.

    Parameters
    ----------
    image_px
        Side of the input by the model's own configuration.

    Raises
    ------
    ConfigError
        If there is no processor, or it does more than resize, crop and normalise, and params.yaml does not say all.
    """
    given = options.preprocess.model_dump(exclude_none=True) if options.preprocess is not None else {}
    raw = found.optional("preprocessor_config.json") or found.optional("processor_config.json").get(
        "image_processor", {}
    )
    if not raw and options.preprocess is None:
        raise ConfigError(
            f"{where}: {found.folder}: expected preprocessor_config.json, which says how images are prepared, found "
            "none; add it, or set preprocess: {resize_px, crop_px, mean, std}"
        )
    try:
        processor = _processor(found, options, raw, where) if raw else None
        steps = of_processor(raw if processor is None else processor.to_dict(), image_px, where)
        if processor is not None:
            check_same(processor, steps, where)
    except ConfigError:
        if not given.keys() >= _FULL:
            raise
        steps = Preprocessing(
            given.get("resize_px", given["crop_px"]),
            given["crop_px"],
            tuple(given["mean"]),
            tuple(given["std"]),
        )
    return steps


def check_same(processor: Any, steps: Preprocessing, where: str) -> None:
    """Refuse a processor that gives other inputs than these steps.

    Raises
    ------
    ConfigError
        Says by how much they differ.
    """
    name = type(processor).__name__
    by_tensors = steps.can_resample_tensors  # as processors do
    way = dataclasses.replace(steps, on_tensors=by_tensors)
    std = torch.tensor(steps.std).view(-1, 1, 1)
    for image in _noise(steps.resize_px):
        try:
            wanted = torch.as_tensor(
                np.asarray(processor(images=image, return_tensors="pt")["pixel_values"])[0]
            )
        except Exception as error:
            raise ConfigError(
                f"{where}: {name} fails on an image of {image.width}×{image.height} ({error}); {REMEDY}"
            ) from error
        if wanted.shape != steps.input_shape:
            size = "×".join(map(str, wanted.shape))
            raise ConfigError(
                f"{where}: {name} makes {size} of an image of {image.width}×{image.height}, expected "
                f"{'×'.join(map(str, steps.input_shape))} of every image; {REMEDY}"
            )
        levels = 255 * ((way(image) - wanted) * std).abs()
        if not (levels.max() <= MOST_LEVELS if by_tensors else levels.mean() <= MEAN_LEVELS):
            raise ConfigError(
                f"{where}: {name} prepares images otherwise than its files say: pixels differ by up to "
                f"{float(levels.max()):.0f} of 255 grey levels; {REMEDY}"
            )


def _processor(found: Found, options: BackboneOptions, raw: Mapping[str, Any], where: str) -> Any:
    """The model's image processor; None where its file names no class, as old ones do.

    Raises
    ------
    ConfigError
        If the class that it names cannot be used.
    """
    import transformers

    try:
        return transformers.AutoImageProcessor.from_pretrained(
            found.folder,
            backend="torchvision",
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
        )
    except Exception as error:
        named = [
            raw[key] for key in ("image_processor_type", "feature_extractor_type", "auto_map") if raw.get(key)
        ]
        if not named:  # the file is read as it stands
            return None
        raise ConfigError(
            f"{where}: {found.folder}: expected an image processor that transformers can open, found {named[0]}: "
            f"{error}; {REMEDY}"
        ) from error


def _noise(resize_px: int) -> list[Image.Image]:
    """A wide and a tall image that a pixel's shift would change."""
    generator = np.random.default_rng(0)
    sizes = [(resize_px + 7, round(1.4 * resize_px) + 2), (round(1.7 * resize_px) + 5, resize_px + 2)]
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
