"""Linear models that keep whole taps or leave them out: the group lasso, all strengths at once.

Minimises the mean loss plus ``strength * Σ_l sqrt(D_l) * |W_l|`` over taps l, with the Frobenius norm of the weights
of a tap, by accelerated proximal steps over all rows. Rows are read by blocks, once an iteration for all
strengths; no learning rate is chosen. Needs numpy alone.

References
----------
Yuan and Lin 2006, "Model selection and estimation in regression with grouped variables", section 2.
Beck and Teboulle 2009, "A Fast Iterative Shrinkage-Thresholding Algorithm", section 4.
O'Donoghue and Candès 2015, "Adaptive Restart for Accelerated Gradient Schemes", section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import numpy as np

from embedpipe.errors import ShapeError
from embedpipe.heads.base import WeightedHead, grouped, softmax
from embedpipe.heads.linear import LinearClassifierHead, LinearRegressorHead, Scaling
from embedpipe.heads.multilabel import LinearLabelsHead
from embedpipe.heads.neural import scaling_of, units_of
from embedpipe.heads.rows import Rows, cut, nbytes_of
from embedpipe.heads.stored import Targets
from embedpipe.heads.training import Training

# N rows, D columns, L taps, S strengths, K outputs

KEPT_NBYTES = 512 << 20
"""Scaled rows are kept between iterations up to this many bytes at most."""


@dataclass(frozen=True)
class Problem:
    """Scaled rows, and what their outputs should be.

    Attributes
    ----------
    loss : str
        ``softmax``, ``sigmoid`` or ``square``.
    wanted : float64 array, or one-hot; shape (N, K)
    weight : float64 array, shape (N,)
        Sums to 1.
    widths : tuple of int
        Columns of each tap.
    kept_nbytes : int
        Scaled rows up to so many bytes are kept between iterations.
    """

    rows: Rows
    scaling: Scaling
    loss: str
    wanted: Targets
    weight: np.ndarray
    widths: tuple[int, ...]
    kept_nbytes: int = KEPT_NBYTES

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Scaled rows, float64."""
        for place, block in self.rows.blocks():
            yield place, self.scaling.apply(block)

    @property
    def bounds(self) -> np.ndarray:
        """First column of each tap, shape (L,)."""
        return np.array([0, *accumulate(self.widths)][:-1])


