"""Choose layers one after the other, by what ridge on them together predicts of held-out rows.

Works on the moments of all layers side by side: one reading of the rows makes them, and no step reads a row. The
head is ridge on the layers that were chosen. Knows nothing of files.

References
----------
Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", section 3.3.2 (forward selection).
"""

# N rows, D features of all layers, K targets, A strengths, L layers

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import numpy as np

from embedpipe.errors import ConfigError, DataError, ShapeError
from embedpipe.heads.base import WeightedHead, grouped, softmax
from embedpipe.heads.beside import ColumnRows
from embedpipe.heads.gram import Gram
from embedpipe.heads.held_out import folds_of_rows
from embedpipe.heads.linear import LinearClassifierHead, LinearRegressorHead
from embedpipe.heads.neural import Unit, units_of
from embedpipe.heads.ridge_path import PrimalPath, RidgePath, TridiagonalPath
from embedpipe.heads.stored import Targets, moments_of
from embedpipe.heads.temperature import fit_inverse_temperature, spread_index
from embedpipe.heads.training import Training

ALPHAS = tuple(float(alpha) for alpha in np.geomspace(1e-1, 1e5, 13))
TARGETS = "targets"
MOST_NBYTES = 4 << 30
"""Moments of all layers that are held: 8 D² bytes a fold."""


@dataclass(frozen=True)
class Step:
    """One layer that was added.

    Attributes
    ----------
    layer : str
    r2 : float
        Of the layers so far, on held-out rows, over all folds and targets together; 1 is perfect, 0 the mean.
    alpha : float
        The strength that gave it.
    """

    layer: str
    r2: float
    alpha: float


def greedy_layers(
    gram: Gram,
    name: str,
    layers: Mapping[str, slice],
    *,
    alphas: Sequence[float] = ALPHAS,
    most: int | None = None,
    gain: float = 1e-3,
    standardise: bool = True,
) -> list[Step]:
    """Forward selection by exact k-fold scores of ridge.

    Parameters
    ----------
    gram
        Moments of all layers side by side, in two folds or more.
    name
        Of the targets in it.
    layers
        Columns of each layer.
    alphas
        Strengths tried at every step.
    most
        Layers to stop at; all by default.
    gain
        Stop where no layer adds as much of R².

    Returns
    -------
    list of Step
        In the order of choice; at least one.

    Raises
    ------
    DataError
        If the moments have one fold only, or a fold has no labelled row.
    """
    if gram.num_folds < 2:
        raise DataError(f"{name}: expected moments in two folds or more to hold rows out, found one")
    chosen: list[Step] = []
    left = dict(layers)
    while left and (most is None or len(chosen) < most):
        found = [
            Step(
                layer,
                *_held_out(
                    gram.columns(name, _places(layers, [*(step.layer for step in chosen), layer])),
                    name,
                    alphas,
                    standardise,
                ),
            )
            for layer in left
        ]
        best = max(found, key=lambda step: step.r2)
        if chosen and best.r2 < chosen[-1].r2 + gain:
            break
        chosen.append(best)
        del left[best.layer]
    return chosen


def _places(layers: Mapping[str, slice], names: Sequence[str]) -> np.ndarray:
    """Columns of some layers, side by side."""
    return np.concatenate([np.arange(layers[name].start, layers[name].stop) for name in names])


def _held_out(gram: Gram, name: str, alphas: Sequence[float], standardise: bool) -> tuple[float, float]:
    """Best R² over the strengths, and the strength."""
    error_A, spread = np.zeros(len(alphas)), 0.0
    for fold in range(gram.num_folds):
        rest, held = gram.normal(name, without=fold), gram.normal(name, only=fold)
        form = TridiagonalPath if len(rest.mean) > 1 else PrimalPath
        path: RidgePath = form.of(rest, standardise=standardise)
        coef_AKD, intercept_AK = path.weights(alphas)
        for a in range(len(alphas)):
            error_A[a] += held.squared_error(coef_AKD[a], intercept_AK[a]).sum()
        # about the mean of the rows that were learned from: what knows no features predicts that
        spread += float(
            (held.target_square + held.weight * np.square(held.target_mean - rest.target_mean)).sum()
        )
    best = int(np.argmin(error_A))
    return 1.0 - float(error_A[best]) / max(spread, 1e-300), float(alphas[best])


