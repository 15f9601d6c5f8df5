"""Which architectures there are: torchvision's by name, glyphnet, pixels.

Builds modules without weights and says how their input is prepared. Knows nothing of weight files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from embedpipe.backbones.glyphnet import GlyphNet, Pixels
from embedpipe.backbones.options import BackboneOptions
from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.errors import ConfigError, WeightsError
from embedpipe.params import did_you_mean

GLYPHNET_MEAN, GLYPHNET_STD = (0.5,), (0.5,)
DEFAULT_WIDTH, DEFAULT_IMAGE_PX, DEFAULT_CLASSES = 24, 8, 52


@dataclass(frozen=True)
class Architecture:
    """A model before it has weights.

    Attributes
    ----------
    name : str
        With its structural options, for the store's spec.
    build : callable
        Makes the module; draws its initial weights from torch's global generator.
    base : Preprocessing
        How its input is prepared unless params.yaml says otherwise.
    torchvision_name : str or None
        Name in torchvision's registry.
    """

    name: str
    build: Callable[[], nn.Module]
    base: Preprocessing
    torchvision_name: str | None = None

    def preprocessing(self, options: BackboneOptions, where: str) -> Preprocessing:
        """Preprocessing with the overrides of params.yaml."""
        return self.base.override(options.preprocess, where)


def open_architecture(options: BackboneOptions, source_dir: Path, where: str) -> Architecture:
    """Find the architecture that options name.

    Raises
    ------
    ConfigError
        If torchvision has no such model, or width or image size contradict the source model's card.
    WeightsError
        If the card of a source model is missing or unreadable.
    """
    if options.model == "pixels":
        image_px = options.image_px or DEFAULT_IMAGE_PX
        return Architecture("pixels", Pixels, Preprocessing(image_px, image_px, (0.0,), (1.0,)))
    if options.model == "glyphnet":
        return _glyphnet(options, source_dir, where)
    return _torchvision(options, where)


def read_card(name: str, source_dir: Path, where: str) -> dict[str, Any]:
    """Card of a source model trained here."""
    path = source_dir / name / "card.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{where}.weights: no source model {name!r} at {path.parent}; "
            f"train it first: embedpipe source {name}"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path}: not valid JSON; train it again: embedpipe source {name}") from error
    return card


def _glyphnet(options: BackboneOptions, source_dir: Path, where: str) -> Architecture:
    width, image_px, num_classes = options.width, options.image_px, DEFAULT_CLASSES
    if options.source_model is not None:
        card = read_card(options.source_model, source_dir, where)
        for key, given in (("width", width), ("image_px", image_px)):
            if given is not None and given != card[key]:
                raise ConfigError(
                    f"{where}.{key}: source model {options.source_model!r} has {card[key]}, found {given}; "
                    "leave the key out, or train another source model"
                )
        width, image_px, num_classes = card["width"], card["image_px"], len(card["classes"])
    width, image_px = width or DEFAULT_WIDTH, image_px or DEFAULT_IMAGE_PX

    def build() -> nn.Module:
        return GlyphNet(num_classes, width, image_px)

    base = glyphnet_preprocessing(image_px)
    return Architecture(f"glyphnet:width={width},image_px={image_px}", build, base)


def glyphnet_preprocessing(image_px: int) -> Preprocessing:
    """How images are prepared for glyphnet, in training and ever after."""
    return Preprocessing(image_px, image_px, GLYPHNET_MEAN, GLYPHNET_STD)


def _torchvision(options: BackboneOptions, where: str) -> Architecture:
    name, weights = options.model.removeprefix("torchvision:"), options.weights or ""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ConfigError(
            f"{where}.model: torchvision has no model {name!r}{did_you_mean(name, known)}; "
            f"it has {len(known)}: {', '.join(known)}"
        )
    enum = torchvision.models.get_model_weights(name)
    chosen = enum[weights] if weights in enum.__members__ else enum["DEFAULT"]
    transforms = chosen.transforms()
    base = Preprocessing(
        transforms.resize_size[0],
        transforms.crop_size[0],
        tuple(transforms.mean),
        tuple(transforms.std),
        transforms.interpolation.value,
    )

    def build() -> nn.Module:
        # GoogLeNet and Inception warn unless told how to initialise.
        given: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        if name.startswith("vit_"):  # a ViT takes one size of image only
            given["image_size"] = base.override(options.preprocess, where).crop_px
        module: nn.Module = torchvision.models.get_model(name, weights=None, **given)
        return module

    return Architecture(f"torchvision:{name}", build, base, name)


def build_seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a module from a seed, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
