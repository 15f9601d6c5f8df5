"""Options of transfer arms: an entry's recipe is its name unless `recipe:` says otherwise.

Imports no torch. A recipe is a set of defaults over the same keys; what needs the model itself, such as whether a layer
exists, is checked when the arm is about to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, field_validator, model_validator

from embedpipe.errors import ConfigError
from embedpipe.params import StrictModel, did_you_mean, validate

TRANSFORMS = (
    "AugMix",
    "ColorJitter",
    "GaussianBlur",
    "RandAugment",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "TrivialAugmentWide",
)
"""Of torchvision.transforms.v2: those that take an image of uint8 and give one of the same size."""


def _listed(raw: Any) -> Any:
    return tuple(raw) if isinstance(raw, (list, tuple)) else (raw,)


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("a value is listed twice; list each once")
    return values


Rates = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
    Field(min_length=1),
    BeforeValidator(_listed),
    AfterValidator(_once),
]
Shares = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...],
    Field(min_length=1),
    BeforeValidator(_listed),
    AfterValidator(_once),
]
Estimate = Literal["eep", "hard"]
Estimates = Annotated[
    tuple[Estimate, ...], Field(min_length=1), BeforeValidator(_listed), AfterValidator(_once)
]


class ArmOptions(StrictModel):
    """One entry of `transfer:`."""

    recipe: str = Field(description="Name of the recipe; default: the name of the entry.")
    tasks: list[str] | None = Field(None, description="Tasks that have the arm; null: all it fits.")
    backbones: list[str] | None = Field(
        None, description="Backbones that are adapted, by name; null: every one with learnt weights."
    )
    k_shot: list[StrictInt | Literal["all"]] = Field(
        default=["all"],
        min_length=1,
        description="Labels a class to train on; each number stands in compare.k_shot too, where the heads that arms "
        "start from are trained.",
    )
    draws: int | None = Field(
        None, ge=1, description="Draws of the labelled samples at each number; null: as compare.draws."
    )
    device: str = Field("auto", description="Where the arm runs; auto takes CUDA where there is one.")

    @field_validator("k_shot")
    @classmethod
    def _positive_and_once(cls, values: list[int | str]) -> list[int | str]:
        if any(isinstance(value, int) and value < 1 for value in values):
            raise ValueError("k_shot counts labels a class: each is `all` or 1 or more")
        return list(_once(tuple(values)))

    @property
    def numeric_k_shot(self) -> list[int]:
        """The numeric ones, ascending."""
        return sorted(k for k in self.k_shot if isinstance(k, int))


class DirectOptions(ArmOptions):
    """The source classifier as it is, with a map from its classes to the target's labels."""

    map: dict[str, str] | None = Field(
        None, description="Target label of each source class; null: estimated from the labelled samples."
    )
    estimate: Estimates = Field(
        default=("eep",),
        description="How the map is estimated: eep, the expected conditional probability of each label given a source "
        "class; hard, each source class stands for the label it is found on most, labels weighed alike. Validation "
        "chooses among several.",
    )


class FrozenOptions(ArmOptions):
    """The head that selection chose, on the live model: what the cache stands for."""

    tap: str | None = Field(None, description="Tap of the head; null: that of the selected one.")


class LoadOptions(StrictModel):
    """Which weights a network begins with."""

    weights: str | None = Field(
        None,
        description="A .safetensors or .pth file of a state dict; null: the backbone's own weights.",
    )
    by: Literal["name", "prefix", "list", "shape"] = Field(
        "name",
        description="What is loaded: every tensor of the same name; those below the prefixes in `names`; those listed "
        "there; or, where names differ, tensors in order by their shapes.",
    )
    names: list[str] = Field(
        default=[], description="Prefixes or names of tensors, for by: prefix and by: list."
    )
    at_least: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the body's parameters that has to be loaded; less is a file of something else.",
    )

    @model_validator(mode="after")
    def _names_where_needed(self) -> LoadOptions:
        if (self.by in ("prefix", "list")) != bool(self.names):
            raise ValueError(
                f"by: {self.by}: expected {'some names' if not self.names else 'no names'}, found "
                f"{'none' if not self.names else ', '.join(self.names)}"
            )
        return self


