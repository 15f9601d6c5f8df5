"""Multinomial logistic regression: a whole grid of strengths in one pass over the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from embedpipe.heads.base import Training, grouped
from embedpipe.heads.linear import LinearClassifierHead, RowSpace, Scaling
from embedpipe.heads.solver import minimise

# N rows, D features, G strengths, K classes


class SoftmaxLoss:
    """Cross-entropy of the softmax of K scores."""

    def __init__(self, codes: np.ndarray, num_classes: int) -> None:
        self.num_outputs = num_classes
        self.onehot_N1K = np.eye(num_classes)[codes][:, None, :]

    def start(self) -> np.ndarray:
        log_prior_K: np.ndarray = np.log(self.onehot_N1K.mean(axis=(0, 1)))
        return log_prior_K - log_prior_K.mean()

    def evaluate(self, scores_NGK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores_NGK -= scores_NGK.max(axis=-1, keepdims=True)
        true_NG = np.einsum("ngk,nk->ng", scores_NGK, self.onehot_N1K[:, 0])
        p_NGK = np.exp(scores_NGK, out=scores_NGK)
        total_NG = p_NGK.sum(axis=-1)
        p_NGK /= total_NG[..., None]
        value_G = (np.log(total_NG) - true_NG).sum(axis=0)
        # the softmax is blind to a shift of all K scores: off that direction its curvature is K/(K-1) larger
        curvature_NGK = p_NGK * (1.0 - p_NGK) * (self.num_outputs / (self.num_outputs - 1))
        return value_G, p_NGK - self.onehot_N1K, curvature_NGK


class BinaryLoss:
    """Cross-entropy of the sigmoid of one score."""

    num_outputs = 1

    def __init__(self, codes: np.ndarray) -> None:
        self.y_N11 = codes.astype(np.float64)[:, None, None]

    def start(self) -> np.ndarray:
        share = self.y_N11.mean()
        return np.array([np.log(share / (1.0 - share))])

    def evaluate(self, scores_NGK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value_G = (np.logaddexp(0.0, scores_NGK) - self.y_N11 * scores_NGK).sum(axis=(0, 2))
        p_NGK = 0.5 * (1.0 + np.tanh(0.5 * scores_NGK))
        return value_G, p_NGK - self.y_N11, p_NGK * (1.0 - p_NGK)


class LogisticHead(LinearClassifierHead):
    """Logistic regression with an L2 penalty, to scikit-learn's objective.

    Minimises ``C * sum(cross-entropy) + ||W||^2 / 2`` with the intercept unpenalised: the softmax of K
    scores, or the sigmoid of one where there are two classes. Standardised columns, where asked for, are
    what the penalty sees.

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

    Attributes
    ----------
    n_iter_ : int
        Steps taken.
    objective_ : float
        The objective reached.
    """

    family = "logistic"
    learned_values = ("n_iter_", "objective_")
    n_iter_: int
    objective_: float

    def __init__(
        self, C: float = 1.0, *, standardise: bool = True, tol: float = 1e-7, max_iter: int = 3000
    ) -> None:
        self.C = C
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        for group in grouped(heads, "standardise", "tol", "max_iter"):
            first = group[0]
            scaling = Scaling.of(training.X_ND, standardise=first.standardise)
            space = RowSpace.of(scaling.apply(training.X_ND))
            assert training.classes is not None
            num_classes = len(training.classes)
            loss = BinaryLoss(training.y) if num_classes == 2 else SoftmaxLoss(training.y, num_classes)
            strengths_G = np.array([head.C for head in group], dtype=np.float64)
            found = minimise(space.Z_NR, loss, strengths_G, tol=first.tol, max_steps=first.max_iter)
            for g, head in enumerate(group):
                head.coef_, head.intercept_ = scaling.fold(
                    space.basis_DR @ found.weights_GRK[g], found.intercept_GK[g]
                )
                head.converged_ = bool(found.converged_G[g])
                head.n_iter_ = int(found.num_steps_G[g])
                head.objective_ = float(found.objective_G[g])
