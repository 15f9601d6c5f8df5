"""Linear support vector machine, one class against the rest: a whole grid of strengths in one pass.

Knows nothing of the optimiser, nor of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedpipe.heads.device import CPU, on_device
from embedpipe.heads.device_passes import DeviceLoss
from embedpipe.heads.path import LinearPathHead, weights_of
from embedpipe.heads.solver import Loss

if TYPE_CHECKING:
    import torch

# N rows, G strengths, K classes


class SquaredHingeLoss:
    """Squared hinge of one score a class, each class against the rest."""

    def __init__(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None = None) -> None:
        self.num_outputs = 1 if num_classes == 2 else num_classes
        self.positive_NK = codes[:, None] == (np.array([1]) if num_classes == 2 else np.arange(num_classes))
        self.weight = weight

    def start(self) -> np.ndarray:
        return np.zeros(self.num_outputs)

    def evaluate(self, scores_nGK: np.ndarray, part: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sign_n1K = np.where(self.positive_NK[part], 1, -1).astype(scores_nGK.dtype)[:, None, :]
        short_nGK = np.maximum(1 - sign_n1K * scores_nGK, 0)
        weight_n11 = weights_of(self.weight, part, scores_nGK.dtype)
        value_G: np.ndarray = (np.square(short_nGK) * weight_n11).sum(axis=(0, 2), dtype=np.float64)
        return value_G, -2 * weight_n11 * sign_n1K * short_nGK

    def curvature(self, slope_nGK: np.ndarray, part: slice | np.ndarray) -> np.ndarray:
        curvature_nGK: np.ndarray = 2 * weights_of(self.weight, part, slope_nGK.dtype) * (slope_nGK != 0)
        return curvature_nGK

    def on_device(self, device: torch.device) -> DeviceLoss:
        import torch

        positive, weight = (on_device(one, device) for one in (self.positive_NK, self.weight))
        assert positive is not None

        def evaluate(scores: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
            sign = torch.where(positive[part], 1, -1).to(scores.dtype)[:, None, :]
            short = (1 - sign * scores).clamp(min=0)
            losses, slope = short.square(), -2 * sign * short
            if weight is not None:
                of_row = weight[part].to(slope.dtype)[:, None, None]
                losses, slope = losses * of_row, slope * of_row
            return losses, slope

        return evaluate


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
        normalise: bool = False,
        pca: int | None = None,
        whiten: bool = False,
        device: str = CPU,
    ) -> None:
        super().__init__(
            C,
            standardise=standardise,
            tol=tol,
            max_iter=max_iter,
            class_weight=class_weight,
            normalise=normalise,
            pca=pca,
            whiten=whiten,
            device=device,
        )

    def _loss(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None) -> Loss:
        return SquaredHingeLoss(codes, num_classes, weight)
