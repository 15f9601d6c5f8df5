"""Ridge regression on cached features: every alpha from one eigendecomposition, and exact leave-one-out.

Classes are learned as one-hot columns. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from embedpipe.heads.base import WeightedHead, grouped, softmax
from embedpipe.heads.linear import LinearClassifierHead, LinearRegressorHead
from embedpipe.heads.prepared import PreparedHead
from embedpipe.heads.ridge_path import ridge_path
from embedpipe.heads.temperature import fit_inverse_temperature, spread_index
from embedpipe.heads.training import Training

# N rows, D features, K targets


class RidgeClassifierHead(PreparedHead, WeightedHead, LinearClassifierHead):
    """Ridge on one-hot targets, as scikit-learn's RidgeClassifier predicts.

    Parameters
    ----------
    alpha : float
        L2 strength, above 0.
    standardise : bool
        Scale columns to unit variance on the training rows.
    class_weight : None, str or mapping
        ``balanced``: each class counts the same in all; or weights by label.
    normalise : bool
        Scale rows to unit length first.
    pca : int, optional
        Replace columns by as many principal components of the training rows.
    whiten : bool
        Scale the components to unit variance.

    Attributes
    ----------
    inverse_temperature_ : float
        `predict_proba` is the softmax of the scores times this, which is fitted by maximum likelihood to the
        exact leave-one-out scores of the training rows, of a sample of them where these are many: no held-out row is
        spent on it.
    """

    family = "ridge"
    streams = True
    learned_values = ("inverse_temperature_",)
    inverse_temperature_: float

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        standardise: bool = True,
        class_weight: Any = None,
        normalise: bool = False,
        pca: int | None = None,
        whiten: bool = False,
    ) -> None:
        self.alpha = alpha
        self.standardise = standardise
        self.class_weight = class_weight
        self.normalise = normalise
        self.pca = pca
        self.whiten = whiten

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        rows, onehot = training.rows, training.onehot
        sample = spread_index(*onehot.shape, rows.shape[1])
        for group in grouped(heads, "standardise", "class_weight"):
            first = group[0]
            weight = training.weight_of(first.class_weight)
            path = ridge_path(rows, onehot, standardise=first.standardise, weight=weight)
            alphas = [head.alpha for head in group]
            coef_AKD, intercept_AK = path.weights(alphas)
            left_out = path.left_out(rows, onehot, sample, training.mass_of(first.class_weight))
            weight_S = None if training.weight is None else training.weight[sample]
            for a, (head, loo_SK) in enumerate(zip(group, left_out.each(alphas), strict=True)):
                head.coef_, head.intercept_ = coef_AKD[a].copy(), intercept_AK[a].copy()
                head.inverse_temperature_ = fit_inverse_temperature(loo_SK, training.y[sample], weight_S)
                head.converged_ = True

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        return softmax(self.inverse_temperature_ * scores_NK)

    def loo_scores(self, X: Any, y: Any) -> np.ndarray:
        """Leave-one-out scores of rows X with classes y under this head's alpha, shape (N, K)."""
        prepared = self._prepared(type(self)(**self.get_params())._training(X, y))
        training = prepared.training
        onehot, weight = training.onehot, training.weight_of(self.class_weight)
        path = ridge_path(training.rows, onehot, standardise=prepared.standardise, weight=weight)
        mass = training.mass_of(self.class_weight)
        every = np.arange(len(training.y))
        return path.left_out(training.rows, onehot, every, mass).scores(self.alpha)


class RidgeRegressorHead(PreparedHead, WeightedHead, LinearRegressorHead):
    """Ridge regression of one number, or of several.

    Parameters
    ----------
    alpha : float
        L2 strength, above 0.
    standardise : bool
        Scale columns to unit variance on the training rows.
    normalise : bool
        Scale rows to unit length first.
    pca : int, optional
        Replace columns by as many principal components of the training rows.
    whiten : bool
        Scale the components to unit variance.
    """

    family = "ridge"
    streams = True

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        standardise: bool = True,
        normalise: bool = False,
        pca: int | None = None,
        whiten: bool = False,
    ) -> None:
        self.alpha = alpha
        self.standardise = standardise
        self.normalise = normalise
        self.pca = pca
        self.whiten = whiten

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        for group in grouped(heads, "standardise"):
            path = ridge_path(
                training.rows,
                training.columns,
                standardise=group[0].standardise,
                weight=training.weight,
            )
            coef_AKD, intercept_AK = path.weights([head.alpha for head in group])
            for a, head in enumerate(group):
                head._keep(coef_AKD[a], intercept_AK[a])
                head.converged_ = True

    def loo_scores(self, X: Any, y: Any) -> np.ndarray:
        """Leave-one-out predictions of rows X with values y under this head's alpha, in the shape of y."""
        prepared = self._prepared(type(self)(**self.get_params())._training(X, y))
        training = prepared.training
        Y_NK = training.columns
        path = ridge_path(training.rows, Y_NK, standardise=prepared.standardise)
        every = np.arange(len(training.y))
        return path.left_out(training.rows, Y_NK, every, None).scores(self.alpha).reshape(training.y.shape)
