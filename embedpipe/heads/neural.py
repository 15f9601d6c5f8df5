"""What heads trained by gradient steps share: options, rows to stop on, scaling, and how training went.

Candidates of one shape are trained together (see `stacked`); torch is imported when a fit begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np

from embedpipe.heads.base import WeightedHead, grouped
from embedpipe.heads.device import device_of
from embedpipe.heads.held_out import one_in
from embedpipe.heads.linear import Scaling
from embedpipe.heads.losses import LossName
from embedpipe.heads.nets import Net
from embedpipe.heads.rows import Rows
from embedpipe.heads.stacked import Course, Fitted, Recipe, Sampled, train_stack
from embedpipe.heads.training import Training

# N rows, D features, K outputs, G members

Unit = float | np.ndarray
"""Of the targets: of one number, or of each of several."""
PART_NBYTES = 1 << 20
HOLDOUT = 5
"""One row in so many is held out for early stopping where no validation rows are given."""


class NeuralHead(WeightedHead):
    """Base of heads that are trained by gradient steps. Subclasses give `_net` and `_take`.

    Attributes
    ----------
    num_epochs_, best_epoch_ : int
        Passes made, and the pass whose weights were kept; 0 where none was finite.
    stopped_ : str
        ``patience``, ``schedule``, ``epochs`` or ``diverged``; see `stacked.Fitted`.
    converged_ : bool
        Whether training ended by patience, or its learning rate came down to 0: False where `epochs` ran
        out first, or the loss was no longer finite.
    """

    streams = True
    optimiser: ClassVar[str] = "adamw"
    shape_names: ClassVar[tuple[str, ...]] = ()
    """Parameters that decide the shape of the network: members of a stack agree in them."""
    course_names: ClassVar[tuple[str, ...]] = (
        "schedule",
        "epochs",
        "patience",
        "batch",
        "standardise",
        "class_weight",
        "device",
        "random_state",
    )
    learned_values: ClassVar[tuple[str, ...]] = ("num_epochs_", "best_epoch_", "stopped_")

    schedule: str = "constant"
    dropout: float = 0.0
    class_weight: Any = None
    device: str
    lr: float
    weight_decay: float
    epochs: int
    patience: int
    batch: int
    standardise: bool
    random_state: int
    num_epochs_: int
    best_epoch_: int
    stopped_: str

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        for group in grouped(heads, *cls.shape_names, *cls.course_names):
            first = group[0]
            loss, num_outputs = first._loss(training)
            parts = split(training, first.class_weight, first.random_state, held_out=first.patience > 0)
            moments = units_of(parts.y, parts.weight) if loss == "square" else (0.0, 1.0)
            scaling = first._scaling(parts.rows, parts.weight)
            sampled = partial(_sampled, scaling=scaling, moments=moments, exact=loss != "square")
            fitted = train_stack(
                first._net(parts.rows.shape[1:], num_outputs),
                loss,
                num_outputs,
                sampled(parts.rows, parts.y, parts.weight),
                None
                if parts.rows_val is None or parts.y_val is None
                else sampled(parts.rows_val, parts.y_val, parts.weight_val),
                [Recipe(head.lr, head.weight_decay, head.dropout) for head in group],
                Course(
                    cls.optimiser,
                    first.schedule,
                    first.epochs,
                    first.patience or None,
                    first.batch,
                    first.random_state,
                ),
                device=device_of(first.device, cls.family),
                memory_nbytes=training.memory_nbytes,
            )
            for head, one in zip(group, fitted, strict=True):
                head._note(one)
                head._take(one, scaling, *moments)

    def _loss(self, training: Training) -> tuple[LossName, int]:
        """Loss and number of outputs."""
        if self.kind == "multilabel":
            return "sigmoid", training.y.shape[1]
        if training.classes is not None:
            return "softmax", len(training.classes)
        return "square", training.y.shape[1] if training.y.ndim == 2 else 1

    def _scaling(self, rows: Rows, weight: np.ndarray | None) -> Scaling:
        """Shift and scale of rows, in a shape that broadcasts against one."""
        return scaling_of(rows, standardise=self.standardise, weight=weight)

    def _net(self, shape: tuple[int, ...], num_outputs: int) -> Net:
        """The network for rows of a shape."""
        raise NotImplementedError

    def _take(self, fitted: Fitted, scaling: Scaling, mean: Unit, std: Unit) -> None:
        """Keep what was learned, over raw features and in the units of the targets."""
        raise NotImplementedError

    def _note(self, fitted: Fitted) -> None:
        self.num_epochs_, self.best_epoch_ = fitted.num_epochs, fitted.best_epoch
        self.stopped_ = fitted.stopped
        self.converged_ = fitted.stopped in ("patience", "schedule")
        self.failure_ = None
        if fitted.stopped == "diverged":
            self.failure_ = f"diverged in epoch {fitted.num_epochs}: lower lr"


@dataclass(frozen=True)
class Parts:
    """Rows to train on and rows to stop on, with what each row counts."""

    rows: Rows
    y: np.ndarray
    weight: np.ndarray | None
    rows_val: Rows | None = None
    y_val: np.ndarray | None = None
    weight_val: np.ndarray | None = None


def split(training: Training, class_weight: Any, seed: int, *, held_out: bool) -> Parts:
    """Rows to train on and rows to stop on: those given, or one in five held out of training; none if not wanted.

    Where nothing can be held out `rows_val` is None.
    """
    rows, y, weight = training.rows, training.y, training.weight_of(class_weight)
    if not held_out:
        return Parts(rows, y, weight)
    if training.rows_val is not None and training.y_val is not None and len(training.y_val):
        mass_N = training.mass_of(class_weight)
        mass = None if mass_N is None else _of_class(y, mass_N)[training.y_val]
        return Parts(rows, y, weight, training.rows_val, training.y_val, mass)
    labels = None if training.classes is None or y.ndim > 1 else y
    held = one_in(HOLDOUT, len(y), labels, training.groups, seed)
    if not len(held):
        return Parts(rows, y, weight)
    out = np.zeros(len(y), dtype=bool)
    out[held] = True
    kept, held = np.flatnonzero(~out), np.flatnonzero(out)
    of_kept, of_held = (None, None) if weight is None else (weight[kept], weight[held])
    return Parts(rows.take(kept), y[kept], of_kept, rows.take(held), y[held], of_held)


def _of_class(codes: np.ndarray, mass_N: np.ndarray) -> np.ndarray:
    """What one row of each class counts, of what rows of each count."""
    of_class_K = np.zeros(int(codes.max()) + 1)
    of_class_K[codes] = mass_N
    return of_class_K


def units_of(y: np.ndarray, weight: np.ndarray | None) -> tuple[Unit, Unit]:
    """Mean and standard deviation of the targets: of each column where there are several numbers a row."""
    if y.ndim != 2:
        return moments_of(y, weight)
    means, spreads = zip(*(moments_of(column, weight) for column in y.T), strict=True)
    return np.array(means), np.array(spreads)


def moments_of(y: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """Mean and standard deviation of the numbers that are not NaN; 1 where they are all equal."""
    known = ~np.isnan(y)
    of_row = (
        None if weight is None else np.broadcast_to(weight.reshape(-1, *[1] * (y.ndim - 1)), y.shape)[known]
    )
    values = y[known]
    mean = float(np.average(values, weights=of_row))
    return mean, float(np.average((values - mean) ** 2, weights=of_row)) ** 0.5 or 1.0


def scaling_of(
    rows: Rows, *, standardise: bool, weight: np.ndarray | None, axes: tuple[int, ...] = ()
) -> Scaling:
    """Mean and spread of columns, by one pass over blocks: the same bits wherever the rows lie.

    Parameters
    ----------
    axes
        Axes of a block, besides that of rows, over which columns are pooled: places of a map. The result
        keeps them with length 1.
    """
    shape = tuple(1 if axis + 1 in axes else size for axis, size in enumerate(rows.shape[1:]))
    if not standardise:
        return Scaling(np.zeros(shape), np.ones(shape))
    places = int(np.prod([rows.shape[axis] for axis in axes])) if axes else 1
    mass = places * (rows.shape[0] if weight is None else float(weight.sum()))
    # about a point near the mean, so that the second moment keeps its digits
    centre = np.zeros(shape)
    first, second = np.zeros(shape), np.zeros(shape)
    # parts that stay in the cache of a core
    most = max(1, PART_NBYTES // (8 * math.prod(rows.shape[1:])))
    for place, block in rows.blocks():
        if place.start == 0:
            centre = block.mean(axis=(0, *axes), keepdims=True, dtype=np.float64)[0]
        for at in range(0, len(block), most):
            part = block[at : at + most] - centre
            counted = part
            if weight is not None:
                here = weight[place][at : at + most]
                counted = part * here.reshape(-1, *[1] * (part.ndim - 1))
            first += counted.sum(axis=(0, *axes), keepdims=True)[0]
            second += np.multiply(part, counted, out=part).sum(axis=(0, *axes), keepdims=True)[0]
    moved = first / mass
    mean, std = centre + moved, np.sqrt(np.maximum(second / mass - np.square(moved), 0.0))
    constant = std <= 10 * np.finfo(np.float64).eps * np.abs(mean)
    return Scaling(mean, np.where(constant, 1.0, std))


def _sampled(
    rows: Rows,
    y: np.ndarray,
    weight: np.ndarray | None,
    *,
    scaling: Scaling,
    moments: tuple[Unit, Unit],
    exact: bool,
) -> Sampled:
    # weights of mean 1, so that a learning rate means the same with and without them
    normal = None if weight is None else weight / weight.mean()
    target = y if exact else (y - moments[0]) / moments[1]
    return Sampled(rows, target, normal, scaling.mean, scaling.scale)
