"""What linear heads share: scaling of columns, folding it into the weights, and the row space.

Knows nothing of losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embedpipe.heads.base import ClassifierHead, RegressorHead

# N rows, D features, K classes, R rank


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

    def apply(self, X_ND: np.ndarray) -> np.ndarray:
        """Scaled rows, float64."""
        scaled: np.ndarray = X_ND.astype(np.float64) - self.mean
        scaled /= self.scale
        return scaled

    def fold(self, weights_DK: np.ndarray, intercept_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (K, D) and intercept (K,) over raw features, equal to the given ones over scaled ones."""
        coef_KD = np.ascontiguousarray((weights_DK / self.scale[:, None]).T)
        return coef_KD, intercept_K - coef_KD @ self.mean


@dataclass(frozen=True)
class RowSpace:
    """Rows in the eigenbasis of their Gram matrix.

    A model with an L2 penalty is the same in these coordinates as in the original ones, with R of at most
    min(N, D) columns; and its Hessian is nearly diagonal there.

    Attributes
    ----------
    Z_NR : float64 array, shape (N, R)
        Coordinates: centred columns, orthogonal to each other.
    basis : float64 array, shape (D, R)
        Orthonormal columns; ``Z = X @ basis``.
    eigenvalues : float64 array, shape (R,)
        Squared norms of the columns of Z.
    """

    Z_NR: np.ndarray
    basis: np.ndarray
    eigenvalues: np.ndarray

    @classmethod
    def of(cls, X_ND: np.ndarray) -> RowSpace:
        """Rotate centred rows X (N, D); exact up to rounding, in O(N D min(N, D))."""
        num_rows, num_columns = X_ND.shape
        if num_rows < num_columns:
            left_NR, singular_R, right_RD = np.linalg.svd(X_ND, full_matrices=False)
            return cls(left_NR * singular_R, np.ascontiguousarray(right_RD.T), singular_R**2)
        eigenvalues_D, basis_DD = np.linalg.eigh(X_ND.T @ X_ND)
        return cls(X_ND @ basis_DD, basis_DD, np.maximum(eigenvalues_D, 0.0))


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

    learned = ("coef_", "intercept_")
    coef_: np.ndarray
    intercept_: np.ndarray

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        scores: np.ndarray = X_ND.astype(np.float64, copy=False) @ self.coef_.T + self.intercept_
        return np.concatenate([np.zeros_like(scores), scores], axis=1) if scores.shape[1] == 1 else scores


class LinearRegressorHead(RegressorHead):
    """A regressor linear in the features.

    Attributes
    ----------
    coef_ : float64 array, shape (D,)
        Over raw features: scaling is folded in.
    intercept_ : float
    """

    learned = ("coef_",)
    learned_values: ClassVar[tuple[str, ...]] = ("intercept_",)
    coef_: np.ndarray
    intercept_: float

    def _values(self, X_ND: np.ndarray) -> np.ndarray:
        values: np.ndarray = X_ND.astype(np.float64, copy=False) @ self.coef_ + self.intercept_
        return values
