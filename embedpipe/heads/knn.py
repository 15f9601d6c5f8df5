"""Nearest neighbours by cosine similarity.

References
----------
Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from embedpipe.errors import ConfigError
from embedpipe.heads.base import ClassifierHead, Head, RegressorHead, grouped, softmax
from embedpipe.heads.linear import Scaling, unit_rows
from embedpipe.heads.multilabel import MultiLabelHead
from embedpipe.heads.training import Training

# N rows, M training rows, D features, K classes

QUERIES = 1024
"""Rows compared at a time: bounds memory at 1024 x M similarities."""
TOGETHER = 32
"""Rows of every product come in multiples of this: libraries sum products of few rows in another order."""


class _Neighbours(Head):
    """What both kinds of target share.

    Attributes
    ----------
    rows_ : float32 array, shape (M, D)
        Training rows, scaled and of unit length.
    mean_, scale_ : float64 arrays, shape (D,)
    """

    family = "knn"
    rows_: np.ndarray
    mean_: np.ndarray
    scale_: np.ndarray

    def __init__(
        self, k: int = 5, *, weights: str = "softmax", temperature: float = 0.07, standardise: bool = False
    ) -> None:
        self.k = k
        self.weights = weights
        self.temperature = temperature
        self.standardise = standardise

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        for group in grouped(heads, "standardise"):
            scaling = Scaling.of(training.X_ND, standardise=group[0].standardise, centre=group[0].standardise)
            rows_MD = unit_rows(scaling.apply(training.X_ND)).astype(np.float32)
            for head in group:
                if head.weights not in ("softmax", "distance", "uniform"):
                    raise ConfigError(
                        f"knn: weights: expected softmax, distance or uniform, found {head.weights!r}"
                    )
                head.mean_, head.scale_, head.rows_ = scaling.mean, scaling.scale, rows_MD
                head._remember(training.y)
                head.converged_ = True

    def _remember(self, y: np.ndarray) -> None:
        raise NotImplementedError

    def _votes(self, X_ND: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Indices of the nearest training rows and their weights, which sum to 1; both (N, k), in pieces."""
        rows_ND = unit_rows(Scaling(self.mean_, self.scale_).apply(X_ND)).astype(np.float32)
        return [self._vote(rows_ND[start : start + QUERIES]) for start in range(0, len(rows_ND), QUERIES)]

    def _vote(self, rows_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # a product of few rows is computed another way: padded, a row's vote does not depend on the others
        padded_PD = np.zeros((-(-len(rows_ND) // TOGETHER) * TOGETHER, rows_ND.shape[1]), np.float32)
        padded_PD[: len(rows_ND)] = rows_ND
        similarity_NM = (padded_PD @ self.rows_.T)[: len(rows_ND)].astype(np.float64)
        num_nearest = min(self.k, len(self.rows_))
        if num_nearest < len(self.rows_):
            nearest = np.argpartition(-similarity_NM, num_nearest - 1, axis=1)[:, :num_nearest]
            nearest.sort(axis=1)
        else:
            nearest = np.broadcast_to(np.arange(num_nearest), similarity_NM.shape)
        near = np.take_along_axis(similarity_NM, nearest, axis=1)
        if self.weights == "softmax":
            return nearest, softmax(near / self.temperature)
        raw = np.ones_like(near) if self.weights == "uniform" else 1.0 / np.maximum(1.0 - near, 1e-6)
        return nearest, raw / raw.sum(axis=1, keepdims=True)


class KnnClassifierHead(_Neighbours, ClassifierHead):
    """Weighted vote of the k training rows of highest cosine similarity.

    Parameters
    ----------
    k : int
        Neighbours; all training rows where there are fewer.
    weights : str
        ``softmax`` (of similarity over temperature), ``distance`` (1 / (1 - similarity)) or ``uniform``.
    temperature : float
        Scale of the softmax weights, in units of cosine.
    standardise : bool
        Scale columns to zero mean and unit variance on the training rows before the cosine.

    Attributes
    ----------
    codes_ : int64 array, shape (M,)
        Class of each training row.

    Notes
    -----
    `predict_proba` is the shares of the vote: a class without a neighbour has probability 0.
    """

    learned = ("rows_", "codes_", "mean_", "scale_")
    codes_: np.ndarray

    def _remember(self, y: np.ndarray) -> None:
        self.codes_ = y

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        num_classes = len(self.classes_)
        pieces = []
        for nearest, weight in self._votes(X_ND):
            flat = np.arange(len(nearest))[:, None] * num_classes + self.codes_[nearest]
            counts = np.bincount(flat.ravel(), weight.ravel(), minlength=len(nearest) * num_classes)
            pieces.append(counts.reshape(-1, num_classes))
        scores_NK: np.ndarray = np.concatenate(pieces)
        return scores_NK

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        shares: np.ndarray = scores_NK / scores_NK.sum(axis=1, keepdims=True)
        return shares


class KnnRegressorHead(_Neighbours, RegressorHead):
    """Weighted mean over the k training rows of highest cosine similarity.

    Parameters
    ----------
    k : int
        Neighbours; all training rows where there are fewer.
    weights : str
        ``softmax`` (of similarity over temperature), ``distance`` (1 / (1 - similarity)) or ``uniform``.
    temperature : float
        Scale of the softmax weights, in units of cosine.
    standardise : bool
        Scale columns to zero mean and unit variance on the training rows before the cosine.

    Attributes
    ----------
    targets_ : float64 array, shape (M,), or (M, T) of several numbers
        Values of each training row.
    """

    learned = ("rows_", "targets_", "mean_", "scale_")
    targets_: np.ndarray

    def _remember(self, y: np.ndarray) -> None:
        self.targets_ = y

    def _values(self, X_ND: np.ndarray) -> np.ndarray:
        several = self.targets_.ndim > 1
        pieces = [
            ((weight[..., None] if several else weight) * self.targets_[nearest]).sum(axis=1)
            for nearest, weight in self._votes(X_ND)
        ]
        values: np.ndarray = np.concatenate(pieces)
        return values


class KnnLabelsHead(_Neighbours, MultiLabelHead):
    """Weighted share of each label among the k training rows of highest cosine similarity that it is known of.

    Parameters
    ----------
    k, weights, temperature, standardise
        As `KnnClassifierHead` has them.

    Attributes
    ----------
    labels_ : float64 array, shape (M, K)
        Of each training row; NaN where unknown.
    """

    learned = ("rows_", "labels_", "mean_", "scale_")
    labels_: np.ndarray

    def _remember(self, y: np.ndarray) -> None:
        self.labels_ = y

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        known_MK = ~np.isnan(self.labels_)
        has_MK = np.nan_to_num(self.labels_)
        share_K = has_MK.sum(axis=0) / known_MK.sum(axis=0)
        pieces = []
        for nearest, weight in self._votes(X_ND):
            votes = np.einsum("nk,nkl->nl", weight, has_MK[nearest])
            asked = np.einsum("nk,nkl->nl", weight, known_MK[nearest].astype(np.float64))
            # where no neighbour knows, all training rows are asked
            pieces.append(np.where(asked > 0, votes / np.where(asked > 0, asked, 1.0), share_K))
        scores_NK: np.ndarray = np.concatenate(pieces)
        return scores_NK

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        shares: np.ndarray = np.clip(scores_NK, 0.0, 1.0)
        return shares
