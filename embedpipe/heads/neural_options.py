"""Options of the families that are trained by gradient steps, and of those that fuse taps.

Knows nothing of estimators: validating params.yaml imports neither torch nor scikit-learn.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from embedpipe.heads.options import (
    CLASS_WEIGHT,
    DEVICE,
    JOIN,
    NORMALISE,
    WHITEN,
    ClassWeights,
    Components,
    Counts,
    Devices,
    HeadOptions,
    Join,
    NonNegatives,
    Positives,
    Switches,
    Wishes,
    distinct,
    expand,
)

PCA_OF_STEPS = "Principal components of the training rows that replace the columns; null keeps the columns."
Schedules = Annotated[
    tuple[Literal["constant", "cosine"], ...], BeforeValidator(expand), AfterValidator(distinct)
]
Shares = Annotated[
    tuple[Annotated[float, Field(ge=0, lt=1)], ...], BeforeValidator(expand), AfterValidator(distinct)
]
Patiences = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(expand), AfterValidator(distinct)
]


class NeuralOptions(HeadOptions):
    """What all of them take."""

    lr: Positives = Field(default=(3e-3,), description="AdamW learning rate; 3e-3 suits standardised inputs.")
    weight_decay: NonNegatives = Field(
        default=(1e-2,), description="AdamW's decoupled decay per step and unit of lr; its usual 1e-2."
    )
    schedule: Schedules = Field(
        default=("constant",),
        description="Learning rate: constant, since patience decides the end, or cosine, down to 0 after epochs.",
    )
    epochs: Counts = Field(
        default=(100,), description="Most passes over the training rows; patience ends most fits."
    )
    patience: Patiences = Field(
        default=(10,),
        description="Epochs without a better validation loss before stopping, where the best weights are kept; 10 "
        "outlasts its noise, 0 makes all epochs on all rows and keeps the last weights.",
    )
    batch: Counts = Field(default=(256,), description="Rows a step; 256 keeps two cores busy.")
    standardise: Switches = Field(
        default=(True,), description="Scale columns to unit variance on the training rows; SGD needs it."
    )
    class_weight: ClassWeights = Field(default=(None,), description=CLASS_WEIGHT)
    device: Devices = Field(default=(None,), description=DEVICE)


class SgdOptions(NeuralOptions):
    """Linear models by momentum SGD; the whole grid shares one matrix product a batch."""

    lr: Positives = Field(
        default=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        description="Learning rates with momentum 0.9; five, since more cost next to nothing.",
    )
    weight_decay: NonNegatives = Field(
        default=(0.0, 1e-3),
        description="L2 penalty beside the mean loss, 1 / (N * C) of logistic; 0 as in DINOv2, and one that counts.",
    )

    epochs: Counts = Field(
        default=(300,), description="Most passes over the training rows; low learning rates need many."
    )

    normalise: Wishes = Field(default=(None,), description=NORMALISE)
    pca: Components = Field(default=(None,), description=PCA_OF_STEPS)
    whiten: Wishes = Field(default=(None,), description=WHITEN)

    def few_shot(self) -> dict[str, tuple[object, ...]]:
        return {**super().few_shot(), "lr": (min(self.lr, key=lambda lr: abs(lr - 0.01)),)}


class MlpOptions(NeuralOptions):
    """A small perceptron trained by AdamW, stopped early on validation."""

    hidden: Counts = Field(default=(128,), description="Units of a hidden layer; 128 fits a tap in a second.")
    layers: Annotated[
        tuple[Annotated[int, Field(ge=1, le=2)], ...], BeforeValidator(expand), AfterValidator(distinct)
    ] = Field(default=(1,), description="Hidden layers, 1 or 2; one is enough on most features.")
    dropout: Shares = Field(
        default=(0.0,), description="Share of hidden units dropped in training; off by default."
    )
    normalise: Wishes = Field(default=(None,), description=NORMALISE)
    pca: Components = Field(default=(None,), description=PCA_OF_STEPS)
    whiten: Wishes = Field(default=(None,), description=WHITEN)


class ConvOptions(NeuralOptions):
    """1×1 to a width, 3×3, pooling and a linear layer, over maps: taps of the reductions none and grid:k."""

    hidden: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(expand), AfterValidator(distinct)
    ] = Field(
        default=(32,),
        description="Channels between input and output; 32 keeps a map's cost near a perceptron's, 0 is linear.",
    )
    kernel: Annotated[tuple[Literal[1, 3, 5, 7], ...], BeforeValidator(expand), AfterValidator(distinct)] = (
        Field(default=(3,), description="Side of the second convolution in places; 3 sees the neighbours.")
    )
    pool: Annotated[tuple[Literal["mean", "max"], ...], BeforeValidator(expand), AfterValidator(distinct)] = (
        Field(default=("mean",), description="What is kept of all places; mean is the steadier of the two.")
    )


class AttentiveOptions(NeuralOptions):
    """Learned queries weigh tokens, or the places of a map: taps of the reductions none and grid:k."""

    queries: Counts = Field(
        default=(8,), description="Learned queries, each a head of attention; 8, since more gain little."
    )
    width: Counts = Field(
        default=(128,), description="Values gathered by all queries together; a multiple of queries."
    )


class LayerwiseOptions(NeuralOptions):
    """A learned mixture of taps, or attention over them; joins the taps of each backbone by default."""

    join: Join = Field(default="taps", description=JOIN)
    fusion: Annotated[
        tuple[Literal["mixture", "attention"], ...], BeforeValidator(expand), AfterValidator(distinct)
    ] = Field(
        default=("mixture", "attention"),
        description="One set of weights for all samples (mixture), or one for each sample (attention).",
    )
    width: Counts = Field(
        default=(64,),
        description="Columns after projection: for attention, and for taps of different widths.",
    )
    queries: Counts = Field(default=(1,), description="Queries of attention; one, as published.")


class GroupLassoOptions(HeadOptions):
    """Linear models that keep whole taps or leave them out; joins the taps of each backbone by default."""

    join: Join = Field(default="taps", description=JOIN)
    strength: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], BeforeValidator(expand), AfterValidator(distinct)
    ] = Field(
        default=(0.01, 0.03, 0.1, 0.3),
        description="Penalty as a share of the one at which every tap is left out; from nearly all to few.",
    )
    standardise: Switches = Field(
        default=(True,),
        description="Scale columns to unit variance on the training rows, so that none is cheap.",
    )
    class_weight: ClassWeights = Field(default=(None,), description=CLASS_WEIGHT)

    def few_shot(self) -> dict[str, tuple[object, ...]]:
        return {**super().few_shot(), "strength": (min(self.strength, key=lambda one: abs(one - 0.1)),)}


class GreedyOptions(HeadOptions):
    """Ridge on taps chosen one after the other; joins the taps of each backbone by default."""

    join: Join = Field(default="taps", description=JOIN)
    most: Counts = Field(
        default=(4,), description="Taps to stop at; 4, since the time grows with the cube of their columns."
    )
    gain: NonNegatives = Field(
        default=(1e-3,),
        description="Stop where no tap adds as much to R² on held-out training samples; 1e-3, above its noise.",
    )
    folds: Annotated[
        tuple[Annotated[int, Field(ge=2)], ...], BeforeValidator(expand), AfterValidator(distinct)
    ] = Field(
        default=(5,),
        description="Parts of the training samples held out in turn; they choose the L2 strength too.",
    )
    standardise: Switches = Field(
        default=(True,), description="Scale columns to unit variance on the training rows."
    )
    class_weight: ClassWeights = Field(default=(None,), description=CLASS_WEIGHT)
