"""Linear models trained by stochastic gradient: a grid of learning rates and strengths in one pass.

All members of a grid are one matrix product a batch, as in the linear evaluation of DINOv2. For two classes
the model is one logistic unit, so that a strength means what it does in `logistic`: ``1 / (N * C)``.

References
----------
Oquab et al. 2024, "DINOv2: Learning Robust Visual Features without Supervision", appendix B.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from embedpipe.heads.linear import LinearClassifierHead, LinearRegressorHead, Scaling
from embedpipe.heads.losses import LossName
from embedpipe.heads.multilabel import LinearLabelsHead
from embedpipe.heads.nets import LinearNet, Net
from embedpipe.heads.neural import NeuralHead, Unit
from embedpipe.heads.prepared import PreparedHead
from embedpipe.heads.stacked import Fitted
from embedpipe.heads.training import Training

# D features, K outputs


class _LinearSgd(PreparedHead, NeuralHead):
    """What both kinds of target share."""

    family = "sgd"
    optimiser = "sgd"

    def __init__(
        self,
        lr: float = 0.01,
        *,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        epochs: int = 300,
        patience: int = 10,
        batch: int = 256,
        standardise: bool = True,
        normalise: bool = False,
        pca: int | None = None,
        whiten: bool = False,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.standardise = standardise
        self.normalise = normalise
        self.pca = pca
        self.whiten = whiten
        self.device = device
        self.random_state = random_state

    def _net(self, shape: tuple[int, ...], num_outputs: int) -> Net:
        return LinearNet(shape[0], num_outputs)

    @staticmethod
    def _folded(fitted: Fitted, scaling: Scaling, std: Unit) -> tuple[np.ndarray, np.ndarray]:
        """Weights (K, D) and intercept (K,) over raw features, times `std`."""
        weights_KD = fitted.params["weights"].astype(np.float64) * np.reshape(std, (-1, 1))
        return scaling.fold(weights_KD.T, fitted.params["bias"][:, 0].astype(np.float64) * std)


class SgdClassifierHead(_LinearSgd, LinearClassifierHead):
    """Multinomial logistic regression by momentum SGD, stopped early on validation.

    Parameters
    ----------
    lr : float
        Learning rate, for losses averaged over a batch.
    weight_decay : float
        Strength of the penalty ``weight_decay / 2 * |weights|²`` beside the mean loss; intercepts are free.
    schedule : str
        ``constant``, or ``cosine``: down to 0 after `epochs`.
    epochs : int
        Most passes over the training rows.
    patience : int
        Passes without a lower validation loss after which training stops; 0 makes all of them on all rows and
        keeps the last weights.
    batch : int
        Rows a step.
    standardise : bool
        Scale columns to unit variance on the training rows.
    class_weight : None, ``balanced`` or dict
        What rows of each class count.
    normalise : bool
        Scale rows to unit length first.
    pca : int, optional
        Replace columns by as many principal components of the training rows.
    whiten : bool
        Scale the components to unit variance.
    device : str
        ``cpu`` or ``cuda``: where it is trained.
    random_state : int
        Decides order and held-out rows.
    """

    def __init__(
        self,
        lr: float = 0.01,
        *,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        epochs: int = 300,
        patience: int = 10,
        batch: int = 256,
        standardise: bool = True,
        class_weight: Any = None,
        normalise: bool = False,
        pca: int | None = None,
        whiten: bool = False,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.standardise = standardise
        self.class_weight = class_weight
        self.normalise = normalise
        self.pca = pca
        self.whiten = whiten
        self.device = device
        self.random_state = random_state

    def _loss(self, training: Training) -> tuple[LossName, int]:
        assert training.classes is not None
        return ("sigmoid", 1) if len(training.classes) == 2 else ("softmax", len(training.classes))

    def _take(self, fitted: Fitted, scaling: Scaling, mean: Unit, std: Unit) -> None:
        self.coef_, self.intercept_ = self._folded(fitted, scaling, std)


class SgdRegressorHead(_LinearSgd, LinearRegressorHead):
    """Least squares by momentum SGD on standardised targets, stopped early on validation.

    Parameters
    ----------
    lr : float
        Learning rate, for losses averaged over a batch.
    weight_decay : float
        Strength of the penalty ``weight_decay / 2 * |weights|²`` beside the mean squared error of
        standardised targets.
    schedule : str
        ``constant``, or ``cosine``: down to 0 after `epochs`.
    epochs : int
        Most passes over the training rows.
    patience : int
        Passes without a lower validation loss after which training stops; 0 makes all of them on all rows and
        keeps the last weights.
    batch : int
        Rows a step.
    standardise : bool
        Scale columns to unit variance on the training rows.
    normalise : bool
        Scale rows to unit length first.
    pca : int, optional
        Replace columns by as many principal components of the training rows.
    whiten : bool
        Scale the components to unit variance.
    device : str
        ``cpu`` or ``cuda``: where it is trained.
    random_state : int
        Decides order and held-out rows.
    """

    learned_values = ("intercept_", *NeuralHead.learned_values)

    def _take(self, fitted: Fitted, scaling: Scaling, mean: Unit, std: Unit) -> None:
        coef_MD, intercept_M = self._folded(fitted, scaling, std)
        self._keep(coef_MD, intercept_M + mean)


class SgdLabelsHead(_LinearSgd, LinearLabelsHead):
    """One logistic unit a label by momentum SGD, stopped early on validation; unknown labels count nothing.

    Parameters
    ----------
    lr, weight_decay, schedule, epochs, patience, batch, standardise, normalise
    pca, whiten, device, random_state
        As `SgdClassifierHead` has them.
    """

    def _take(self, fitted: Fitted, scaling: Scaling, mean: Unit, std: Unit) -> None:
        self.coef_, self.intercept_ = self._folded(fitted, scaling, std)
