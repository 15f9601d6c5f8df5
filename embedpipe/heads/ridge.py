"""Ridge regression on cached features: every alpha from one eigendecomposition, and exact leave-one-out.

Classes are learned as one-hot columns. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from embedpipe.heads.base import WeightedHead, grouped, softmax
from embedpipe.heads.linear import LinearClassifierHead, LinearRegressorHead
from embedpipe.heads.ridge_path import ridge_path
from embedpipe.heads.temperature import fit_inverse_temperature
from embedpipe.heads.training import Training

# N rows, D features, K targets


class RidgeClassifierHead(WeightedHead, LinearClassifierHead):
    """Ridge on one-hot targets, as scikit-learn's RidgeClassifier predicts.

    Parameters
    ----------
    alpha : float
        L2 strength, above 0.
    standardise : bool
        Scale columns to unit variance on the training rows.
    class_weight : None, str or mapping
        ``balanced``: each class counts the same in all; or weights by label.

    Attributes
    ----------
    inverse_temperature_ : float
        `predict_proba` is the softmax of the scores times this, which is fitted by maximum likelihood to the
        exact leave-one-out scores of the training rows: no held-out row is spent on it.
    """

    family = "ridge"
    learned_values = ("inverse_temperature_",)
    inverse_temperature_: float

    def __init__(self, alpha: float = 1.0, *, standardise: bool = True, class_weight: Any = None) -> None:
        self.alpha = alpha
        self.standardise = standardise
        self.class_weight = class_weight

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        X_ND, Y_NK = training.X_ND, training.onehot_NK
        for group in grouped(heads, "standardise", "class_weight"):
            first = group[0]
            weight = training.weight_of(first.class_weight)
            path = ridge_path(X_ND, Y_NK, standardise=first.standardise, weight=weight)
            alphas = [head.alpha for head in group]
            coef_AKD, intercept_AK = path.weights(alphas)
            left_out = path.loo_scores(X_ND, Y_NK, weight, training.mass_of(first.class_weight))
            for a, (head, loo_NK) in enumerate(zip(group, left_out.each(alphas), strict=True)):
                head.coef_, head.intercept_ = coef_AKD[a].copy(), intercept_AK[a].copy()
                head.inverse_temperature_ = fit_inverse_temperature(loo_NK, training.y, training.weight)
                head.converged_ = True

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        return softmax(self.inverse_temperature_ * scores_NK)

    def loo_scores(self, X: Any, y: Any) -> np.ndarray:
        """Leave-one-out scores of rows X with classes y under this head's alpha, shape (N, K)."""
        training = type(self)(**self.get_params())._training(X, y)
        Y_NK, weight = training.onehot_NK, training.weight_of(self.class_weight)
        path = ridge_path(training.X_ND, Y_NK, standardise=self.standardise, weight=weight)
        mass = training.mass_of(self.class_weight)
        return path.loo_scores(training.X_ND, Y_NK, weight, mass).scores(self.alpha)


class RidgeRegressorHead(WeightedHead, LinearRegressorHead):
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
            path = ridge_path(
                training.X_ND,
                training.y[:, None],
                standardise=group[0].standardise,
                weight=training.weight,
            )
            coef_AKD, intercept_AK = path.weights([head.alpha for head in group])
            for a, head in enumerate(group):
                head.coef_, head.intercept_ = coef_AKD[a, 0].copy(), float(intercept_AK[a, 0])
                head.converged_ = True

    def loo_scores(self, X: Any, y: Any) -> np.ndarray:
        """Leave-one-out predictions of rows X with values y under this head's alpha, shape (N,)."""
        training = type(self)(**self.get_params())._training(X, y)
        Y_NK = training.y[:, None]
        path = ridge_path(training.X_ND, Y_NK, standardise=self.standardise)
        left_out = path.loo_scores(training.X_ND, Y_NK, None, None)
        return left_out.scores(self.alpha)[:, 0]