class TrainedOptions(ArmOptions):
    """A network that is trained: the backbone up to a tap, and a head."""

    tap: str | None = Field(
        None,
        description="Tap that the head reads; null: that of the head which selection chose for the backbone.",
    )
    head: Literal["selected", "new"] = Field(
        "new", description="Whether the head begins as the selected one, or as a new linear layer."
    )
    load: Literal["all", "none"] | LoadOptions = Field(
        "all", description="all: the backbone's weights; none: random ones; or which part, as below."
    )
    epochs: int = Field(20, ge=1, description="Passes over the training samples.")
    min_steps: int = Field(
        200,
        ge=0,
        description="Steps to make at least: with few labels there are more epochs, so that an arm has time to learn.",
    )
    batch: int = Field(64, ge=2, description="Samples a step, over all processes.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients make one step.")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with momentum.")
    learning_rate: Rates = Field(
        default=(1e-3,),
        description="Peak rate, or several: validation chooses among them at all labels, the first is taken at k.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    weight_decay: float = Field(1e-2, ge=0, description="Decoupled for AdamW; biases and norms have none.")
    schedule: Literal["cosine", "constant", "one_cycle"] = Field(
        "cosine", description="How the rate goes on after the warm-up; it starts anew with each phase."
    )
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of a phase's steps over which the rate rises; a fifth for one_cycle, whatever stands here.",
    )
    clip_norm: float | None = Field(None, gt=0, description="Largest norm of the gradients; null: any.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of the forward pass; auto: bfloat16 on a GPU that has it, else float32."
    )
    norms: Literal["train", "eval"] = Field(
        "train", description="Whether batch norms learn the target's statistics, or keep the source's."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Probability spread over the other classes.")
    augment: dict[str, dict[str, Any]] = Field(
        default={},
        description="Transforms of torchvision.transforms.v2 with their arguments, in order, on each preprocessed "
        "image.",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of a running average of the weights, which is then kept; null: none.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Epochs without a better validation score after which it stops; null: never early.",
    )
    layers: list[str] | None = Field(
        None,
        min_length=1,
        description="Blocks or layers of the backbone that learn, beside the head; null: all.",
    )
    decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Factor on the rate for each block further from the head; null: one rate.",
    )
    gradual: bool = Field(
        False, description="Whether the head learns first, and then one block more at a time."
    )
    first: float | None = Field(
        None,
        gt=0,
        description="Factor on the rate of a first phase in which the backbone alone learns; null: none.",
    )
    first_share: float = Field(0.3, gt=0, lt=1, description="Share of the epochs that this phase takes.")
    l2_sp: float | None = Field(
        None,
        ge=0,
        description="Strength of the pull back to the source weights, half the squared distance; null: none.",
    )
    alphas: Shares | None = Field(
        None,
        description="Shares of the way from the starting weights to the trained ones; validation chooses at all "
        "labels, at k it is the middle one; null: the trained ones.",
    )
    threads: int = Field(
        1, ge=1, description="Threads on the CPU; fixed, since sums depend on it. More pay for large models."
    )

    @field_validator("augment")
    @classmethod
    def _known_transforms(cls, transforms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in transforms:
            if name not in TRANSFORMS:
                raise ValueError(
                    f"unknown transform {name!r}{did_you_mean(name, TRANSFORMS)}; known: {', '.join(TRANSFORMS)}"
                )
        return transforms

    @model_validator(mode="after")
    def _fits_together(self) -> TrainedOptions:
        phased = [name for name in ("layers", "gradual", "first") if getattr(self, name)]
        if len(phased) > 1:
            raise ValueError(f"{' and '.join(phased)} both say what learns when; keep one of them")
        if self.load == "none" and (self.l2_sp is not None or self.alphas is not None):
            raise ValueError("load: none leaves no source weights, which l2_sp and alphas start from")
        return self


@dataclass(frozen=True)
class RecipeEntry:
    """One recipe: the model of its keys, what it sets among them, and what it is.

    Attributes
    ----------
    options : type
    defaults : mapping
        Of keys that differ from the model's own; an entry may change each.
    says : str
        What it does, and where it is from.
    """

    options: type[ArmOptions]
    defaults: Mapping[str, Any]
    says: str


_SMALL, _LARGE = [1e-4], [3e-3]
RECIPES: Mapping[str, RecipeEntry] = {
    "direct": RecipeEntry(
        DirectOptions,
        {},
        "the source classifier unchanged, with a map from its classes to the labels; reports LEEP (Nguyen et al. 2020)",
    ),
    "scratch": RecipeEntry(
        TrainedOptions,
        {"load": "none", "learning_rate": _LARGE},
        "random weights, same architecture and schedule: the baseline that every transfer must beat",
    ),
    "frozen": RecipeEntry(
        FrozenOptions,
        {},
        "the head that selection chose, on the live model: what the cached features stand for",
    ),
    "lp_ft": RecipeEntry(
        TrainedOptions,
        {"head": "selected", "learning_rate": _SMALL, "norms": "eval"},
        "the selected head first, then all weights at a small rate, norms as they are (Kumar et al. 2022)",
    ),
    "full": RecipeEntry(
        TrainedOptions,
        {"learning_rate": [1e-3]},
        "the source weights and a new head, all weights at one rate",
    ),
    "two_phase": RecipeEntry(
        TrainedOptions,
        {"head": "selected", "learning_rate": [1e-3], "first": 0.1},
        "first the backbone at a small rate, then the whole at a larger one; no published recipe supports it",
    ),
    "discriminative": RecipeEntry(
        TrainedOptions,
        {"head": "selected", "learning_rate": [1e-3], "decay": 0.4},
        "rates that fall by depth (Howard and Ruder 2018)",
    ),
    "gradual": RecipeEntry(
        TrainedOptions,
        {"learning_rate": [1e-3], "gradual": True},
        "a new head first, then one block more at a time, from the top (Howard and Ruder 2018)",
    ),
    "surgical": RecipeEntry(
        TrainedOptions,
        {"head": "selected", "learning_rate": [1e-3], "norms": "eval"},
        "only the blocks under `layers`, and the head (Lee et al. 2023)",
    ),
    "l2_sp": RecipeEntry(
        TrainedOptions,
        {"learning_rate": [1e-3], "l2_sp": 0.1},
        "a pull back to the source weights, the new head left out (Li et al. 2018)",
    ),
    "wise_ft": RecipeEntry(
        TrainedOptions,
        {
            "head": "selected",
            "learning_rate": [1e-3],
            "norms": "eval",
            "alphas": [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0],
        },
        "weights on the line from the selected head on the source model to the fine-tuned whole (Wortsman et al. 2022)",
    ),
}


def transfer_options(name: str, raw: Mapping[str, Any] | None, where: str | None = None) -> ArmOptions:
    """Validate one entry of `transfer:`.

    Parameters
    ----------
    name
        Name of the entry; the recipe too unless the entry has `recipe:`.
    raw
        The entry as written; None where only the name stands.
    where
        How the user finds the entry; default ``transfer.<name>``.

    Raises
    ------
    ConfigError
        On an unknown recipe or key, or a value out of range; with "did you mean".
    """
    where = where or f"transfer.{name}"
    if raw is not None and not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a mapping of options, found {raw!r}")
    entry = dict(raw or {})
    chosen = entry.setdefault("recipe", name)
    if not isinstance(chosen, str) or chosen not in RECIPES:
        raise ConfigError(
            f"{where}: unknown recipe {chosen!r}{did_you_mean(str(chosen), list(RECIPES))}; known: "
            f"{', '.join(RECIPES)}; an arm of another name says which it is by `recipe:`"
        )
    recipe = RECIPES[chosen]
    options = validate(recipe.options, {**recipe.defaults, **entry}, where)
    if chosen == "surgical" and isinstance(options, TrainedOptions) and options.layers is None:
        raise ConfigError(f"{where}.layers: required, but missing; name the blocks that learn")
    return options