class _Greedy(WeightedHead):
    """What both kinds of target share.

    Attributes
    ----------
    kept_layers_ : int64 array
        Places of the taps that were chosen, in the order of choice.
    r2_ : float64 array
        Of the taps so far, on held-out training rows, after each was added.
    layer_weights_ : float64 array, shape (L,)
        What each tap added to R², as a share of the last; zero where it was left out.
    alpha_ : float
        L2 strength that the held-out rows chose.
    """

    family = "greedy"
    streams = True
    widths: Sequence[int] | None
    most: int
    gain: float
    folds: int
    standardise: bool
    random_state: int
    class_weight: Any = None
    kept_layers_: np.ndarray
    r2_: np.ndarray
    layer_weights_: np.ndarray
    alpha_: float

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        is_classes = training.classes is not None
        means_M, stds_M = units_of(training.columns, training.weight) if not is_classes else (0.0, 1.0)
        # each number counts by what of its spread is explained
        targets: Targets = training.onehot if is_classes else (training.columns - means_M) / stds_M
        for group in grouped(heads, "widths", "folds", "class_weight", "random_state"):
            first, num_rows = group[0], training.rows.shape[0]
            layers = first._layers(training.rows.shape[1])
            folds = folds_of_rows(
                first.folds,
                num_rows,
                training.y if is_classes else None,
                training.groups,
                first.random_state,
            )
            if folds.max() < 1:
                raise DataError(f"{cls.__name__}: all training rows are of one group: none can be held out")
            weight = training.weight_of(first.class_weight)
            gram = moments_of(
                training.rows, {TARGETS: targets}, folds=folds, num_folds=int(folds.max()) + 1, weight=weight
            )
            for head in group:
                steps = greedy_layers(
                    gram, TARGETS, layers, most=head.most, gain=head.gain, standardise=head.standardise
                )
                head._learn(gram, layers, steps, training, means_M, stds_M)

    def _layers(self, num_columns: int) -> dict[str, slice]:
        """Columns of each tap, by its place."""
        widths = tuple(self.widths or (num_columns,))
        if sum(widths) != num_columns:
            raise ShapeError(
                f"{type(self).__name__}: expected rows of {sum(widths)} columns (widths {list(widths)}), "
                f"found {num_columns}"
            )
        if self.folds < 2:
            raise ConfigError(f"greedy: folds: expected 2 or more, found {self.folds}")
        nbytes = 8 * num_columns**2 * self.folds
        if nbytes > MOST_NBYTES:
            raise ConfigError(
                f"greedy: the moments of {num_columns:,} columns in {self.folds} folds take {nbytes / 1e9:.3g} GB, "
                f"more than {MOST_NBYTES / 1e9:.3g}: join fewer taps or narrower ones, or lower `folds`"
            )
        bounds = [0, *accumulate(widths)]
        return {str(place): slice(*bounds[place : place + 2]) for place in range(len(widths))}

    def _learn(
        self,
        gram: Gram,
        layers: Mapping[str, slice],
        steps: Sequence[Step],
        training: Training,
        means_M: Unit,
        stds_M: Unit,
    ) -> None:
        """Ridge on the chosen taps, from the same moments."""
        chosen = _places(layers, [step.layer for step in steps])
        path = PrimalPath.of(gram.columns(TARGETS, chosen).normal(TARGETS), standardise=self.standardise)
        self.alpha_ = steps[-1].alpha
        coef_1KC, intercept_1K = path.weights([self.alpha_])
        coef_KD = np.zeros((coef_1KC.shape[1], training.rows.shape[1]))
        coef_KD[:, chosen] = coef_1KC[0] * np.reshape(stds_M, (-1, 1))
        self.kept_layers_ = np.array([int(step.layer) for step in steps], np.int64)
        self.r2_ = np.array([step.r2 for step in steps])
        added = np.maximum(np.diff(self.r2_, prepend=0.0), 0.0)
        self.layer_weights_ = np.zeros(len(layers))
        self.layer_weights_[self.kept_layers_] = added / added.sum() if added.sum() > 0 else 1 / len(added)
        self.converged_ = True
        self._take(
            coef_KD, intercept_1K[0] * stds_M + means_M, path, ColumnRows(training.rows, chosen), training
        )

    def _take(
        self,
        coef_KD: np.ndarray,
        intercept_K: np.ndarray,
        path: PrimalPath,
        rows: ColumnRows,
        training: Training,
    ) -> None:
        raise NotImplementedError


