"""Nearest class mean: the cheapest head, and hard to beat with few labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from embedpipe.errors import ConfigError
from embedpipe.heads.base import ClassifierHead, WeightedHead, grouped, softmax
from embedpipe.heads.linear import Scaling, unit_rows
from embedpipe.heads.temperature import fit_inverse_temperature, spread_index
from embedpipe.heads.training import Training

# N rows, D features, K classes


class CentroidHead(WeightedHead, ClassifierHead):
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
    streams = True
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
        counts_K = training.counts_K
        for group in grouped(heads, "standardise"):
            standardise = group[0].standardise
            scaling = Scaling.of_rows(
                training.rows, standardise=standardise, centre=standardise, weight=training.weight
            )
            for head in group:
                head.mean_, head.scale_ = scaling.mean, scaling.scale
                head._learn(training, counts_K)
                head.converged_ = True

    def _learn(self, training: Training, counts_K: np.ndarray) -> None:
        """Two readings of the rows: class sums, and distances."""
        scaling, weight, onehot = Scaling(self.mean_, self.scale_), training.weight, training.onehot
        sums_KD = np.zeros((len(counts_K), training.rows.shape[1]))
        for part, block in training.rows.blocks():
            weight_nK = onehot[part] if weight is None else onehot[part] * weight[part, None]
            sums_KD += weight_nK.T @ self._rows(scaling.apply(block))
        self.centroids_ = self._rows(sums_KD / counts_K[:, None])
        self.spread_ = 1.0
        if self.metric == "euclidean":
            nearness = 0.0
            for part, block in training.rows.blocks():
                scores_nK = self._compare(scaling.apply(block))
                nearness += float((scores_nK if weight is None else scores_nK * weight[part, None]).sum())
            self.spread_ = -nearness / (counts_K.sum() * len(counts_K)) or 1.0
        sample = spread_index(len(training.y), len(counts_K), training.rows.shape[1])
        # of a class of one row nothing is left when it is left out; of a row that stands for several, one copy is
        sample = sample[counts_K[training.y[sample]] > 1]
        self.inverse_temperature_ = 10.0
        if len(sample):
            rows_SD = self._rows(scaling.apply(training.rows.gather(sample)))
            weight_S = None if weight is None else weight[sample]
            left_out = self._left_out(rows_SD, sums_KD, counts_K, training.y[sample])
            self.inverse_temperature_ = fit_inverse_temperature(left_out, training.y[sample], weight_S)

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

    def _left_out(
        self,
        rows_SD: np.ndarray,
        sums_KD: np.ndarray,
        counts_K: np.ndarray,
        codes: np.ndarray,
    ) -> np.ndarray:
        """Scores (S, K) of rows, each left out of its own class mean."""
        left_out = self._compare(rows_SD)
        place = np.arange(len(codes))
        if self.metric == "euclidean":
            counts_S = counts_K[codes]
            left_out[place, codes] *= (counts_S / (counts_S - 1.0)) ** 2
        else:
            rest_SD = sums_KD[codes] - rows_SD
            left_out[place, codes] = np.einsum("nd,nd->n", unit_rows(rest_SD), rows_SD)
        return left_out

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        return self._compare(self._rows(Scaling(self.mean_, self.scale_).apply(X_ND)))

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        return softmax(self.inverse_temperature_ * scores_NK)
