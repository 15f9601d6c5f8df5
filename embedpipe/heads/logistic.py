"""Multinomial logistic regression: a whole grid of strengths in one pass over the features.

Knows nothing of the optimiser, nor of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedpipe.errors import ConfigError
from embedpipe.heads.base import softmax
from embedpipe.heads.device import CPU, on_device
from embedpipe.heads.device_passes import DeviceLoss
from embedpipe.heads.path import LinearPathHead, weights_of
from embedpipe.heads.solver import Loss

if TYPE_CHECKING:
    import torch

# N rows, G strengths, K classes


LOWEST = -60.0
"""Scores in float32 this far below the highest count as this far: what is smaller yet drowns, and is slow."""


class SoftmaxLoss:
    """Cross-entropy of the softmax of K scores."""

    def __init__(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None = None) -> None:
        self.num_outputs = num_classes
        self.codes = codes
        self.weight = weight

    def start(self) -> np.ndarray:
        log_prior_K = np.log(np.bincount(self.codes, self.weight, self.num_outputs))
        centred_K: np.ndarray = log_prior_K - log_prior_K.mean()
        return centred_K

    def evaluate(self, scores_nGK: np.ndarray, part: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num_rows, num_strengths, num_outputs = scores_nGK.shape
        scores_nGK -= scores_nGK.max(axis=-1, keepdims=True)
        if scores_nGK.dtype == np.float32:
            np.maximum(scores_nGK, LOWEST, out=scores_nGK)
        flat = np.arange(num_rows * num_strengths).reshape(num_rows, num_strengths) * num_outputs
        flat += self.codes[part][:, None]
        true_nG = scores_nGK.reshape(-1)[flat]
        slope_nGK = np.exp(scores_nGK, out=scores_nGK)
        right_nG = slope_nGK.reshape(-1)[flat]
        # what the other classes get is summed without the true one: near 1 a difference would lose it
        slope_nGK.reshape(-1)[flat] = 0.0
        wrong_nG = slope_nGK.sum(axis=-1)
        total_nG = wrong_nG + right_nG
        slope_nGK /= total_nG[..., None]
        slope_nGK.reshape(-1)[flat] = -wrong_nG / total_nG
        near_nG = np.log1p(wrong_nG / np.where(wrong_nG < right_nG, right_nG, np.inf))
        loss_nG = np.where(wrong_nG < right_nG, near_nG, np.log(total_nG) - true_nG)
        if self.weight is not None:
            weight_n11 = weights_of(self.weight, part, scores_nGK.dtype)
            loss_nG, slope_nGK = loss_nG * weight_n11[..., 0], slope_nGK * weight_n11
        return loss_nG.sum(axis=0, dtype=np.float64), slope_nGK

    def curvature(self, slope_nGK: np.ndarray, part: slice | np.ndarray) -> np.ndarray:
        # the softmax is blind to a shift of all K scores: off that direction its curvature is K/(K-1) larger
        factor = self.num_outputs / (self.num_outputs - 1)
        return factor * _p_times_rest(slope_nGK, weights_of(self.weight, part, slope_nGK.dtype))

    def on_device(self, device: torch.device) -> DeviceLoss:
        import torch

        codes = torch.from_numpy(self.codes).to(device)
        weight = on_device(self.weight, device)

        def evaluate(scores: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
            code = codes[part][:, None, None].expand(-1, scores.shape[1], 1)
            scores -= scores.amax(dim=2, keepdim=True)
            if scores.dtype == torch.float32:
                scores.clamp_(min=LOWEST)
            true = scores.gather(2, code)
            slope = scores.exp_()
            right = slope.gather(2, code)
            slope.scatter_(2, code, 0.0)
            wrong = slope.sum(dim=2, keepdim=True)
            total = wrong + right
            slope.div_(total).scatter_(2, code, -wrong / total)
            losses = torch.where(wrong < right, torch.log1p(wrong / right), total.log() - true)
            if weight is not None:
                of_row = weight[part].to(slope.dtype)[:, None, None]
                losses, slope = losses * of_row, slope * of_row
            return losses, slope

        return evaluate


class SigmoidLoss:
    """Cross-entropy of the sigmoid of one score a label: of each class against the rest, or of any labels.

    Parameters
    ----------
    Y_NK : bool array
        Whether each row has each label.
    weight : float64 array, shape (N,), or None
    known_NK : bool array or None
        Which labels count; all by default.
    """

    def __init__(
        self, Y_NK: np.ndarray, weight: np.ndarray | None = None, known_NK: np.ndarray | None = None
    ) -> None:
        self.num_outputs = Y_NK.shape[1]
        self.Y_NK = Y_NK
        self.weight = weight
        self.known_NK = known_NK

    @classmethod
    def of_classes(cls, codes: np.ndarray, num_classes: int, weight: np.ndarray | None) -> SigmoidLoss:
        """Each class against the rest; the second against the first where there are two."""
        return cls(codes[:, None] == (np.array([1]) if num_classes == 2 else np.arange(num_classes)), weight)

    def start(self) -> np.ndarray:
        known_NK = np.ones(self.Y_NK.shape, bool) if self.known_NK is None else self.known_NK
        weight_NK = known_NK if self.weight is None else known_NK * self.weight[:, None]
        positive_K = (weight_NK * self.Y_NK).sum(axis=0, dtype=np.float64)
        odds_K: np.ndarray = np.log(positive_K / (weight_NK.sum(axis=0, dtype=np.float64) - positive_K))
        return odds_K

    def evaluate(self, scores_nGK: np.ndarray, part: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sign_n1K = np.where(self.Y_NK[part], -1, 1).astype(scores_nGK.dtype)[:, None, :]
        scores_nGK *= sign_n1K
        # the share of the wrong side, computed without a difference
        small_nGK = np.exp(-np.abs(scores_nGK))
        wrong_nGK = np.where(scores_nGK < 0, small_nGK, 1) / (1 + small_nGK)
        loss_nGK = np.maximum(scores_nGK, 0) + np.log1p(small_nGK)
        slope_nGK = sign_n1K * wrong_nGK
        if self.weight is not None or self.known_NK is not None:
            counts = self._counts(part, scores_nGK.dtype)
            loss_nGK, slope_nGK = loss_nGK * counts, slope_nGK * counts
        return loss_nGK.sum(axis=(0, 2), dtype=np.float64), slope_nGK

    def curvature(self, slope_nGK: np.ndarray, part: slice | np.ndarray) -> np.ndarray:
        return _p_times_rest(slope_nGK, self._counts(part, slope_nGK.dtype))

    def on_device(self, device: torch.device) -> DeviceLoss:
        import torch

        has, weight, known = (on_device(one, device) for one in (self.Y_NK, self.weight, self.known_NK))
        assert has is not None

        def evaluate(scores: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
            sign = torch.where(has[part], -1, 1).to(scores.dtype)[:, None, :]
            scores *= sign
            small = torch.exp(-scores.abs())
            wrong = torch.where(scores < 0, small, 1) / (1 + small)
            losses, slope = scores.clamp(min=0) + torch.log1p(small), sign * wrong
            for counts in (None if weight is None else weight[:, None], known):
                if counts is not None:
                    of_row = counts[part].to(slope.dtype)[:, None, :]
                    losses, slope = losses * of_row, slope * of_row
            return losses, slope

        return evaluate

    def _counts(self, part: slice | np.ndarray, dtype: np.dtype[Any]) -> Any:
        counts = weights_of(self.weight, part, dtype)
        return counts if self.known_NK is None else counts * self.known_NK[part][:, None, :]


def _p_times_rest(slope_nGK: np.ndarray, weight: Any) -> np.ndarray:
    """p (1 - p) times the weight, of slopes p or p - 1 times the weight."""
    safe = np.where(weight > 0, weight, 1)
    share_nGK = np.abs(slope_nGK) / safe
    curvature_nGK: np.ndarray = weight * (share_nGK - np.square(share_nGK))
    return curvature_nGK


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
    normalise : bool
        Scale rows to unit length first.
    pca : int, optional
        Replace columns by as many principal components of the training rows.
    whiten : bool
        Scale the components to unit variance.
    device : str
        ``cpu`` or ``cuda``: where the passes over the rows are made.
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
        self.multi_class = multi_class

    shared = (*LinearPathHead.shared, "multi_class")

    def _loss(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None) -> Loss:
        if self.multi_class not in ("multinomial", "one_vs_rest"):
            raise ConfigError(
                f"logistic: multi_class: expected multinomial or one_vs_rest, found {self.multi_class!r}"
            )
        if num_classes == 2 or self.multi_class == "one_vs_rest":
            return SigmoidLoss.of_classes(codes, num_classes, weight)
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
