"""Options of backbones and of source models, as params.yaml has them.

Imports no torch: a configuration is checked without it. Whether a torchvision model, its weights and its
nodes exist is checked when the backbone is loaded.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from embedpipe.params import Seed, StrictModel, did_you_mean
from embedpipe.reduce.registry import get_reduction

Role = Literal["transferred", "random", "pixels"]
Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"]

_OWN_MODELS = ("glyphnet", "pixels")
_FILE_SUFFIXES = (".safetensors", ".pth", ".pt")


class PreprocessOptions(StrictModel):
    """Steps between a decoded image and the model; what is left out is as the weights have it."""

    resize_px: int | None = Field(
        None, ge=1, description="Shorter side after resizing, in pixels; null: as the weights were trained."
    )
    crop_px: int | None = Field(
        None, ge=1, description="Side of the centre crop, in pixels; null: as the weights were trained."
    )
    mean: list[float] | None = Field(
        None, description="Subtracted per channel, values in 0 to 1; null: as the weights were trained."
    )
    std: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="Divided by per channel, values in 0 to 1; null: as the weights were trained."
    )
    interpolation: Interpolation | None = Field(
        None, description="How pixels are resampled; null: as the weights were trained."
    )


class BackboneOptions(StrictModel):
    """One entry of `backbones:`."""

    model: str = Field(
        description="torchvision:<name>, glyphnet (a small CNN trained here), or pixels (the image itself)."
    )
    weights: str | None = Field(
        None,
        description="torchvision's enum name, a .safetensors or .pth path, random:<seed>, or source:<S>; "
        "null for pixels alone.",
    )
    taps: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        min_length=1, description="Node name, blocks, last or every:<n>, each with its reductions."
    )
    preprocess: PreprocessOptions | None = Field(
        None, description="Overrides of the weights' own preprocessing; null: none."
    )
    image_px: int | None = Field(
        None, ge=4, description="Side of the input of pixels and of a random glyphnet, in pixels; null: 8."
    )
    width: int | None = Field(
        None, ge=1, description="Channels of a random glyphnet; null: 24, or what the trained one has."
    )

    @property
    def role(self) -> Role:
        """What this backbone stands for in a comparison."""
        if self.model == "pixels":
            return "pixels"
        return "random" if (self.weights or "").startswith("random:") else "transferred"

    @property
    def weights_path(self) -> str | None:
        """Where the file of weights lies, as it is written, if they come from one."""
        weights = self.weights or ""
        return weights if "/" in weights or weights.endswith(_FILE_SUFFIXES) else None

    @property
    def source_model(self) -> str | None:
        """Name of the source model whose weights are used, if any."""
        weights = self.weights or ""
        return weights.removeprefix("source:") if weights.startswith("source:") else None

    @field_validator("model")
    @classmethod
    def _known_family(cls, model: str) -> str:
        family, colon, rest = model.partition(":")
        if model in _OWN_MODELS or (family == "torchvision" and rest):
            return model
        hint = did_you_mean(model if not colon else family, [*_OWN_MODELS, "torchvision"])
        raise ValueError(
            f"unknown model {model!r}{hint}; known: torchvision:<name>, {', '.join(_OWN_MODELS)}"
        )

    @field_validator("taps")
    @classmethod
    def _known_reductions(cls, taps: dict[str, list[str]]) -> dict[str, list[str]]:
        for node, reductions in taps.items():
            if node.startswith("every:") and not re.fullmatch(r"every:[1-9][0-9]*", node):
                raise ValueError(f"tap {node!r}: expected every:<n> with n ≥ 1, for example every:3")
            for reduction in reductions:
                try:
                    get_reduction(reduction)
                except ValueError as error:
                    raise ValueError(f"tap {node!r}: {error}") from error
        return taps

    @model_validator(mode="after")
    def _weights_fit_model(self) -> BackboneOptions:
        weights = self.weights
        if self.model == "pixels":
            if weights is not None:
                raise ValueError(f"pixels has no weights, found weights: {weights}; leave the key out")
        elif weights is None:
            raise ValueError(
                f"weights are required for {self.model}: "
                "an enum name such as DEFAULT, a .safetensors or .pth path, random:<seed> or source:<S>"
            )
        elif weights.startswith("random:") and not re.fullmatch(r"random:[0-9]{1,9}", weights):
            raise ValueError(f"weights: expected random:<seed> with a whole number, found {weights!r}")
        elif self.source_model is not None and self.model != "glyphnet":
            raise ValueError(f"weights: {weights} holds a glyphnet, but model is {self.model}")
        if self.model.startswith("torchvision:") and (self.width is not None or self.image_px is not None):
            raise ValueError(
                "width and image_px belong to glyphnet and pixels; a torchvision model takes "
                "preprocess: {resize_px, crop_px}"
            )
        return self


class SourceModelOptions(StrictModel):
    """One entry of `source:`: a source model that is trained here."""

    model: Literal["glyphnet"] = Field("glyphnet", description="Architecture; glyphnet is the only one.")
    on: str = Field(description="Data set of the source domain.")
    labels: str = Field(description="Column of its labels to learn.")
    width: int = Field(24, ge=1, description="Channels of every block; 24 learns letters in seconds.")
    image_px: int = Field(8, ge=8, description="Side of the input, in pixels; 8 as scikit-learn's digits.")
    epochs: int = Field(4, ge=1, description="Passes over the training split; more gains little transfer.")
    batch: int = Field(128, ge=1, description="Samples a step; 128 suits two CPU cores.")
    learning_rate: float = Field(
        0.01, gt=0, description="Peak of the one-cycle schedule of AdamW; the highest that stays stable."
    )
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay of AdamW; its usual value.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Probability spread over the other classes; 0: none."
    )
    augment: bool = Field(
        True, description="Shift by up to a pixel in training, so that less rests on exact position."
    )
    seed: Seed = Field(0, description="Seed of initialisation, order and augmentation.")
