"""Nearest class mean: the cheapest head, and hard to beat with few labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from embedpipe.errors import ConfigError
from embedpipe.heads.base import ClassifierHead, grouped, softmax
from embedpipe.heads.linear import Scaling, unit_rows
from embedpipe.heads.temperature import fit_inverse_temperature
from embedpipe.heads.training import Training

# N rows, D features, K classes


class CentroidHead(ClassifierHead):
    """The class whose mean is nearest.

    Parameters
    ----------
    metric : str
        ``euclidean``: squared distance to the mean; ``cosine``: angle to the mean of rows of unit length.
    standardise : bool
        Scale columns to zero mean and unit variance on the training rows first.

    Attributes
    ----------
    centroids_ : float64 array, shape (K, D)
        In scaled features; of unit length under ``cosine``.
    mean_, scale_ : float64 arrays, shape (D,)
    spread_ : float
        Mean squared distance of training rows to centroids (1 under ``cosine``), the unit of the scores.
    inverse_temperature_ : float
        `predict_proba` is the softmax of the scores times this, fitted by maximum likelihood to the scores
        that training rows get when they are left out of their own class mean.
    """

    family = "centroid"
    learned = ("centroids_", "mean_", "scale_")
    learned_values = ("spread_", "inverse_temperature_")
    centroids_: np.ndarray
    mean_: np.ndarray
    scale_: np.ndarray
    spread_: float
    inverse_temperature_: float

    def __init__(self, metric: str = "euclidean", *, standardise: bool = True) -> None:
        self.metric = metric
        self.standardise = standardise

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        onehot_NK = training.onehot_NK
        counts_K = onehot_NK.sum(axis=0)
        for group in grouped(heads, "standardise"):
            standardise = group[0].standardise
            scaling = Scaling.of(training.X_ND, standardise=standardise, centre=standardise)
            scaled_ND = scaling.apply(training.X_ND)
            for head in group:
                head.mean_, head.scale_ = scaling.mean, scaling.scale
                rows_ND = head._rows(scaled_ND)
                sums_KD = onehot_NK.T @ rows_ND
                head.centroids_ = head._rows(sums_KD / counts_K[:, None])
                head.spread_ = 1.0
                scores_NK = head._compare(rows_ND)
                if head.metric == "euclidean":
                    head.spread_ = float(-scores_NK.mean()) or 1.0
                    scores_NK /= head.spread_
                head.inverse_temperature_ = head._temperature(
                    rows_ND, sums_KD, counts_K, scores_NK, training.y
                )
                head.converged_ = True

    def _rows(self, X_ND: np.ndarray) -> np.ndarray:
        """Rows as the metric sees them."""
        if self.metric == "euclidean":
            return X_ND
        if self.metric != "cosine":
            raise ConfigError(f"centroid: metric: expected euclidean or cosine, found {self.metric!r}")
        return unit_rows(X_ND)

    def _compare(self, rows_ND: np.ndarray) -> np.ndarray:
        """Cosine, or minus the squared distance over `spread_`; shape (N, K)."""
        inner_NK: np.ndarray = rows_ND @ self.centroids_.T
        if self.metric == "cosine":
            return inner_NK
        squares_N1 = np.square(rows_ND).sum(axis=1)[:, None]
        distance_NK: np.ndarray = squares_N1 - 2.0 * inner_NK + np.square(self.centroids_).sum(axis=1)
        nearness_NK: np.ndarray = -np.maximum(distance_NK, 0.0) / self.spread_
        return nearness_NK

    def _temperature(
        self,
        rows_ND: np.ndarray,
        sums_KD: np.ndarray,
        counts_K: np.ndarray,
        scores_NK: np.ndarray,
        codes: np.ndarray,
    ) -> float:
        """Fitted to scores with each row left out of its class; a class of one row has none to give."""
        use = np.flatnonzero(counts_K[codes] > 1)
        if not len(use):
            return 10.0
        counts_N = counts_K[codes[use]]
        left_out = scores_NK[use]
        own = left_out[np.arange(len(use)), codes[use]]
        if self.metric == "euclidean":
            own = own * (counts_N / (counts_N - 1.0)) ** 2
        else:
            rest_ND = sums_KD[codes[use]] - rows_ND[use]
            own = np.einsum("nd,nd->n", unit_rows(rest_ND), rows_ND[use])
        left_out[np.arange(len(use)), codes[use]] = own
        return fit_inverse_temperature(left_out, codes[use])

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        return self._compare(self._rows(Scaling(self.mean_, self.scale_).apply(X_ND)))

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        return softmax(self.inverse_temperature_ * scores_NK)
