"""A small perceptron on cached features, trained by AdamW and stopped early on validation.

Candidates of one shape are trained together: their weights are stacked, and each has its own learning
rate, decay, dropout, stopping and best weights. torch is imported when a fit begins; prediction needs numpy
alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from embedpipe.heads.base import ClassifierHead, HeadState, RegressorHead
from embedpipe.heads.linear import Scaling
from embedpipe.heads.multilabel import MultiLabelHead
from embedpipe.heads.nets import Net, PerceptronNet
from embedpipe.heads.neural import NeuralHead, Unit
from embedpipe.heads.prepared import PreparedHead
from embedpipe.heads.stacked import Fitted

# N rows, D features, H hidden units, K outputs


class _Perceptron(PreparedHead, NeuralHead):
    """What both kinds of target share.

    Attributes
    ----------
    weights_ : list of float64 arrays
        Of each layer, (H, D) over raw features first (scaling is folded in), (K, H) last.
    biases_ : list of float64 arrays
    """

    family = "mlp"
    shape_names = ("hidden", "layers")
    hidden: int
    layers: int
    weights_: list[np.ndarray]
    biases_: list[np.ndarray]

    def __init__(
        self,
        hidden: int = 128,
        *,
        layers: int = 1,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        dropout: float = 0.0,
        schedule: str = "constant",
        epochs: int = 100,
        patience: int = 10,
        batch: int = 256,
        standardise: bool = True,
        normalise: bool = False,
        pca: int | None = None,
        whiten: bool = False,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.layers = layers
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
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
        return PerceptronNet(shape[0], num_outputs, self.hidden, self.layers)

    def _take(self, fitted: Fitted, scaling: Scaling, mean: Unit, std: Unit) -> None:
        layers = range(self.layers + 1)
        weights = [fitted.params[f"{layer}.weights"].astype(np.float64) for layer in layers]
        biases = [fitted.params[f"{layer}.bias"][:, 0].astype(np.float64) for layer in layers]
        weights[0], biases[0] = scaling.fold(weights[0].T, biases[0])
        weights[-1], biases[-1] = weights[-1] * np.reshape(std, (-1, 1)), biases[-1] * std + mean
        self.weights_, self.biases_ = weights, biases

    def _lead_back(self, scaling: Scaling, components_DM: np.ndarray) -> None:
        self.weights_[0], self.biases_[0] = scaling.fold(components_DM @ self.weights_[0].T, self.biases_[0])

    def _outputs(self, X_ND: np.ndarray) -> np.ndarray:
        here_NH = self._seen(X_ND).astype(np.float64, copy=False) @ self.weights_[0].T + self.biases_[0]
        for weights, bias in zip(self.weights_[1:], self.biases_[1:], strict=True):
            np.maximum(here_NH, 0.0, out=here_NH)
            here_NH = here_NH @ weights.T + bias
        outputs_NK: np.ndarray = here_NH
        return outputs_NK

    def state(self) -> HeadState:
        """Everything learned, for saving."""
        base = super().state()
        named = {f"weights_{i}": one for i, one in enumerate(self.weights_)}
        named |= {f"bias_{i}": one for i, one in enumerate(self.biases_)}
        return HeadState({**base.tensors, **named}, base.values)

    def restore(self, state: HeadState) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        layers = range(self.layers + 1)
        self.weights_ = [state.tensors[f"weights_{layer}"] for layer in layers]
        self.biases_ = [state.tensors[f"bias_{layer}"] for layer in layers]


class MlpClassifierHead(_Perceptron, ClassifierHead):
    """One or two hidden layers of rectified units under a softmax.

    Parameters
    ----------
    hidden : int
        Units of a hidden layer.
    layers : int
        Hidden layers, 1 or 2.
    lr, weight_decay : float
        AdamW's learning rate and decoupled decay; biases do not decay.
    dropout : float
        Share of hidden units dropped at each training step, in [0, 1).
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
        Decides initial weights, order, dropout and held-out rows.
    """

    def __init__(
        self,
        hidden: int = 128,
        *,
        layers: int = 1,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        dropout: float = 0.0,
        schedule: str = "constant",
        epochs: int = 100,
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
        self.hidden = hidden
        self.layers = layers
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
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

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        return self._outputs(X_ND)


class MlpRegressorHead(_Perceptron, RegressorHead):
    """One or two hidden layers of rectified units, least squares on standardised targets.

    Parameters
    ----------
    hidden : int
        Units of a hidden layer.
    layers : int
        Hidden layers, 1 or 2.
    lr, weight_decay : float
        AdamW's learning rate and decoupled decay; biases do not decay.
    dropout : float
        Share of hidden units dropped at each training step, in [0, 1).
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
        Decides initial weights, order, dropout and held-out rows.
    """

    def _values(self, X_ND: np.ndarray) -> np.ndarray:
        outputs_NM = self._outputs(X_ND)
        return outputs_NM[:, 0] if outputs_NM.shape[1] == 1 else outputs_NM


class MlpLabelsHead(_Perceptron, MultiLabelHead):
    """One or two hidden layers of rectified units under a sigmoid a label; unknown labels count nothing.

    Parameters
    ----------
    hidden, layers, lr, weight_decay, dropout, schedule, epochs, patience, batch, standardise, normalise
    pca, whiten, device, random_state
        As `MlpClassifierHead` has them.
    """

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        return self._outputs(X_ND)
