"""Options of every head family: each hyperparameter is a value, a list of values or a range.

Knows nothing of estimators: validating params.yaml imports neither torch nor scikit-learn.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from embedpipe.params import StrictModel

GRID_FORMS = "a value, a list of values, {log: [low, high, num]} or {linear: [low, high, num]}"


def expand(raw: Any) -> Any:
    """Turn a hyperparameter as it is written into the tuple of its values.

    Parameters
    ----------
    raw
        A value, a list of values, ``{log: [low, high, num]}`` or ``{linear: [low, high, num]}``;
        ranges include both ends and are rounded to 12 digits, so that 0.1 is 0.1.

    Raises
    ------
    ValueError
        If it is none of these; says which form is wrong.
    """
    if isinstance(raw, dict):
        return _expand_range(raw)
    if isinstance(raw, (list, tuple)):
        if not raw:
            raise ValueError(f"an empty list leaves nothing to fit; expected {GRID_FORMS}")
        return tuple(raw)
    return (raw,)


def _expand_range(raw: dict[Any, Any]) -> tuple[float, ...]:
    if len(raw) != 1 or next(iter(raw)) not in ("log", "linear"):
        raise ValueError(f"expected {GRID_FORMS}")
    form, bounds = next(iter(raw.items()))
    if not (isinstance(bounds, (list, tuple)) and len(bounds) == 3 and all(_is_number(b) for b in bounds)):
        raise ValueError(f"{form}: expected three numbers [low, high, num]")
    low, high, num = bounds
    if num != int(num) or num < 1 or num > 10_000:
        raise ValueError(f"{form}: the third number counts values: expected 1 to 10000, found {num}")
    if low > high or (form == "log" and low <= 0):
        raise ValueError(
            f"{form}: expected {'0 < ' if form == 'log' else ''}low <= high, found [{low}, {high}]"
        )
    space = np.geomspace if form == "log" else np.linspace
    return tuple(float(f"{value:.12g}") for value in space(float(low), float(high), int(num)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, each listed once."""
    if len(set(values)) != len(values):
        raise ValueError("a value is listed twice; each would be fitted twice")
    return values


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Positives = Annotated[tuple[Positive, ...], BeforeValidator(expand), AfterValidator(distinct)]
NonNegatives = Annotated[tuple[NonNegative, ...], BeforeValidator(expand), AfterValidator(distinct)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(expand), AfterValidator(distinct)]
Switches = Annotated[tuple[bool, ...], BeforeValidator(expand), AfterValidator(distinct)]


ClassWeights = Annotated[
    tuple[Literal["balanced"] | None, ...], BeforeValidator(expand), AfterValidator(distinct)
]
CLASS_WEIGHT = "Count every class the same in all (balanced) or every sample (null), as it stands by default."


Devices = Annotated[
    tuple[Literal["cpu", "cuda"] | None, ...], BeforeValidator(expand), AfterValidator(distinct)
]
DEVICE = (
    "Where the head is fitted: cpu (null is the same), or cuda; never chosen by itself, since sums differ in their "
    "last bits."
)


Globs = Annotated[tuple[str, ...], Field(min_length=1)]
Join = Literal["taps"] | Annotated[tuple[Globs, ...], Field(min_length=1)] | None
JOIN = (
    "Which taps lie side by side in one arm: null, each alone; taps, all those of a backbone; or lists of globs of "
    "backbone/tap, one list an arm, such as [[clip/last.cls, e5/last.*]]."
)


class HeadOptions(StrictModel):
    """One entry of `heads:`. Fields of the subclass are the family's hyperparameters."""

    family: str = Field(description="Name of the family; default: the name of the entry.")
    taps: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="Globs of tap names this head is fitted on; every tap by default.",
    )
    backbones: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="Globs of backbone names this head is fitted on; every one by default.",
    )
    join: Join = Field(default=None, description=JOIN)

    def grid(self) -> dict[str, tuple[Any, ...]]:
        """Values of each hyperparameter, in the order in which the family declares them; null is left out."""
        return {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name not in HeadOptions.model_fields and getattr(self, name) != (None,)
        }

    def few_shot(self) -> dict[str, tuple[Any, ...]]:
        """A smaller grid for a few labels a class, where nothing is left over to select on."""
        return {name: values[:1] for name, values in self.grid().items()}