def fit_path(
    problem: Problem, shares: Sequence[float], *, tol: float, max_iter: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Solve for every strength.

    Parameters
    ----------
    shares
        Strengths as shares of the one at which every tap is left out.
    tol
        Length of a proximal step, relative to the weights, at which to stop.

    Returns
    -------
    weights (S, D, K), intercepts (S, K), converged (S,), and the number of iterations
    """
    kept = list(problem.blocks()) if nbytes_of(problem.rows) * 2 <= problem.kept_nbytes else None
    num_columns, num_outputs = sum(problem.widths), problem.wanted.shape[1]
    roots_L = np.sqrt(np.array(problem.widths, dtype=np.float64))

    def gradient(weights_SDK: np.ndarray, bias_SK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num = len(weights_SDK)
        flat_DM = weights_SDK.transpose(1, 0, 2).reshape(num_columns, -1)
        found_DM, found_SK = np.zeros_like(flat_DM), np.zeros((num, num_outputs))
        for place, block_ND in kept if kept is not None else problem.blocks():
            out_NSK = (block_ND @ flat_DM).reshape(len(block_ND), num, num_outputs) + bias_SK
            error_NSK = _error(problem.loss, out_NSK, problem.wanted[place][:, None])
            error_NSK *= problem.weight[place][:, None, None]
            found_DM += block_ND.T @ error_NSK.reshape(len(block_ND), -1)
            found_SK += error_NSK.sum(axis=0)
        return found_DM.reshape(num_columns, num, num_outputs).transpose(1, 0, 2), found_SK

    def norms(weights_SDK: np.ndarray) -> np.ndarray:
        squares_SD = np.square(weights_SDK).sum(axis=2)
        length_SL: np.ndarray = np.sqrt(np.add.reduceat(squares_SD, problem.bounds, axis=1))
        return length_SL

    none_1DK = np.zeros((1, num_columns, num_outputs))
    start_1K = _intercept(problem)[None]
    largest = float((norms(gradient(none_1DK, start_1K)[0])[0] / roots_L).max())
    strength_S = np.array(shares) * largest
    step = 1.0 / _bend(problem, kept)
    num_strengths = len(strength_S)
    weights, bias = np.repeat(none_1DK, num_strengths, axis=0), np.repeat(start_1K, num_strengths, axis=0)
    ahead, ahead_bias = weights, bias
    momentum_S, converged_S = np.ones(num_strengths), np.zeros(num_strengths, bool)
    num_iter = 0
    for num_iter in range(1, max_iter + 1):  # noqa: B007
        slope, slope_bias = gradient(ahead, ahead_bias)
        stepped, new_bias = ahead - step * slope, ahead_bias - step * slope_bias
        length_SL = norms(stepped)
        shrunk_SL = np.maximum(1 - step * strength_S[:, None] * roots_L / np.maximum(length_SL, 1e-300), 0)
        new = stepped * np.repeat(shrunk_SL, problem.widths, axis=1)[..., None]
        moved_S = np.sqrt(
            np.square(new - ahead).sum(axis=(1, 2)) + np.square(new_bias - ahead_bias).sum(axis=1)
        )
        size_S = np.sqrt(np.square(new).sum(axis=(1, 2)) + np.square(new_bias).sum(axis=1))
        converged_S = moved_S <= tol * np.maximum(size_S, 1e-12)
        # a step against the momentum starts it anew
        against = ((ahead - new) * (new - weights)).sum(axis=(1, 2)) > 0
        next_S = (1 + np.sqrt(1 + 4 * np.where(against, 1.0, momentum_S) ** 2)) / 2
        push_S = np.where(against, 0.0, (momentum_S - 1) / next_S)
        ahead = new + push_S[:, None, None] * (new - weights)
        ahead_bias = new_bias + push_S[:, None] * (new_bias - bias)
        weights, bias, momentum_S = new, new_bias, next_S
        if converged_S.all():
            break
    return weights, bias, converged_S, num_iter


def _error(loss: str, out: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Gradient of the loss of each row in its outputs."""
    if loss == "softmax":
        shares: np.ndarray = softmax(out) - wanted
        return shares
    if loss == "sigmoid":
        from scipy.special import expit

        error: np.ndarray = np.where(
            np.isnan(wanted), 0.0, expit(out) - wanted
        )  # unknown labels pull at nothing
        return error
    residual: np.ndarray = 2.0 * (out - wanted)
    return residual


def _intercept(problem: Problem) -> np.ndarray:
    """The optimum without any tap, shape (K,)."""
    sums_K, known_K = np.zeros(problem.wanted.shape[1]), np.zeros(problem.wanted.shape[1])
    for place in cut(problem.wanted.shape):
        wanted_nK = problem.wanted[place]
        sums_K += problem.weight[place] @ np.nan_to_num(wanted_nK)
        known_K += problem.weight[place] @ ~np.isnan(wanted_nK)
    mean_K: np.ndarray = sums_K / known_K
    if problem.loss == "softmax":
        mean_K = np.log(mean_K)
    elif problem.loss == "sigmoid":
        mean_K = np.log(mean_K / (1 - mean_K))
    return mean_K


def _bend(problem: Problem, kept: list[tuple[slice, np.ndarray]] | None) -> float:
    """A bound on the curvature of the mean loss: that of the outputs times the largest eigenvalue of the rows."""
    along_D = np.random.default_rng(0).standard_normal(sum(problem.widths))
    largest = 1.0
    for _ in range(30):
        along_D /= np.linalg.norm(along_D)
        next_D = np.zeros_like(along_D)
        for place, block_ND in kept if kept is not None else problem.blocks():
            next_D += block_ND.T @ (problem.weight[place] * (block_ND @ along_D))
        largest = float(np.linalg.norm(next_D))
        along_D = next_D if largest > 0 else along_D
        if largest == 0:
            break
    # power iteration comes from below, by a few per cent after thirty steps
    curvature = {"softmax": 0.5, "sigmoid": 0.25, "square": 2.0}[problem.loss]
    return curvature * max(1.1 * largest, 1.0)


class _GroupLasso(WeightedHead):
    """What both kinds of target share.

    Attributes
    ----------
    kept_layers_ : int64 array
        Places of the taps whose weights are not zero.
    layer_weights_ : float64 array, shape (L,)
        Norm of the weights of each tap over scaled columns, as a share of the sum; zeros where none is kept.
    n_iter_ : int
        Passes over the rows, of all strengths together.
    """

    family = "group_lasso"
    streams = True
    widths: Sequence[int] | None
    strength: float
    standardise: bool
    tol: float
    max_iter: int
    class_weight: Any = None
    kept_layers_: np.ndarray
    layer_weights_: np.ndarray
    n_iter_: int

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        *,
        strength: float = 0.1,
        standardise: bool = True,
        tol: float = 1e-5,
        max_iter: int = 1000,
    ) -> None:
        self.widths = widths
        self.strength = strength
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        num_columns = training.rows.shape[1]
        for group in grouped(heads, "widths", "standardise", "tol", "max_iter", "class_weight"):
            first = group[0]
            widths = tuple(first.widths or (num_columns,))
            if sum(widths) != num_columns:
                raise ShapeError(
                    f"{cls.__name__}: expected rows of {sum(widths)} columns (widths {list(widths)}), "
                    f"found {num_columns}"
                )
            weight = training.weight_of(first.class_weight)
            is_number = cls.kind == "number"
            mean, std = units_of(training.y, weight) if is_number else (0.0, 1.0)
            scaling = scaling_of(training.rows, standardise=first.standardise, weight=weight)
            mass_N = np.ones(len(training.y)) if weight is None else weight
            loss = "square"
            wanted: Targets = training.columns
            if is_number:
                wanted = ((training.y - mean) / std).reshape(wanted.shape)
            elif cls.kind == "multilabel":
                loss = "sigmoid"
            if training.classes is not None:
                binary = len(training.classes) == 2
                loss = "sigmoid" if binary else "softmax"
                wanted = training.y[:, None].astype(np.float64) if binary else training.onehot
            kept_nbytes = min(KEPT_NBYTES, training.memory_nbytes // 2)
            problem = Problem(
                training.rows, scaling, loss, wanted, mass_N / mass_N.sum(), widths, kept_nbytes
            )
            shares = [head.strength for head in group]
            weights, bias, converged, num_iter = fit_path(
                problem, shares, tol=first.tol, max_iter=first.max_iter
            )
            for head, W_DK, b_K, done in zip(group, weights, bias, converged, strict=True):
                norms_L = np.sqrt(np.add.reduceat(np.square(W_DK).sum(axis=1), problem.bounds))
                head.kept_layers_ = np.flatnonzero(norms_L)
                head.layer_weights_ = norms_L / (norms_L.sum() or 1.0)
                head.converged_, head.n_iter_ = bool(done), num_iter
                coef_KD, intercept_K = scaling.fold(W_DK * std, b_K * std)
                head._take(coef_KD, intercept_K + mean)

    def _take(self, coef_KD: np.ndarray, intercept_K: np.ndarray) -> None:
        raise NotImplementedError


class GroupLassoClassifierHead(_GroupLasso, LinearClassifierHead):
    """Logistic regression that keeps whole taps or leaves them out.

    Parameters
    ----------
    widths : sequence of int or None
        Columns of each tap, in the order in which they lie; None: one tap.
    strength : float
        Of the penalty, as a share of the strength at which every tap is left out; in (0, 1).
    standardise : bool
        Scale columns to unit variance on the training rows.
    tol : float
        Length of a step, relative to the weights, at which the fit has converged.
    max_iter : int
        Most passes over the rows.
    class_weight : None, ``balanced`` or dict
        What rows of each class count.
    """

    learned = (*LinearClassifierHead.learned, "kept_layers_", "layer_weights_")
    learned_values = ("n_iter_",)

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        *,
        strength: float = 0.1,
        standardise: bool = True,
        tol: float = 1e-5,
        max_iter: int = 1000,
        class_weight: Any = None,
    ) -> None:
        self.widths = widths
        self.strength = strength
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight

    def _take(self, coef_KD: np.ndarray, intercept_K: np.ndarray) -> None:
        self.coef_, self.intercept_ = coef_KD, intercept_K


class GroupLassoRegressorHead(_GroupLasso, LinearRegressorHead):
    """Least squares that keeps whole taps or leaves them out, on standardised targets.

    Parameters
    ----------
    widths, strength, standardise, tol, max_iter
        As `GroupLassoClassifierHead` has them.
    """

    learned = (*LinearRegressorHead.learned, "kept_layers_", "layer_weights_")
    learned_values = (*LinearRegressorHead.learned_values, "n_iter_")

    def _take(self, coef_KD: np.ndarray, intercept_K: np.ndarray) -> None:
        self._keep(coef_KD, intercept_K)


class GroupLassoLabelsHead(_GroupLasso, LinearLabelsHead):
    """One logistic regression a label, all of which keep whole taps or leave them out; unknown labels count nothing.

    Its parameters are those of `GroupLassoRegressorHead`.
    """

    learned = (*LinearLabelsHead.learned, "kept_layers_", "layer_weights_")
    learned_values = ("n_iter_",)

    def _take(self, coef_KD: np.ndarray, intercept_K: np.ndarray) -> None:
        self.coef_, self.intercept_ = coef_KD, intercept_K
