"""A small perceptron on cached features, trained by AdamW and stopped early on validation.

Candidates of one shape are trained together: their weights are stacked, and each has its own learning
rate, decay, stopping and best weights. torch is imported when a fit begins; prediction needs numpy alone.

References
----------
Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2 (AdamW).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from embedpipe.heads.base import ClassifierHead, Head, RegressorHead, grouped
from embedpipe.heads.linear import Scaling
from embedpipe.heads.stacked import Fitted, Recipe, train_stack
from embedpipe.heads.training import Training

# N rows, D features, H hidden units, K outputs

HOLDOUT = 5
"""One row in so many is held out for early stopping where no validation rows are given."""


class _Perceptron(Head):
    """What both kinds of target share.

    Attributes
    ----------
    hidden_weights_ : float64 array, shape (D, H)
        Over raw features: scaling is folded in.
    hidden_bias_ : float64 array, shape (H,)
    output_weights_ : float64 array, shape (H, K)
    output_bias_ : float64 array, shape (K,)
    num_epochs_, best_epoch_ : int
        Passes made, and the pass whose weights were kept.
    """

    family = "mlp"
    learned = ("hidden_weights_", "hidden_bias_", "output_weights_", "output_bias_")
    learned_values = ("num_epochs_", "best_epoch_")
    hidden_weights_: np.ndarray
    hidden_bias_: np.ndarray
    output_weights_: np.ndarray
    output_bias_: np.ndarray
    num_epochs_: int
    best_epoch_: int

    def __init__(
        self,
        hidden: int = 128,
        *,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        dropout: float = 0.0,
        epochs: int = 100,
        patience: int = 10,
        batch: int = 256,
        standardise: bool = True,
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.standardise = standardise
        self.random_state = random_state

    @classmethod
    def _fit_stacks(cls, heads: Sequence[Self], training: Training, num_outputs: int) -> None:
        """Fit on `training`, whose targets are codes, or float values in the units of the loss."""
        for group in grouped(heads, "hidden", "epochs", "patience", "batch", "standardise", "random_state"):
            first = group[0]
            rows = with_validation(training, first.random_state)
            scaling = Scaling.of(rows.X_ND, standardise=first.standardise)
            stack = train_stack(
                scaling.apply(rows.X_ND).astype(np.float32),
                rows.y,
                None if rows.X_val is None else scaling.apply(rows.X_val).astype(np.float32),
                rows.y_val,
                num_outputs=num_outputs,
                hidden=first.hidden,
                recipes=[Recipe(head.lr, head.weight_decay, head.dropout) for head in group],
                epochs=first.epochs,
                patience=first.patience,
                batch=first.batch,
                seed=first.random_state,
            )
            for head, fitted in zip(group, stack, strict=True):
                head._take(fitted, scaling)

    def _take(self, fitted: Fitted, scaling: Scaling) -> None:
        weights_HD, self.hidden_bias_ = scaling.fold(
            fitted.hidden_weights.astype(np.float64), fitted.hidden_bias.astype(np.float64)
        )
        self.hidden_weights_ = np.ascontiguousarray(weights_HD.T)
        self.output_weights_ = fitted.output_weights.astype(np.float64)
        self.output_bias_ = fitted.output_bias.astype(np.float64)
        self.num_epochs_, self.best_epoch_ = fitted.num_epochs, fitted.best_epoch
        self.converged_ = fitted.stopped_early

    def _outputs(self, X_ND: np.ndarray) -> np.ndarray:
        hidden_NH = X_ND.astype(np.float64, copy=False) @ self.hidden_weights_ + self.hidden_bias_
        np.maximum(hidden_NH, 0.0, out=hidden_NH)
        outputs_NK: np.ndarray = hidden_NH @ self.output_weights_ + self.output_bias_
        return outputs_NK


class MlpClassifierHead(_Perceptron, ClassifierHead):
    """One hidden layer of rectified units under a softmax.

    Parameters
    ----------
    hidden : int
        Hidden units.
    lr, weight_decay : float
        AdamW's learning rate and decoupled decay.
    dropout : float
        Share of hidden units dropped at each training step, in [0, 1).
    epochs : int
        Most passes over the training rows.
    patience : int
        Passes without a lower validation loss after which training stops.
    batch : int
        Rows a step.
    standardise : bool
        Scale columns to unit variance on the training rows.
    random_state : int
        Decides initial weights, order, dropout and held-out rows.

    Attributes
    ----------
    converged_ : bool
        Whether training ended by patience: False where `epochs` ran out first.
    """

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        assert training.classes is not None
        cls._fit_stacks(heads, training, len(training.classes))

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        return self._outputs(X_ND)


class MlpRegressorHead(_Perceptron, RegressorHead):
    """One hidden layer of rectified units, least squares on standardised targets.

    Parameters
    ----------
    hidden : int
        Hidden units.
    lr, weight_decay : float
        AdamW's learning rate and decoupled decay.
    dropout : float
        Share of hidden units dropped at each training step, in [0, 1).
    epochs : int
        Most passes over the training rows.
    patience : int
        Passes without a lower validation loss after which training stops.
    batch : int
        Rows a step.
    standardise : bool
        Scale columns to unit variance on the training rows.
    random_state : int
        Decides initial weights, order, dropout and held-out rows.

    Attributes
    ----------
    converged_ : bool
        Whether training ended by patience: False where `epochs` ran out first.
    """

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        mean, std = float(training.y.mean()), float(training.y.std()) or 1.0
        y_val = None if training.y_val is None else (training.y_val - mean) / std
        scaled = Training(training.rows, (training.y - mean) / std, None, training.rows_val, y_val)
        cls._fit_stacks(heads, scaled, 1)
        for head in heads:
            head.output_weights_ = head.output_weights_ * std
            head.output_bias_ = head.output_bias_ * std + mean

    def _values(self, X_ND: np.ndarray) -> np.ndarray:
        return self._outputs(X_ND)[:, 0]


def with_validation(training: Training, seed: int) -> Training:
    """`training` with rows to stop on: its own, or one in five held out of training.

    For classes the rows are held out within each class, and a class keeps at least one row for training.
    Where nothing can be held out `rows_val` stays None.
    """
    if training.rows_val is not None and training.y_val is not None and len(training.y_val):
        return training
    order = np.random.default_rng(seed).permutation(len(training.y))
    groups = np.zeros_like(order) if training.classes is None else training.y[order]
    held = np.concatenate([order[groups == group][HOLDOUT - 1 :: HOLDOUT] for group in np.unique(groups)])
    if not len(held):
        return Training(training.rows, training.y, training.classes)
    out = np.zeros(len(training.y), dtype=bool)
    out[held] = True
    kept, held = np.flatnonzero(~out), np.flatnonzero(out)
    rows, y = training.rows, training.y
    return Training(rows.take(kept), y[kept], training.classes, rows.take(held), y[held])
