"""Least squares under an L2 penalty: every strength from one eigendecomposition, exact held-out scores.

Minimises ``sum(w (y - x W - b)^2) + alpha ||W||^2`` with b unpenalised. Knows nothing of classes or heads.

References
----------
Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", equations 3.47 and 7.52; section
18.3.5 for the dual form. Golub and Van Loan 2013, "Matrix Computations", section 8.3.1 (tridiagonal form).
"""

# N rows, D features, K targets, R rank, A strengths

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import lapack, solve_banded

from embedpipe.heads.gram import Gram, Normal
from embedpipe.heads.linear import Scaling

ALL = "targets"


class RidgePath(Protocol):
    """Solutions for every strength over the same rows."""

    def weights(self, alphas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Weights (A, K, D) and intercepts (A, K) over raw features."""


@dataclass(frozen=True)
class PrimalPath:
    """In the eigenbasis of the features' scatter: N does not matter.

    Attributes
    ----------
    scaling : Scaling
    basis : float64 array, shape (D, R)
        Orthonormal columns over scaled features.
    eigenvalues, projected, mean : float64 arrays, shapes (R,), (R, K) and (K,)
        Eigenvalues of the scatter, targets in its basis, and their mean.
    """

    scaling: Scaling
    basis: np.ndarray
    eigenvalues: np.ndarray
    projected: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, normal: Normal, *, standardise: bool) -> PrimalPath:
        """From the moments of the rows alone."""
        scale_D = normal.scale_D(standardise=standardise)
        scaled_DD = normal.gram / scale_D[:, None] / scale_D
        eigenvalues_R, basis_DR = np.linalg.eigh(scaled_DD)
        projected_RK = basis_DR.T @ (normal.cross / scale_D[:, None])
        return cls(
            Scaling(normal.mean, scale_D),
            basis_DR,
            np.maximum(eigenvalues_R, 0.0),
            projected_RK,
            normal.target_mean,
        )

    def weights(self, alphas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """See `RidgePath.weights`."""
        num_alphas, num_targets = len(alphas), self.projected.shape[1]
        shrunk_RA = 1.0 / (self.eigenvalues[:, None] + np.asarray(alphas, dtype=np.float64))
        rotated_RAK = self.projected[:, None, :] * shrunk_RA[:, :, None]
        solved = self.basis @ rotated_RAK.reshape(len(rotated_RAK), -1)
        coef, _ = self.scaling.fold(solved, np.zeros(num_alphas * num_targets))
        coef_AKD = coef.reshape(num_alphas, num_targets, -1)
        return coef_AKD, self.mean - coef_AKD @ self.scaling.mean

    def loo_scores(
        self, X_ND: np.ndarray, Y_NK: np.ndarray, weight: np.ndarray | None, mass: np.ndarray | None
    ) -> LeaveOneOut:
        """Of the rows that the path was made of."""
        return LeaveOneOut(
            self.scaling.apply(X_ND) @ self.basis,
            self.eigenvalues,
            self.projected,
            self.mean,
            Y_NK,
            np.ones(len(X_ND)) if mass is None else mass,
            float(len(X_ND) if weight is None else weight.sum()),
        )


@dataclass(frozen=True)
class TridiagonalPath:
    """Reduced to a tridiagonal system, which every strength then solves in O(D): half the price of eigenvectors.

    Attributes
    ----------
    scaling : Scaling
    reduced, factors : float64 arrays
        Reflectors of the orthogonal basis, as LAPACK's ``sytrd`` leaves them.
    diagonal, beside : float64 arrays, shapes (D,) and (D - 1,)
    projected, mean : float64 arrays, shapes (D, K) and (K,)
        Targets in that basis, and their mean.
    """

    scaling: Scaling
    reduced: np.ndarray
    factors: np.ndarray
    diagonal: np.ndarray
    beside: np.ndarray
    projected: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, normal: Normal, *, standardise: bool) -> TridiagonalPath:
        """From the moments of two features or more."""
        scale_D = normal.scale_D(standardise=standardise)
        # the transpose of a symmetric matrix is itself, in the order of LAPACK
        scaled_DD = (normal.gram / scale_D[:, None] / scale_D).T
        work, _ = lapack.dsytrd_lwork(len(scaled_DD), lower=1)
        reduced, diagonal, beside, factors, info = lapack.dsytrd(
            scaled_DD, lower=1, lwork=int(work), overwrite_a=1
        )
        assert info == 0, info
        reflectors = np.asfortranarray(reduced[1:, :-1])
        projected = _reflect(reflectors, factors, normal.cross / scale_D[:, None], "T")
        scaling = Scaling(normal.mean, scale_D)
        return cls(scaling, reflectors, factors, diagonal, beside, projected, normal.target_mean)

    def weights(self, alphas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """See `RidgePath.weights`."""
        num_alphas, num_targets = len(alphas), self.projected.shape[1]
        solved = np.concatenate([self._solve(float(alpha)) for alpha in alphas], axis=1)
        flat = _reflect(self.reduced, self.factors, solved, "N")
        coef, _ = self.scaling.fold(flat, np.zeros(num_alphas * num_targets))
        coef_AKD = coef.reshape(num_alphas, num_targets, -1)
        return coef_AKD, self.mean - coef_AKD @ self.scaling.mean

    def _solve(self, alpha: float) -> np.ndarray:
        _, _, solved, info = lapack.dptsv(self.diagonal + alpha, self.beside, self.projected)
        if info:  # not positive, by rounding: without pivots it cannot be solved
            bands = np.zeros((3, len(self.diagonal)))
            bands[0, 1:], bands[1], bands[2, :-1] = self.beside, self.diagonal + alpha, self.beside
            solved = solve_banded((1, 1), bands, self.projected)
        result: np.ndarray = solved
        return result


def _reflect(
    reflectors: np.ndarray, factors: np.ndarray, columns_DK: np.ndarray, transpose: str
) -> np.ndarray:
    """Multiply by the orthogonal basis of a tridiagonal form, or by its transpose."""
    rest = np.asfortranarray(columns_DK[1:])
    turned, _, info = lapack.dormqr(
        "L", transpose, reflectors, factors, rest, lwork=64 * max(rest.shape[1], 1)
    )
    assert info == 0, info
    return np.concatenate([columns_DK[:1], turned])


@dataclass(frozen=True)
class DualPath:
    """In the eigenbasis of the rows' inner products, for fewer rows than features: D does not matter.

    Attributes
    ----------
    scaling : Scaling
    rows : float64 array, shape (N, D)
        Scaled rows, each times the root of its weight.
    basis, eigenvalues : float64 arrays, shapes (N, R) and (R,)
        Of their inner products.
    projected, mean : float64 arrays, shapes (R, K) and (K,)
        Targets in that basis, and their mean.
    root : float64 array, shape (N,)
        Roots of the weights.
    """

    scaling: Scaling
    rows: np.ndarray
    basis: np.ndarray
    eigenvalues: np.ndarray
    projected: np.ndarray
    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def of(
        cls, X_ND: np.ndarray, Y_NK: np.ndarray, *, standardise: bool, weight: np.ndarray | None
    ) -> DualPath:
        """From the rows."""
        scaling = Scaling.of(X_ND, standardise=standardise, weight=weight)
        root_N = np.ones(len(X_ND)) if weight is None else np.sqrt(weight)
        rows_ND = scaling.apply(X_ND) * root_N[:, None]
        mean_K = np.average(Y_NK, axis=0, weights=weight)
        eigenvalues_R, basis_NR = np.linalg.eigh(rows_ND @ rows_ND.T)
        projected_RK = basis_NR.T @ ((Y_NK - mean_K) * root_N[:, None])
        eigenvalues_R = np.maximum(eigenvalues_R, 0.0)
        return cls(scaling, rows_ND, basis_NR, eigenvalues_R, projected_RK, mean_K, root_N)

    def weights(self, alphas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """See `RidgePath.weights`."""
        num_alphas, num_targets = len(alphas), self.projected.shape[1]
        shrunk_RA = 1.0 / (self.eigenvalues[:, None] + np.asarray(alphas, dtype=np.float64))
        rotated_RAK = self.projected[:, None, :] * shrunk_RA[:, :, None]
        dual = self.basis @ rotated_RAK.reshape(len(rotated_RAK), -1)
        coef, _ = self.scaling.fold(self.rows.T @ dual, np.zeros(num_alphas * num_targets))
        coef_AKD = coef.reshape(num_alphas, num_targets, -1)
        return coef_AKD, self.mean - coef_AKD @ self.scaling.mean

    def loo_scores(
        self, X_ND: np.ndarray, Y_NK: np.ndarray, weight: np.ndarray | None, mass: np.ndarray | None
    ) -> LeaveOneOut:
        """Of the rows that the path was made of."""
        # the rows in the basis of their scatter are the eigenvectors times the roots of the eigenvalues
        roots_R = np.sqrt(self.eigenvalues)
        return LeaveOneOut(
            self.basis * roots_R / self.root[:, None],
            self.eigenvalues,
            self.projected * roots_R[:, None],
            self.mean,
            Y_NK,
            np.ones(len(Y_NK)) if mass is None else mass,
            float(len(Y_NK) if weight is None else weight.sum()),
        )


@dataclass(frozen=True)
class LeaveOneOut:
    """What each row is predicted to be by a fit on all other rows.

    Exact, for the scaling of columns as learned on all rows. Of a row that stands for several, by its weight,
    one is left out. A row that alone decides its own prediction (leverage 1, which alpha > 0 excludes save for
    rounding) keeps its fitted value.

    Attributes
    ----------
    Z_NR : float64 array, shape (N, R)
        Rows in the basis of their scatter.
    mass : float64 array, shape (N,)
        Weight that one copy of a row has in the fit.
    """

    Z_NR: np.ndarray
    eigenvalues: np.ndarray
    projected: np.ndarray
    mean: np.ndarray
    Y_NK: np.ndarray
    mass: np.ndarray
    total: float

    def scores(self, alpha: float) -> np.ndarray:
        """Under one strength, shape (N, K)."""
        return next(self.each([alpha]))

    def each(self, alphas: Sequence[float]) -> Iterator[np.ndarray]:
        """Under each strength in turn, sharing one pass for the leverages."""
        shrunk_RA = 1.0 / (self.eigenvalues[:, None] + np.asarray(alphas, dtype=np.float64))
        leverage_NA = self.mass[:, None] * (1.0 / self.total + np.square(self.Z_NR) @ shrunk_RA)
        for a in range(len(alphas)):
            fitted_NK = self.Z_NR @ (self.projected * shrunk_RA[:, a, None]) + self.mean
            left_N = np.maximum(1.0 - leverage_NA[:, a], 1e-12)
            yield self.Y_NK - (self.Y_NK - fitted_NK) / left_N[:, None]


def ridge_path(
    X_ND: np.ndarray, Y_NK: np.ndarray, *, standardise: bool, weight: np.ndarray | None = None
) -> PrimalPath | DualPath:
    """Solutions over rows in memory: in the dual form where they are fewer than features.

    Parameters
    ----------
    Y_NK
        Float64 targets.
    weight
        Of each row, above 0.
    """
    if len(X_ND) < X_ND.shape[1]:
        return DualPath.of(X_ND, Y_NK, standardise=standardise, weight=weight)
    gram = Gram()
    gram.add(X_ND, {ALL: Y_NK}, weight=weight)
    return PrimalPath.of(gram.normal(ALL), standardise=standardise)


def fold_scores(
    X_ND: np.ndarray,
    Y_NK: np.ndarray,
    folds: np.ndarray,
    alphas: Sequence[float],
    *,
    standardise: bool,
    weight: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What each fold is predicted to be by a fit on the others, scaling of columns included.

    One pass over the rows makes the moments of all folds; a fit without one fold is the total less its part.

    Yields
    ------
    positions : int64 array, shape (n,)
        Rows of one fold.
    scores : float64 array, shape (A, n, K)
    """
    num_folds, num_features = int(folds.max()) + 1, X_ND.shape[1]
    sizes_F = np.bincount(folds, minlength=num_folds)
    gram = None
    if (len(X_ND) - sizes_F).min() >= num_features:
        gram = Gram(num_folds)
        gram.add(X_ND, {ALL: Y_NK}, folds=folds, weight=weight)
    for fold in range(num_folds):
        held, kept = np.flatnonzero(folds == fold), folds != fold
        path: RidgePath
        if gram is None:
            rest = None if weight is None else weight[kept]
            path = ridge_path(X_ND[kept], Y_NK[kept], standardise=standardise, weight=rest)
        else:
            normal = gram.normal(ALL, without=fold)
            form = TridiagonalPath if num_features > 1 else PrimalPath
            path = form.of(normal, standardise=standardise)
        coef_AKD, intercept_AK = path.weights(alphas)
        flat = X_ND[held].astype(np.float64) @ coef_AKD.reshape(-1, num_features).T
        scores_nAK = flat.reshape(len(held), *intercept_AK.shape) + intercept_AK
        yield held, np.moveaxis(scores_nAK, 1, 0)