class GreedyClassifierHead(_Greedy, LinearClassifierHead):
    """Ridge on one-hot targets, over the taps that forward selection chooses.

    Parameters
    ----------
    widths : sequence of int or None
        Columns of each tap, in the order in which they lie; None: one tap.
    most : int
        Taps to stop at.
    gain : float
        Stop where no tap adds as much to R² on held-out training rows.
    folds : int
        Parts of the training rows that are held out in turn, 2 or more.
    standardise : bool
        Scale columns to unit variance on the training rows.
    class_weight : None, ``balanced`` or dict
        What rows of each class count.
    random_state : int
        Decides the folds.
    """

    learned = (*LinearClassifierHead.learned, "kept_layers_", "layer_weights_", "r2_")
    learned_values = ("alpha_", "inverse_temperature_")
    inverse_temperature_: float

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        *,
        most: int = 4,
        gain: float = 1e-3,
        folds: int = 5,
        standardise: bool = True,
        class_weight: Any = None,
        random_state: int = 0,
    ) -> None:
        self.widths = widths
        self.most = most
        self.gain = gain
        self.folds = folds
        self.standardise = standardise
        self.class_weight = class_weight
        self.random_state = random_state

    def _take(
        self,
        coef_KD: np.ndarray,
        intercept_K: np.ndarray,
        path: PrimalPath,
        rows: ColumnRows,
        training: Training,
    ) -> None:
        self.coef_, self.intercept_ = coef_KD, intercept_K
        sample = spread_index(*training.onehot.shape, rows.shape[1])
        left_out = path.left_out(rows, training.onehot, sample, training.mass_of(self.class_weight))
        weight_S = None if training.weight is None else training.weight[sample]
        self.inverse_temperature_ = fit_inverse_temperature(
            left_out.scores(self.alpha_), training.y[sample], weight_S
        )

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        return softmax(self.inverse_temperature_ * scores_NK)


class GreedyRegressorHead(_Greedy, LinearRegressorHead):
    """Ridge regression of one number, over the taps that forward selection chooses.

    Parameters
    ----------
    widths, most, gain, folds, standardise, random_state
        As `GreedyClassifierHead` has them.
    """

    learned = (*LinearRegressorHead.learned, "kept_layers_", "layer_weights_", "r2_")
    learned_values = (*LinearRegressorHead.learned_values, "alpha_")

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        *,
        most: int = 4,
        gain: float = 1e-3,
        folds: int = 5,
        standardise: bool = True,
        random_state: int = 0,
    ) -> None:
        self.widths = widths
        self.most = most
        self.gain = gain
        self.folds = folds
        self.standardise = standardise
        self.random_state = random_state

    def _take(
        self,
        coef_KD: np.ndarray,
        intercept_K: np.ndarray,
        path: PrimalPath,
        rows: ColumnRows,
        training: Training,
    ) -> None:
        self._keep(coef_KD, intercept_K)
