"""Multinomial logistic regression: a whole grid of strengths in one pass over the features.

Knows nothing of the optimiser, nor of files.
"""

from __future__ import annotations

import numpy as np

from embedpipe.heads.path import LinearPathHead
from embedpipe.heads.solver import Loss

# N rows, G strengths, K classes


class SoftmaxLoss:
    """Cross-entropy of the softmax of K scores."""

    def __init__(self, codes: np.ndarray, num_classes: int) -> None:
        self.num_outputs = num_classes
        self.onehot_N1K = np.eye(num_classes)[codes][:, None, :]

    def start(self) -> np.ndarray:
        log_prior_K = np.log(self.onehot_N1K.mean(axis=(0, 1)))
        centred_K: np.ndarray = log_prior_K - log_prior_K.mean()
        return centred_K

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
        value_G: np.ndarray = (np.logaddexp(0.0, scores_NGK) - self.y_N11 * scores_NGK).sum(axis=(0, 2))
        p_NGK = 0.5 * (1.0 + np.tanh(0.5 * scores_NGK))
        return value_G, p_NGK - self.y_N11, p_NGK * (1.0 - p_NGK)


class LogisticHead(LinearPathHead):
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

    @staticmethod
    def _loss(codes: np.ndarray, num_classes: int) -> Loss:
        return BinaryLoss(codes) if num_classes == 2 else SoftmaxLoss(codes, num_classes)
