"""Many yes-or-no labels a sample, each of which may be unknown: ridge and logistic, all labels in one pass.

Each label is learned from the samples that it is known of. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from embedpipe.errors import DataError
from embedpipe.heads.base import Head, WeightedHead, grouped
from embedpipe.heads.design import Design
from embedpipe.heads.device import CPU, device_of
from embedpipe.heads.logistic import SigmoidLoss
from embedpipe.heads.prepared import PreparedHead
from embedpipe.heads.ridge_path import ridge_path
from embedpipe.heads.solver import minimise
from embedpipe.heads.temperature import fit_inverse_temperature, spread_index
from embedpipe.heads.training import Training

# N rows, D features, K labels, S rows of a sample


class MultiLabelHead(Head):
    """Base of heads that learn a matrix of labels."""

    kind = "multilabel"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output, tags.target_tags.single_output = True, False
        return tags

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores, shape (N, K)."""
        return self._scores(self._check_predict(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each label, shape (N, K)."""
        return self._probabilities(self._scores(self._check_predict(X)))

    def predict(self, X: Any) -> np.ndarray:
        """Labels that are more likely than not, int64 of 0 and 1, shape (N, K)."""
        return (self.predict_proba(X) > 0.5).astype(np.int64)

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        """Scores of checked rows, float64, shape (N, K)."""
        raise NotImplementedError

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        return _sigmoid(scores_NK)

    def _training(
        self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, sample_weight: Any = None
    ) -> Training:
        name = type(self).__name__
        Y_NK = np.asarray(y, dtype=np.float64)
        if Y_NK.ndim != 2:
            raise DataError(f"{name}: expected a matrix of labels (samples, labels), found {Y_NK.shape}")
        rows, _ = self._check_fit(X, np.zeros(len(Y_NK)), numeric=True)
        if not np.isin(Y_NK[~np.isnan(Y_NK)], (0.0, 1.0)).all():
            raise DataError(f"{name}: expected labels of 0, 1 or NaN where unknown, found other values")
        rows, Y_NK, weight = self._weighted(rows, Y_NK, sample_weight)
        positive_K, negative_K = (Y_NK == 1).sum(axis=0), (Y_NK == 0).sum(axis=0)
        lacking = np.flatnonzero((positive_K == 0) | (negative_K == 0))
        if len(lacking):
            one = int(lacking[0])
            raise DataError(
                f"{name}: label {one} is known of {positive_K[one]} samples that have it and {negative_K[one]} that "
                f"do not: expected one of each at least; drop the label ({len(lacking)} such), or give it samples"
            )
        if X_val is None or y_val is None:
            return Training(rows, Y_NK, weight=weight)
        of_val_NK = np.asarray(y_val, dtype=np.float64)
        known = np.flatnonzero(~np.isnan(of_val_NK).all(axis=1))
        rows_val = self._validation_rows(X_val).take(known)
        return Training(rows, Y_NK, None, rows_val, of_val_NK[known], weight)


class LinearLabelsHead(MultiLabelHead):
    """Labels whose scores are linear in the features.

    Attributes
    ----------
    coef_ : float64 array, shape (K, D)
        Over raw features: scaling is folded in.
    intercept_ : float64 array, shape (K,)
    """

    learned: ClassVar[tuple[str, ...]] = ("coef_", "intercept_")
    coef_: np.ndarray
    intercept_: np.ndarray

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        scores_NK: np.ndarray = (
            self._seen(X_ND).astype(np.float64, copy=False) @ self.coef_.T + self.intercept_
        )
        return scores_NK


class RidgeLabelsHead(PreparedHead, WeightedHead, LinearLabelsHead):
    """Ridge on columns of 0 and 1, one a label.

    Labels that are known of the same samples share one solution; the moments of the features are shared by all.

    Parameters
    ----------
    alpha : float
        L2 strength, above 0.
    standardise : bool
        Scale columns to unit variance on the rows a label is known of.
    normalise : bool
        Scale rows to unit length first.
    pca : int, optional
        Replace columns by as many principal components of the training rows.
    whiten : bool
        Scale the components to unit variance.

    Attributes
    ----------
    inverse_temperature_ : float
        A score s has the probability ``sigmoid(b (2 s - 1))`` with this b, fitted to leave-one-out scores.
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
        num_rows, num_labels = training.y.shape
        known_NK = ~np.isnan(training.y)
        masks, mask_of = np.unique(known_NK, axis=1, return_inverse=True)
        for group in grouped(heads, "standardise"):
            alphas = [head.alpha for head in group]
            for head in group:
                head.coef_ = np.zeros((num_labels, training.rows.shape[1]))
                head.intercept_ = np.zeros(num_labels)
            left_out: list[list[np.ndarray]] = [[] for _ in group]
            truth, weights = [], []
            for m in range(masks.shape[1]):
                labels, kept = np.flatnonzero(mask_of.reshape(-1) == m), np.flatnonzero(masks[:, m])
                rows, Y_nk = training.rows, training.y[np.ix_(kept, labels)]
                if len(kept) < num_rows:
                    rows = rows.take(kept)
                weight = None if training.weight is None else training.weight[kept]
                path = ridge_path(rows, Y_nk, standardise=group[0].standardise, weight=weight)
                coef_AkD, intercept_Ak = path.weights(alphas)
                sample = spread_index(len(kept), num_labels, rows.shape[1])
                loo = path.left_out(rows, Y_nk, sample, None)
                for a, scores_Sk in enumerate(loo.each(alphas)):
                    group[a].coef_[labels], group[a].intercept_[labels] = coef_AkD[a], intercept_Ak[a]
                    left_out[a].append(scores_Sk.ravel())
                truth.append(Y_nk[sample].astype(np.int64).ravel())
                weights.append(
                    np.repeat(np.ones(len(sample)) if weight is None else weight[sample], len(labels))
                )
            for head, scores in zip(group, left_out, strict=True):
                s = np.concatenate(scores)
                pairs = np.stack([1.0 - s, s], axis=1)
                head.inverse_temperature_ = fit_inverse_temperature(
                    pairs, np.concatenate(truth), np.concatenate(weights)
                )
                head.converged_ = True

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        return _sigmoid(self.inverse_temperature_ * (2.0 * scores_NK - 1.0))


class LogisticLabelsHead(PreparedHead, WeightedHead, LinearLabelsHead):
    """One logistic regression a label: ``C * sum(cross-entropy over known labels) + ||W||^2 / 2``.

    Parameters
    ----------
    C : float
        Inverse strength of the penalty, above 0.
    standardise : bool
        Scale columns to unit variance on the training rows.
    tol : float
        Stop where the objective is proven, by its duality gap, to lie within this share of the minimum.
    max_iter : int
        Most steps.
    normalise : bool
        Scale rows to unit length first.
    pca : int, optional
        Replace columns by as many principal components of the training rows.
    whiten : bool
        Scale the components to unit variance.
    device : str
        ``cpu`` or ``cuda``: where the passes over the rows are made.

    Attributes
    ----------
    n_iter_ : int
        Steps taken.
    objective_ : float
        The objective reached, over all labels.
    """

    family = "logistic"
    streams = True
    learned_values = ("n_iter_", "objective_")
    n_iter_: int
    objective_: float

    def __init__(
        self,
        C: float = 1.0,
        *,
        standardise: bool = True,
        tol: float = 1e-6,
        max_iter: int = 3000,
        normalise: bool = False,
        pca: int | None = None,
        whiten: bool = False,
        device: str = CPU,
    ) -> None:
        self.C = C
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter
        self.normalise = normalise
        self.pca = pca
        self.whiten = whiten
        self.device = device

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        known_NK = ~np.isnan(training.y)
        loss = SigmoidLoss(training.y == 1, training.weight, None if known_NK.all() else known_NK)
        for group in grouped(heads, "standardise", "tol", "max_iter", "device"):
            first = group[0]
            design = Design.of(training.rows, standardise=first.standardise, weight=training.weight)
            strengths_G = np.array([head.C for head in group], dtype=np.float64)
            device = None if first.device == CPU else device_of(first.device, cls.family)
            found = minimise(
                design, loss, strengths_G, tol=first.tol, max_steps=first.max_iter, device=device
            )
            for g, head in enumerate(group):
                head.coef_, head.intercept_ = design.fold(found.weights[g], found.intercept[g])
                head.converged_ = bool(found.converged[g])
                head.n_iter_, head.objective_ = int(found.num_steps[g]), float(found.objective[g])


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    shares: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * scores))
    return shares
