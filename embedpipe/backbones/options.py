"""Options of backbones and of source models, as params.yaml has them.

Imports no torch: a configuration is checked without it. Whether a model, its weights and its nodes exist is
checked when the backbone is loaded.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from embedpipe.params import Seed, StrictModel, did_you_mean
from embedpipe.reduce.registry import get_reduction

Role = Literal["transferred", "random", "pixels"]
Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"]

_OWN_MODELS = ("glyphnet", "pixels")
_FAMILIES = {
    "torchvision": "torchvision:<name>",
    "timm": "timm:<name>",
    "transformers": "transformers:<hub name or folder>",
    "python": "python:<package.module>:<factory>",
    "pt2": "pt2:<file>",
}
_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_OF_HUBS = ("transformers", "timm")
# key -> families that know it; a key of another family would be ignored without a word
_BELONGS: dict[str, tuple[str, ...]] = {
    "revision": _OF_HUBS,
    "norm": _OF_HUBS,
    "prompt": ("transformers",),
    "max_length": ("transformers",),
    "modality": ("transformers",),
    "trust_remote_code": ("transformers",),
    "arguments": ("python",),
}


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
        description="torchvision:<name>, timm:<name>, transformers:<hub name or folder>, "
        "python:<package.module>:<factory>, pt2:<file of torch.export>, glyphnet (a small CNN trained here), or pixels "
        "(the image itself)."
    )
    weights: str | None = Field(
        None,
        description="torchvision's enum name, a .safetensors or .pth path, random:<seed>, or source:<S>; null: none "
        "for pixels, those that come with the model for timm, transformers, python and pt2.",
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

    revision: str | None = Field(
        None,
        description="Commit of a model on the hub, 7 to 40 hex digits; required there, since a name alone may mean "
        "other weights tomorrow. Folders have none.",
    )
    norm: Literal["none", "final"] = Field(
        "none",
        description="timm and transformers: whether what blocks give passes the model's final norm before it is "
        "reduced, as DINOv2's own evaluation does; none takes it as it is.",
    )
    prompt: str = Field(
        "",
        description='Put before each text, such as "passage: ", where a model was trained so; none by default.',
    )
    max_length: int | None = Field(
        None,
        ge=2,
        description="Tokens of the longest text, special ones included; longer ones are cut, and counted. null: as "
        "the model's files say.",
    )
    l2: bool = Field(
        False,
        description="Scale each vector to length 1, as sentence encoders for retrieval do; off by default.",
    )
    dims: int | None = Field(
        None,
        ge=1,
        description="Keep the first so many numbers of each vector, for models trained to allow it (Matryoshka); "
        "before l2. null: all.",
    )
    modality: Literal["image", "text"] | None = Field(
        None,
        description="Which half of a model with two towers, such as CLIP, is meant; null: the model has one.",
    )
    trust_remote_code: bool = Field(
        False,
        description="Run Python code that comes with a transformers model; off, since it may do anything.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of a python factory, as JSON values."
    )

    @property
    def family(self) -> str:
        """What stands before the colon of `model`, or the whole of it."""
        return self.model.partition(":")[0]

    @property
    def model_name(self) -> str:
        """What stands behind the first colon of `model`."""
        return self.model.partition(":")[2]

    @property
    def known_modality(self) -> str | None:
        """What it embeds, where that is known before it is opened."""
        return self.modality or (None if self.family in ("transformers", "python") else "image")

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
        if family == "python" and rest and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", rest):
            raise ValueError(f"expected python:<package.module>:<factory>, found {model!r}")
        if model in _OWN_MODELS or (family in _FAMILIES and rest):
            return model
        hint = did_you_mean(model if not colon else family, [*_OWN_MODELS, *_FAMILIES])
        raise ValueError(
            f"unknown model {model!r}{hint}; known: {', '.join([*_FAMILIES.values(), *_OWN_MODELS])}"
        )

    @field_validator("revision", mode="before")
    @classmethod
    def _is_a_commit(cls, revision: object) -> object:
        # YAML reads 1234567 and 12e4567 as numbers
        if revision is not None and not re.fullmatch(r"[0-9a-f]{7,40}", str(revision)):
            raise ValueError(
                f"expected a commit, 7 to 40 hex digits in quotes, found {revision!r}; a branch or tag may move"
            )
        return revision

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
        weights, family = self.weights, self.family
        if self.model == "pixels":
            if weights is not None:
                raise ValueError(f"pixels has no weights, found weights: {weights}; leave the key out")
        elif family == "pt2":
            if weights is not None:
                raise ValueError(
                    f"a pt2 program holds its weights, found weights: {weights}; leave the key out"
                )
        elif weights is None and family not in ("timm", "transformers", "python"):
            raise ValueError(
                f"weights are required for {self.model}: "
                "an enum name such as DEFAULT, a .safetensors or .pth path, random:<seed> or source:<S>"
            )
        elif (weights or "").startswith("random:") and not re.fullmatch(r"random:[0-9]{1,9}", weights or ""):
            raise ValueError(f"weights: expected random:<seed> with a whole number, found {weights!r}")
        elif self.source_model is not None and self.model != "glyphnet":
            raise ValueError(f"weights: {weights} holds a glyphnet, but model is {self.model}")
        for key, families in _BELONGS.items():
            if key in self.model_fields_set and family not in families:
                raise ValueError(f"{key} belongs to {' and '.join(families)}, but model is {self.model}")
        if self.model not in _OWN_MODELS and (self.width is not None or self.image_px is not None):
            raise ValueError(
                f"width and image_px belong to glyphnet and pixels; a {family} model takes "
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