def product(grid: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Every combination of the values of `grid`; the last hyperparameter varies fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


Wishes = Annotated[tuple[bool | None, ...], BeforeValidator(expand), AfterValidator(distinct)]
Components = Annotated[tuple[Count | None, ...], BeforeValidator(expand), AfterValidator(distinct)]
NORMALISE = "Scale rows to unit length first; off (null), as in most published linear evaluations."
PCA = (
    "Principal components of the training rows that replace the columns; null keeps the columns, "
    "since the L2 penalty already holds back weak directions."
)
WHITEN = "Scale the principal components to unit variance; off (null), as weak directions then count like strong ones."


class LogisticOptions(HeadOptions):
    """Multinomial logistic regression."""

    C: Positives = Field(
        default=(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
        description="Inverse strength of the L2 penalty, scikit-learn's C; six values, "
        "strong enough for hundreds of columns and weak enough for tens.",
    )
    standardise: Switches = Field(
        default=(True,),
        description="Scale columns to unit variance on the training rows, so that one C suits every tap.",
    )
    class_weight: ClassWeights = Field(default=(None,), description=CLASS_WEIGHT)
    multi_class: Annotated[
        tuple[Literal["multinomial", "one_vs_rest"] | None, ...],
        BeforeValidator(expand),
        AfterValidator(distinct),
    ] = Field(
        default=(None,),
        description="Softmax over classes (multinomial; null is the same) or one sigmoid a class (one_vs_rest).",
    )
    normalise: Wishes = Field(default=(None,), description=NORMALISE)
    pca: Components = Field(default=(None,), description=PCA)
    whiten: Wishes = Field(default=(None,), description=WHITEN)
    device: Devices = Field(default=(None,), description=DEVICE)

    def few_shot(self) -> dict[str, tuple[Any, ...]]:
        return {**super().few_shot(), "C": _near(self.C, 0.1)}


class RidgeOptions(HeadOptions):
    """Least squares with an L2 penalty: one-hot targets for classes, the value itself for numbers."""

    alpha: Positives = Field(
        default=(1e-1, 1.0, 10.0, 100.0, 1e3, 1e4),
        description="Strength of the L2 penalty in squared units of the scaled features; "
        "six decades, since the best grows with the number of columns.",
    )
    standardise: Switches = Field(
        default=(True,),
        description="Scale columns to unit variance on the training rows, so that one alpha suits every tap.",
    )
    class_weight: ClassWeights = Field(default=(None,), description=CLASS_WEIGHT)
    normalise: Wishes = Field(default=(None,), description=NORMALISE)
    pca: Components = Field(default=(None,), description=PCA)
    whiten: Wishes = Field(default=(None,), description=WHITEN)

    def few_shot(self) -> dict[str, tuple[Any, ...]]:
        return {**super().few_shot(), "alpha": _near(self.alpha, 100.0)}


class SvmOptions(HeadOptions):
    """Linear support vector machine, one against the rest, squared hinge."""

    C: Positives = Field(
        default=(1e-4, 1e-3, 1e-2, 1e-1),
        description="Inverse strength of the L2 penalty, scikit-learn's C; lower than for logistic, "
        "since the squared hinge grows faster.",
    )
    standardise: Switches = Field(
        default=(True,),
        description="Scale columns to unit variance on the training rows, so that one C suits every tap.",
    )
    class_weight: ClassWeights = Field(default=(None,), description=CLASS_WEIGHT)
    normalise: Wishes = Field(default=(None,), description=NORMALISE)
    pca: Components = Field(default=(None,), description=PCA)
    whiten: Wishes = Field(default=(None,), description=WHITEN)
    device: Devices = Field(default=(None,), description=DEVICE)

    def few_shot(self) -> dict[str, tuple[Any, ...]]:
        return {**super().few_shot(), "C": _near(self.C, 0.01)}


class CentroidOptions(HeadOptions):
    """Nearest class mean."""

    metric: Annotated[
        tuple[Literal["euclidean", "cosine"], ...], BeforeValidator(expand), AfterValidator(distinct)
    ] = Field(
        default=("euclidean", "cosine"), description="Distance to the class means; both cost next to nothing."
    )
    standardise: Switches = Field(
        default=(True,),
        description="Scale columns to unit variance on the training rows, so that none dominates.",
    )


class LdaOptions(HeadOptions):
    """Linear discriminants that share one covariance, shrunk towards equal variances."""

    shrinkage: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(expand), AfterValidator(distinct)
    ] = Field(
        default=(0.01, 0.1, 0.5),
        description="Share of the covariance replaced by its mean variance; more where rows are few.",
    )
    standardise: Switches = Field(
        default=(True,),
        description="Scale columns to unit variance on the training rows, so that shrinking suits each alike.",
    )
    class_weight: ClassWeights = Field(default=(None,), description=CLASS_WEIGHT)
    normalise: Wishes = Field(default=(None,), description=NORMALISE)
    pca: Components = Field(default=(None,), description=PCA)
    whiten: Wishes = Field(default=(None,), description=WHITEN)

    def few_shot(self) -> dict[str, tuple[Any, ...]]:
        return {**super().few_shot(), "shrinkage": (min(self.shrinkage, key=lambda one: abs(one - 0.5)),)}


class KnnOptions(HeadOptions):
    """Nearest neighbours by cosine similarity."""

    k: Counts = Field(
        default=(1, 5, 10, 20), description="Neighbours that vote; clipped to the number of training rows."
    )
    weights: Annotated[
        tuple[Literal["softmax", "distance", "uniform"], ...],
        BeforeValidator(expand),
        AfterValidator(distinct),
    ] = Field(
        default=("softmax",),
        description="Weight of a neighbour: softmax(similarity / temperature), 1 / distance, or equal.",
    )
    temperature: Positives = Field(
        default=(0.07,), description="Scale of the softmax weights in units of cosine; 0.07 as in DINO."
    )
    standardise: Switches = Field(
        default=(False,), description="Scale columns before the cosine; off, as in the published protocol."
    )

    def few_shot(self) -> dict[str, tuple[Any, ...]]:
        return {**super().few_shot(), "k": _near(self.k, 5)}


class SklearnOptions(HeadOptions):
    """Any estimator of scikit-learn on the allow-list; further keys are its own parameters."""

    model_config = ConfigDict(extra="allow")

    standardise: Switches = Field(
        default=(True,), description="Scale columns to unit variance first; most estimators assume it."
    )

    def grid(self) -> dict[str, tuple[Any, ...]]:
        extra = {name: expand(value) for name, value in (self.model_extra or {}).items()}
        return {**extra, **super().grid()}


def _near(values: tuple[Any, ...], target: float) -> tuple[Any, ...]:
    """The value nearest to `target` by ratio: a fixed choice, made without looking at any data."""
    return (min(values, key=lambda value: abs(math.log(value / target))),)
