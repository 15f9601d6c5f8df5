"""Ridge regression on cached features: every alpha from one eigendecomposition, and exact leave-one-out.

Classes are learned as one-hot columns. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from embedpipe.heads.base import Training, grouped, softmax
from embedpipe.heads.linear import LinearClassifierHead, LinearRegressorHead, RowSpace, Scaling
from embedpipe.heads.temperature import fit_inverse_temperature

# N rows, D features, K targets, R rank


class RidgePath:
    """Solutions for every alpha over the same rows.

    Minimises ``||Y - XW - b||^2 + alpha ||W||^2`` with b unpenalised, in the eigenbasis of the Gram matrix
    of the scaled rows (of the rows themselves where there are fewer rows than columns).

    Parameters
    ----------
    X_ND
        Raw rows.
    Y_NK
        Float64 targets.
    standardise
        Scale columns to unit variance first.

    References
    ----------
    Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", equations 3.47 and 7.52.
    """

    def __init__(self, X_ND: np.ndarray, Y_NK: np.ndarray, *, standardise: bool) -> None:
        self.scaling = Scaling.of(X_ND, standardise=standardise)
        self.space = RowSpace.of(self.scaling.apply(X_ND))
        self.mean_K = Y_NK.mean(axis=0)
        self.Y_NK = Y_NK
        self.projected_RK = self.space.Z_NR.T @ (Y_NK - self.mean_K)

    def weights(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights (K, D) and intercept (K,) over raw features."""
        rotated_RK = self.projected_RK / (self.space.eigenvalues + alpha)[:, None]
        return self.scaling.fold(self.space.basis @ rotated_RK, self.mean_K)

    def loo_scores(self, alpha: float) -> np.ndarray:
        """What each row is predicted to be by a fit on all other rows, shape (N, K).

        Exact, for the scaling of columns as learned on all rows. A row that alone decides its own
        prediction (leverage 1, which alpha > 0 excludes save for rounding) keeps its fitted value.
        """
        Z_NR, shrunk_R = self.space.Z_NR, 1.0 / (self.space.eigenvalues + alpha)
        fitted_NK = Z_NR @ (self.projected_RK * shrunk_R[:, None]) + self.mean_K
        leverage_N = 1.0 / len(Z_NR) + np.square(Z_NR) @ shrunk_R
        left_N = np.maximum(1.0 - leverage_N, 1e-12)
        loo_NK: np.ndarray = self.Y_NK - (self.Y_NK - fitted_NK) / left_N[:, None]
        return loo_NK


class RidgeClassifierHead(LinearClassifierHead):
    """Ridge on one-hot targets, as scikit-learn's RidgeClassifier predicts.

    Parameters
    ----------
    alpha : float
        L2 strength, above 0.
    standardise : bool
        Scale columns to unit variance on the training rows.

    Attributes
    ----------
    inverse_temperature_ : float
        `predict_proba` is the softmax of the scores times this, which is fitted by maximum likelihood to the
        exact leave-one-out scores of the training rows: no held-out row is spent on it.
    """

    family = "ridge"
    learned_values = ("inverse_temperature_",)
    inverse_temperature_: float

    def __init__(self, alpha: float = 1.0, *, standardise: bool = True) -> None:
        self.alpha = alpha
        self.standardise = standardise

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        for group in grouped(heads, "standardise"):
            path = RidgePath(training.X_ND, training.onehot_NK, standardise=group[0].standardise)
            for head in group:
                head.coef_, head.intercept_ = path.weights(head.alpha)
                head.inverse_temperature_ = fit_inverse_temperature(path.loo_scores(head.alpha), training.y)
                head.converged_ = True

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        return softmax(self.inverse_temperature_ * scores_NK)

    def loo_scores(self, X: Any, y: Any) -> np.ndarray:
        """Leave-one-out scores of rows X with classes y under this head's alpha, shape (N, K)."""
        training = type(self)(**self.get_params())._training(X, y)
        return RidgePath(training.X_ND, training.onehot_NK, standardise=self.standardise).loo_scores(
            self.alpha
        )


class RidgeRegressorHead(LinearRegressorHead):
    """Ridge regression of one number.

    Parameters
    ----------
    alpha : float
        L2 strength, above 0.
    standardise : bool
        Scale columns to unit variance on the training rows.
    """

    family = "ridge"

    def __init__(self, alpha: float = 1.0, *, standardise: bool = True) -> None:
        self.alpha = alpha
        self.standardise = standardise

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        for group in grouped(heads, "standardise"):
            path = RidgePath(training.X_ND, training.y[:, None], standardise=group[0].standardise)
            for head in group:
                coef_KD, intercept_K = path.weights(head.alpha)
                head.coef_, head.intercept_ = coef_KD[0], float(intercept_K[0])
                head.converged_ = True

    def loo_scores(self, X: Any, y: Any) -> np.ndarray:
        """Leave-one-out predictions of rows X with values y under this head's alpha, shape (N,)."""
        training = type(self)(**self.get_params())._training(X, y)
        path = RidgePath(training.X_ND, training.y[:, None], standardise=self.standardise)
        return path.loo_scores(self.alpha)[:, 0]
