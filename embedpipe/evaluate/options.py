"""Options of selection and comparison, and the check that baselines can be had.

They stand with `evaluate`, since training, selection and comparison all read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt, field_validator

from embedpipe.errors import ConfigError
from embedpipe.evaluate.arms import ROLE_OF_BASELINE
from embedpipe.params import StrictModel, did_you_mean

# calibration error is reported, and cannot select: an arm that always says the class frequencies has none
Metric = Literal[
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "micro_f1",
    "auroc",
    "nll",
    "brier",
    "map",
    "r2",
    "mae",
    "mean_iou",
]

BASELINES = ("majority", "shuffled_labels", "random_weights", "pixels")


def _known_baselines(names: list[str]) -> list[str]:
    for name in names:
        if name not in BASELINES:
            raise ValueError(
                f"unknown baseline {name!r}{did_you_mean(name, BASELINES)}; known: {', '.join(BASELINES)}"
            )
    if len(set(names)) < len(names):
        raise ValueError("a baseline is named twice; name each once")
    return names


Baselines = Annotated[list[str], AfterValidator(_known_baselines)]
"""Type of the `baselines:` section: known names, each once."""


class SelectOptions(StrictModel):
    """What chooses tap, backbone, head and hyperparameters."""

    on: Literal["val", "folds"] = Field(
        "val",
        description="What chooses at k_shot all: the validation split (`val`), or five `folds` of the training "
        "samples, each predicted by heads that never saw it. Folds cost six times the fits, and leave validation "
        "unseen, so that its figures are not those of the best of many. Transfer arms choose rate and epoch on "
        "validation either way.",
    )
    by: Metric = Field(
        "balanced_accuracy",
        description="Metric that chooses; balanced, so that a frequent class cannot carry an arm. "
        "A task of a kind without it uses that kind's own: balanced_accuracy for classes, map for multilabel, "
        "r2 for numbers, mean_iou for dense.",
    )


class CompareOptions(StrictModel):
    """How arms are compared."""

    k_shot: list[StrictInt | Literal["all"]] = Field(
        default=[5, "all"],
        description="Labels a class to train on; `all` is always trained, since selection reads it. "
        "5 is where transfer shows most on small tasks.",
    )
    draws: int = Field(
        10,
        ge=1,
        le=1000,
        description="Draws of the labelled samples at each numeric k_shot, and shuffles of the labels for "
        "the baseline of that name; 10 steady the mean.",
    )
    heads: list[str] | None = Field(
        None,
        min_length=1,
        description="Names of the heads that train at each numeric k_shot; by default the first of `heads:`, "
        "since each costs draws x folds x taps fits.",
    )
    test: Literal["sealed", "open"] = Field(
        "sealed",
        description="`sealed`: only `embedpipe test` reads test targets; `open`: every comparison does.",
    )

    @field_validator("k_shot")
    @classmethod
    def _positive_and_once(cls, values: list[int | str]) -> list[int | str]:
        for value in values:
            if isinstance(value, int) and value < 1:
                raise ValueError("k_shot counts labels a class: each is `all` or 1 or more")
        if len(set(values)) < len(values):
            raise ValueError("a k_shot is listed twice; list each once")
        return values

    @property
    def numeric_k_shot(self) -> list[int]:
        """The numeric ones, ascending."""
        return sorted(k for k in self.k_shot if isinstance(k, int))


def check_baselines(baselines: Sequence[str], roles: Mapping[str, str], where: str = "params.yaml") -> None:
    """Check that a backbone provides each baseline that needs one.

    Parameters
    ----------
    baselines
        Names under `baselines:`.
    roles
        Role of each backbone by name.

    Raises
    ------
    ConfigError
        If `random_weights` or `pixels` is wanted and no backbone has that role; says what to add.
    """
    example = {
        "random_weights": "a backbone with the same model and `weights: random:0`",
        "pixels": "`pixels: {model: pixels}`",
    }
    problems = [
        f"{where}: baselines: {name!r} needs a backbone of that role, and none of "
        f"{', '.join(roles) or '(no backbones)'} has it; add {example[name]} under `backbones:`, "
        "or drop the baseline"
        for name in baselines
        if name in ROLE_OF_BASELINE and ROLE_OF_BASELINE[name] not in roles.values()
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def check_k_shot_heads(
    names: Sequence[str] | None, heads: Sequence[str], where: str = "params.yaml"
) -> list[str]:
    """Names of the heads that train at numeric k_shot, in the order of `heads`.

    Raises
    ------
    ConfigError
        If a name is not under `heads:`.
    """
    if names is None:
        return list(heads[:1])
    unknown = [name for name in names if name not in heads]
    if unknown:
        raise ConfigError(
            "\n".join(
                f"{where}: compare.heads: no head is named {name!r}{did_you_mean(name, list(heads))}; "
                f"heads: {', '.join(heads)}"
                for name in unknown
            )
        )
    return [name for name in heads if name in names]
