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

from embedpipe.heads.gram import Normal
from embedpipe.heads.linear import Scaling
from embedpipe.heads.rows import Rows, as_rows
from embedpipe.heads.stored import Targets, moments_of

ALL = "targets"
PIECE = 4096


class RidgePath(Protocol):
    """Solutions for every strength over the same rows."""

    def weights(self, alphas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Weights (A, K, D) and intercepts (A, K) over raw features."""


class WholePath(RidgePath, Protocol):
    """Solutions that know their rows' part in them."""

    def left_out(
        self, rows: Rows, targets: Targets, index: np.ndarray, mass: np.ndarray | None
    ) -> LeaveOneOut:
        """What the rows at `index`, of those that the path was made of, get when each is left out.

        Parameters
        ----------
        mass
            Weight that one copy of each row has, shape (N,); 1 by default.
        """


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
    total : float
        Weight of all rows.
    """

    scaling: Scaling
    basis: np.ndarray
    eigenvalues: np.ndarray
    projected: np.ndarray
    mean: np.ndarray
    total: float

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
            normal.weight,
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

    def left_out(
        self, rows: Rows, targets: Targets, index: np.ndarray, mass: np.ndarray | None
    ) -> LeaveOneOut:
        """See `RidgePath.left_out`."""
        return LeaveOneOut(
            self.scaling.apply(rows.gather(index)) @ self.basis,
            self.eigenvalues,
            self.projected,
            self.mean,
            targets[index],
            np.ones(len(index)) if mass is None else mass[index],
            self.total,
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
    rows : Rows
    scaling : Scaling
    basis, eigenvalues : float64 arrays, shapes (N, R) and (R,)
        Of the inner products of scaled rows, each times the root of its weight.
    projected, mean : float64 arrays, shapes (R, K) and (K,)
        Targets in that basis, and their mean.
    root : float64 array, shape (N,)
        Roots of the weights.
    """

    rows: Rows
    scaling: Scaling
    basis: np.ndarray
    eigenvalues: np.ndarray
    projected: np.ndarray
    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, rows: Rows, targets: Targets, *, standardise: bool, weight: np.ndarray | None) -> DualPath:
        """From the rows, read once for each block of them."""
        scaling = Scaling.of_rows(rows, standardise=standardise, weight=weight)
        num_rows = rows.shape[0]
        root_N = np.ones(num_rows) if weight is None else np.sqrt(weight)
        mean_K = np.average(targets[:], axis=0, weights=weight)
        inner_NN = np.empty((num_rows, num_rows))
        for part, block in rows.blocks():
            mine_nD = scaling.apply(block) * root_N[part, None]
            for other, block_too in rows.blocks():
                if other.start < part.start:
                    continue
                theirs_nD = scaling.apply(block_too) * root_N[other, None]
                inner_NN[part, other] = mine_nD @ theirs_nD.T
                inner_NN[other, part] = inner_NN[part, other].T
        eigenvalues_R, basis_NR = np.linalg.eigh(inner_NN)
        projected_RK = basis_NR.T @ ((targets[:] - mean_K) * root_N[:, None])
        return cls(rows, scaling, basis_NR, np.maximum(eigenvalues_R, 0.0), projected_RK, mean_K, root_N)

    def weights(self, alphas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """See `RidgePath.weights`."""
        num_alphas, num_targets = len(alphas), self.projected.shape[1]
        shrunk_RA = 1.0 / (self.eigenvalues[:, None] + np.asarray(alphas, dtype=np.float64))
        rotated_RAK = self.projected[:, None, :] * shrunk_RA[:, :, None]
        dual_NM = (self.basis @ rotated_RAK.reshape(len(rotated_RAK), -1)) * self.root[:, None]
        solved_DM = np.zeros((self.rows.shape[1], dual_NM.shape[1]))
        for part, block in self.rows.blocks():
            solved_DM += self.scaling.apply(block).T @ dual_NM[part]
        coef, _ = self.scaling.fold(solved_DM, np.zeros(num_alphas * num_targets))
        coef_AKD = coef.reshape(num_alphas, num_targets, -1)
        return coef_AKD, self.mean - coef_AKD @ self.scaling.mean

    def left_out(
        self, rows: Rows, targets: Targets, index: np.ndarray, mass: np.ndarray | None
    ) -> LeaveOneOut:
        """See `WholePath.left_out`."""
        # the rows in the basis of their scatter are the eigenvectors times the roots of the eigenvalues
        roots_R = np.sqrt(self.eigenvalues)
        return LeaveOneOut(
            self.basis[index] * roots_R / self.root[index, None],
            self.eigenvalues,
            self.projected * roots_R[:, None],
            self.mean,
            targets[index],
            np.ones(len(index)) if mass is None else mass[index],
            float(np.square(self.root).sum()),
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
    X_ND: np.ndarray | Rows, targets: Targets, *, standardise: bool, weight: np.ndarray | None = None
) -> PrimalPath | DualPath:
    """Solutions over rows: in the dual form where they are fewer than features.

    Parameters
    ----------
    targets
        Float64, shape (N, K), or one-hot.
    weight
        Of each row, above 0.
    """
    rows = as_rows(X_ND)
    if rows.shape[0] < rows.shape[1]:
        return DualPath.of(rows, targets, standardise=standardise, weight=weight)
    gram = moments_of(rows, {ALL: targets}, weight=weight)
    return PrimalPath.of(gram.normal(ALL), standardise=standardise)


def fold_scores(
    X_ND: np.ndarray | Rows,
    targets: Targets,
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
    rows = as_rows(X_ND)
    num_folds, num_features = int(folds.max()) + 1, rows.shape[1]
    sizes_F = np.bincount(folds, minlength=num_folds)
    gram = None
    if (rows.shape[0] - sizes_F).min() >= num_features:
        gram = moments_of(rows, {ALL: targets}, folds=folds, num_folds=num_folds, weight=weight)
    for fold in range(num_folds):
        held = np.flatnonzero(folds == fold)
        path: RidgePath
        if gram is None:
            kept = np.flatnonzero(folds != fold)
            rest = None if weight is None else weight[kept]
            path = ridge_path(rows.take(kept), targets[kept], standardise=standardise, weight=rest)
        else:
            normal = gram.normal(ALL, without=fold)
            form = TridiagonalPath if num_features > 1 else PrimalPath
            path = form.of(normal, standardise=standardise)
        coef_AKD, intercept_AK = path.weights(alphas)
        flat_DM = coef_AKD.reshape(-1, num_features).T
        scores_nM = np.concatenate(
            [
                rows.gather(held[at : at + PIECE]).astype(np.float64) @ flat_DM
                for at in range(0, len(held), PIECE)
            ]
        )
        scores_nAK = scores_nM.reshape(len(held), *intercept_AK.shape) + intercept_AK
        yield held, np.moveaxis(scores_nAK, 1, 0)
