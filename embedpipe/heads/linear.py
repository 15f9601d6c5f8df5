"""What linear heads share: scaling of columns, and folding it into the weights.

Knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embedpipe.heads.base import ClassifierHead, HeadState, RegressorHead
from embedpipe.heads.rows import Rows

# N rows, D features, K classes


@dataclass(frozen=True)
class Scaling:
    """Shift and scale of columns, learned on training rows.

    Attributes
    ----------
    mean, scale : float64 arrays, shape (D,)
        `scale` is 1 where a column is constant.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(
        cls, X_ND: np.ndarray, *, standardise: bool, centre: bool = True, weight: np.ndarray | None = None
    ) -> Scaling:
        """Mean (if `centre`) and standard deviation (if `standardise`) of each column, in float64."""
        mean = np.zeros(X_ND.shape[1])
        if centre and weight is None:
            mean = X_ND.mean(axis=0, dtype=np.float64)
        elif centre:
            mean = np.average(X_ND.astype(np.float64), axis=0, weights=weight)
        if not standardise:
            return cls(mean, np.ones_like(mean))
        squares_ND = np.square(X_ND.astype(np.float64) - mean)
        std_D = np.sqrt(squares_ND.mean(axis=0) if weight is None else np.average(squares_ND, 0, weight))
        # rounding leaves a constant column with a spread of a few ulps of its mean
        constant = std_D <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, std_D))

    @classmethod
    def of_rows(
        cls, rows: Rows, *, standardise: bool, centre: bool = True, weight: np.ndarray | None = None
    ) -> Scaling:
        """The same by blocks: one reading for the means, one for the deviations."""
        total = float(rows.shape[0] if weight is None else weight.sum())

        def mean_of(values: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            sums_D = np.zeros(rows.shape[1])
            for part, block in rows.blocks():
                found_nD = values(block.astype(np.float64))
                sums_D += found_nD.sum(axis=0) if weight is None else weight[part] @ found_nD
            return sums_D / total

        mean = mean_of(lambda block_nD: block_nD) if centre else np.zeros(rows.shape[1])
        if not standardise:
            return cls(mean, np.ones_like(mean))
        std_D = np.sqrt(mean_of(lambda block_nD: np.square(block_nD - mean)))
        constant = std_D <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, std_D))

    def apply(self, X_ND: np.ndarray) -> np.ndarray:
        """Scaled rows, float64."""
        scaled: np.ndarray = X_ND.astype(np.float64) - self.mean
        scaled /= self.scale
        return scaled

    def fold(self, weights_DK: np.ndarray, intercept_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (K, D) and intercept (K,) over raw features, equal to the given ones over scaled ones."""
        coef_KD = np.ascontiguousarray((weights_DK / self.scale[:, None]).T)
        return coef_KD, intercept_K - coef_KD @ self.mean


def unit_rows(X_ND: np.ndarray) -> np.ndarray:
    """Rows of unit Euclidean length; a row of zeros stays zero."""
    norms_N1 = np.sqrt(np.einsum("nd,nd->n", X_ND, X_ND))[:, None]
    unit: np.ndarray = X_ND / np.where(norms_N1 > 0, norms_N1, 1.0)
    return unit


class LinearClassifierHead(ClassifierHead):
    """A classifier whose scores are linear in the features.

    Attributes
    ----------
    coef_ : float64 array, shape (K, D), or (1, D) where there are two classes
        Over raw features: scaling is folded in.
    intercept_ : float64 array, shape (K,) or (1,)
    """

    learned: ClassVar[tuple[str, ...]] = ("coef_", "intercept_")
    coef_: np.ndarray
    intercept_: np.ndarray

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        rows_ND = self._seen(X_ND)
        scores: np.ndarray = rows_ND.astype(np.float64, copy=False) @ self.coef_.T + self.intercept_
        return np.concatenate([np.zeros_like(scores), scores], axis=1) if scores.shape[1] == 1 else scores


class LinearRegressorHead(RegressorHead):
    """A regressor linear in the features.

    Attributes
    ----------
    coef_ : float64 array, shape (D,), or (M, D) of several numbers
        Over raw features: scaling is folded in.
    intercept_ : float, or float64 array of shape (M,)
    """

    learned: ClassVar[tuple[str, ...]] = ("coef_",)
    learned_values: ClassVar[tuple[str, ...]] = ("intercept_",)
    coef_: np.ndarray
    intercept_: float | np.ndarray

    def _values(self, X_ND: np.ndarray) -> np.ndarray:
        rows_ND = self._seen(X_ND)
        values: np.ndarray = rows_ND.astype(np.float64, copy=False) @ self.coef_.T + self.intercept_
        return values

    def _keep(self, coef_MD: np.ndarray, intercept_M: np.ndarray) -> None:
        """Take weights over raw features, of one number or of several."""
        if len(coef_MD) == 1:
            self.coef_, self.intercept_ = coef_MD[0].copy(), float(intercept_M[0])
        else:
            self.coef_, self.intercept_ = coef_MD.copy(), np.array(intercept_M, np.float64)

    def state(self) -> HeadState:
        """Everything learned, for saving."""
        base = super().state()
        intercept = self.intercept_
        plain = intercept.tolist() if isinstance(intercept, np.ndarray) else float(intercept)
        return HeadState(base.tensors, {**base.values, "intercept_": plain})

    def restore(self, state: HeadState) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        if isinstance(self.intercept_, list):
            self.intercept_ = np.array(self.intercept_, np.float64)
