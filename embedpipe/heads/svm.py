"""Linear support vector machine, one class against the rest: a whole grid of strengths in one pass.

Knows nothing of the optimiser, nor of files.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from embedpipe.heads.path import LinearPathHead, column, weighed
from embedpipe.heads.solver import Loss

# N rows, G strengths, K classes


class SquaredHingeLoss:
    """Squared hinge of one score a class, each class against the rest."""

    def __init__(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None = None) -> None:
        self.num_outputs = 1 if num_classes == 2 else num_classes
        positive = codes[:, None] == (np.array([1]) if num_classes == 2 else np.arange(num_classes))
        self.sign_N1K = np.where(positive, 1.0, -1.0)[:, None, :]
        self.weight_N11 = column(weight)

    def start(self) -> np.ndarray:
        return np.zeros(self.num_outputs)

    def evaluate(self, scores_NGK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        short_NGK = np.maximum(1.0 - self.sign_N1K * scores_NGK, 0.0)
        loss_NGK = np.square(short_NGK)
        value_G: np.ndarray = (loss_NGK if self.weight_N11 is None else loss_NGK * self.weight_N11).sum(
            (0, 2)
        )
        return value_G, *weighed(self.weight_N11, -2.0 * self.sign_N1K * short_NGK, 2.0 * (short_NGK > 0))


class SvmHead(LinearPathHead):
    """Linear support vector machine with the squared hinge, to LinearSVC's objective.

    Minimises ``C * sum(squared hinge) + ||W||^2 / 2`` for each class against the rest. Unlike in liblinear
    the intercept is not penalised, so a shift of the features changes nothing.
    `predict_proba` is the softmax of the margins (a sigmoid where there are two classes): it ranks as the
    margins do, but is not calibrated.

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

    Attributes
    ----------
    n_iter_ : int
        Steps taken.
    objective_ : float
        The objective reached.

    References
    ----------
    Fan et al. 2008, "LIBLINEAR", appendix A (L2-regularised L2-loss).
    """

    family = "svm"

    def __init__(
        self,
        C: float = 0.01,
        *,
        standardise: bool = True,
        tol: float = 1e-4,
        max_iter: int = 3000,
        class_weight: Any = None,
    ) -> None:
        super().__init__(C, standardise=standardise, tol=tol, max_iter=max_iter, class_weight=class_weight)

    def _loss(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None) -> Loss:
        return SquaredHingeLoss(codes, num_classes, weight)
