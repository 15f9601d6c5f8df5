"""Multinomial logistic regression: a whole grid of strengths in one pass over the features.

Knows nothing of the optimiser, nor of files.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from embedpipe.errors import ConfigError
from embedpipe.heads.base import softmax
from embedpipe.heads.path import LinearPathHead, column, weighed
from embedpipe.heads.solver import Loss

# N rows, G strengths, K classes


class SoftmaxLoss:
    """Cross-entropy of the softmax of K scores."""

    def __init__(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None = None) -> None:
        self.num_outputs = num_classes
        self.onehot_N1K = np.eye(num_classes)[codes][:, None, :]
        self.weight_N11 = column(weight)

    def start(self) -> np.ndarray:
        weight = None if self.weight_N11 is None else self.weight_N11[:, 0, 0]
        log_prior_K = np.log(np.average(self.onehot_N1K[:, 0], axis=0, weights=weight))
        centred_K: np.ndarray = log_prior_K - log_prior_K.mean()
        return centred_K

    def evaluate(self, scores_NGK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores_NGK -= scores_NGK.max(axis=-1, keepdims=True)
        true_NG = np.einsum("ngk,nk->ng", scores_NGK, self.onehot_N1K[:, 0])
        p_NGK = np.exp(scores_NGK, out=scores_NGK)
        total_NG = p_NGK.sum(axis=-1)
        p_NGK /= total_NG[..., None]
        loss_NG = np.log(total_NG) - true_NG
        value_G = (loss_NG if self.weight_N11 is None else loss_NG * self.weight_N11[:, 0]).sum(axis=0)
        # the softmax is blind to a shift of all K scores: off that direction its curvature is K/(K-1) larger
        curvature_NGK = p_NGK * (1.0 - p_NGK) * (self.num_outputs / (self.num_outputs - 1))
        return value_G, *weighed(self.weight_N11, p_NGK - self.onehot_N1K, curvature_NGK)


class SigmoidLoss:
    """Cross-entropy of the sigmoid of one score a class, each class against the rest; of one where there are two."""

    def __init__(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None = None) -> None:
        self.num_outputs = 1 if num_classes == 2 else num_classes
        positive = codes[:, None] == (np.array([1]) if num_classes == 2 else np.arange(num_classes))
        self.y_N1K = positive.astype(np.float64)[:, None, :]
        self.weight_N11 = column(weight)

    def start(self) -> np.ndarray:
        weight = None if self.weight_N11 is None else self.weight_N11[:, 0, 0]
        share_K = np.average(self.y_N1K[:, 0], axis=0, weights=weight)
        odds_K: np.ndarray = np.log(share_K / (1.0 - share_K))
        return odds_K

    def evaluate(self, scores_NGK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        loss_NGK = np.logaddexp(0.0, scores_NGK) - self.y_N1K * scores_NGK
        value_G: np.ndarray = (loss_NGK if self.weight_N11 is None else loss_NGK * self.weight_N11).sum(
            (0, 2)
        )
        p_NGK = 0.5 * (1.0 + np.tanh(0.5 * scores_NGK))
        return value_G, *weighed(self.weight_N11, p_NGK - self.y_N1K, p_NGK * (1.0 - p_NGK))


class LogisticHead(LinearPathHead):
    """Logistic regression with an L2 penalty, to scikit-learn's objective.

    Minimises ``C * sum(cross-entropy) + ||W||^2 / 2`` with the intercept unpenalised: of the softmax of K
    scores, or of a sigmoid for each class against the rest, or of one sigmoid where there are two classes;
    probabilities of sigmoids are brought to a sum of 1. Standardised columns, where asked for, are
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
    class_weight : None, str or mapping
        ``balanced``: each class counts the same in all; or weights by label.
    multi_class : str
        ``multinomial`` or ``one_vs_rest``.

    Attributes
    ----------
    n_iter_ : int
        Steps taken.
    objective_ : float
        The objective reached.
    """

    family = "logistic"

    def __init__(
        self,
        C: float = 1.0,
        *,
        standardise: bool = True,
        tol: float = 1e-6,
        max_iter: int = 3000,
        class_weight: Any = None,
        multi_class: str = "multinomial",
    ) -> None:
        super().__init__(C, standardise=standardise, tol=tol, max_iter=max_iter, class_weight=class_weight)
        self.multi_class = multi_class

    shared = (*LinearPathHead.shared, "multi_class")

    def _loss(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None) -> Loss:
        if self.multi_class not in ("multinomial", "one_vs_rest"):
            raise ConfigError(
                f"logistic: multi_class: expected multinomial or one_vs_rest, found {self.multi_class!r}"
            )
        if num_classes == 2 or self.multi_class == "one_vs_rest":
            return SigmoidLoss(codes, num_classes, weight)
        return SoftmaxLoss(codes, num_classes, weight)

    def _settle(self) -> None:
        if self.multi_class == "multinomial" and len(self.intercept_) > 1:
            # the softmax is blind to a shift of all intercepts
            self.intercept_ = self.intercept_ - self.intercept_.mean()

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        if self.multi_class == "multinomial" or scores_NK.shape[1] == 2:
            return softmax(scores_NK)
        # shares of sigmoids, by their logarithms: finite where every sigmoid vanishes
        return softmax(-np.logaddexp(0.0, -scores_NK))
