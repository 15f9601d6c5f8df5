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
from embedpipe.heads.bank import Bank, UnitRows, unit_of
from embedpipe.heads.base import ClassifierHead, Head, HeadState, RegressorHead, grouped, softmax
from embedpipe.heads.linear import Scaling
from embedpipe.heads.multilabel import MultiLabelHead
from embedpipe.heads.rows import ArrayRows, Rows, array_of
from embedpipe.heads.training import Training

# N rows, M training rows, D features, K classes

ANSWERED = 1024
"""Rows whose neighbours' labels are laid out at a time."""


class _Neighbours(Head):
    """What both kinds of target share.

    Attributes
    ----------
    rows_ : float32 array, shape (M, D)
        Training rows, scaled and of unit length; `UnitRows` that read them anew each time where they do not fit memory.
    mean_, scale_ : float64 arrays, shape (D,)
    """

    family = "knn"
    streams = True
    rows_: np.ndarray | Rows
    _bank: Bank
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
            rows, scale = training.rows, group[0].standardise
            scaling = Scaling.of_rows(rows, standardise=scale, centre=scale)
            unit = UnitRows(rows, scaling)
            kept = array_of(unit) if isinstance(rows, ArrayRows) else unit
            bank = Bank(kept, max(head.k for head in group))
            for head in group:
                if head.weights not in ("softmax", "distance", "uniform"):
                    raise ConfigError(
                        f"knn: weights: expected softmax, distance or uniform, found {head.weights!r}"
                    )
                head.mean_, head.scale_, head.rows_, head._bank = scaling.mean, scaling.scale, kept, bank
                head._remember(training.y)
                head.converged_ = True

    def _remember(self, y: np.ndarray) -> None:
        raise NotImplementedError

    def _votes(self, X_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the nearest training rows and their weights, which sum to 1; both (N, k)."""
        nearest, near = self._bank.nearest(unit_of(X_ND, Scaling(self.mean_, self.scale_)), self.k)
        if self.weights == "softmax":
            return nearest, softmax(near / self.temperature)
        raw = np.ones_like(near) if self.weights == "uniform" else 1.0 / np.maximum(1.0 - near, 1e-6)
        return nearest, raw / raw.sum(axis=1, keepdims=True)

    def state(self) -> HeadState:
        """Everything learned, for saving."""
        if isinstance(self.rows_, np.ndarray):
            return super().state()
        tensors = {name: getattr(self, name) for name in self.learned if name != "rows_"}
        return HeadState(tensors, {"converged_": bool(self.converged_)}, {"rows_": self.rows_})

    def restore(self, state: HeadState) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        self._bank = Bank(self.rows_, self.k)


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
        nearest, weight = self._votes(X_ND)
        flat = np.arange(len(nearest))[:, None] * num_classes + self.codes_[nearest]
        counts = np.bincount(flat.ravel(), weight.ravel(), minlength=len(nearest) * num_classes)
        scores_NK: np.ndarray = counts.reshape(-1, num_classes)
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
        nearest, weight = self._votes(X_ND)
        several = self.targets_.ndim > 1
        values: np.ndarray = ((weight[..., None] if several else weight) * self.targets_[nearest]).sum(axis=1)
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
        nearest, weight = self._votes(X_ND)
        scores_NK = np.empty((len(nearest), len(share_K)))
        for start in range(0, len(nearest), ANSWERED):
            some = slice(start, start + ANSWERED)
            votes = np.einsum("nk,nkl->nl", weight[some], has_MK[nearest[some]])
            asked = np.einsum("nk,nkl->nl", weight[some], known_MK[nearest[some]].astype(np.float64))
            # where no neighbour knows, all training rows are asked
            scores_NK[some] = np.where(asked > 0, votes / np.where(asked > 0, asked, 1.0), share_K)
        return scores_NK

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        shares: np.ndarray = np.clip(scores_NK, 0.0, 1.0)
        return shares
