"""Convolutional heads that keep the grid: a class or a number for every place of a map.

Targets are (N, Y, X), on the grid of the features; -1 or NaN where a place has no label.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from embedpipe.errors import DataError, ShapeError
from embedpipe.heads.base import ClassifierHead, RegressorHead, softmax
from embedpipe.heads.conv import Convolutional
from embedpipe.heads.rows import Rows
from embedpipe.heads.training import Training

# N rows, Y X rows and columns of the map, K outputs


class _Dense(Convolutional):
    """What both kinds of target share."""

    pool = "keep"

    def __init__(
        self,
        hidden: int = 32,
        *,
        kernel: int = 3,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        schedule: str = "constant",
        epochs: int = 100,
        patience: int = 10,
        batch: int = 64,
        standardise: bool = True,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.kernel = kernel
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.standardise = standardise
        self.device = device
        self.random_state = random_state

    def _gridded(self, X: Any, y: Any, sample_weight: Any) -> tuple[Rows, np.ndarray, np.ndarray | None]:
        """Checked rows, targets on their grid, and weights."""
        target = np.asarray(y)
        shape = getattr(X, "shape", None) or np.shape(X)
        rows, _ = self._check_fit(X, np.zeros(len(target)), numeric=True)
        if target.shape != (shape[0], *shape[2:]):
            raise ShapeError(
                f"{type(self).__name__}: expected a target for every place, shape {(shape[0], *shape[2:])}, "
                f"found {target.shape}; resample the targets to the grid of the features"
            )
        return self._weighted(rows, target, sample_weight)

    def _on_grid(self, values: np.ndarray, num_rows: int) -> np.ndarray:
        """Values of places, (..., N·Y·X), as (..., N, Y, X)."""
        return values.reshape(*values.shape[:-1], num_rows, *self.input_shape_[1:])


class DenseConvClassifierHead(_Dense, ClassifierHead):
    """A class for every place.

    Parameters
    ----------
    hidden, kernel, lr, weight_decay, schedule, epochs, patience, batch, standardise, device, random_state
        As `ConvClassifierHead` has them.
    """

    kind = "dense"

    def predict(self, X: Any) -> np.ndarray:
        """The class of every place, shape (N, Y, X)."""
        winners = self.predict_proba(X).argmax(axis=1)
        predicted: np.ndarray = self.classes_[winners]
        return predicted

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities, float64, shape (N, K, Y, X)."""
        X = self._check_predict(X)
        scores_NYXK = np.moveaxis(self._on_grid(self._outputs(X), len(X)), 0, -1)
        return np.moveaxis(softmax(scores_NYXK), -1, 1)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of labelled places that are right."""
        target = np.asarray(y)
        known = target != -1
        weight = (
            None
            if sample_weight is None
            else np.broadcast_to(np.asarray(sample_weight)[:, None, None], target.shape)[known]
        )
        return float(np.average((self.predict(X) == target)[known], weights=weight))

    def _training(
        self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, sample_weight: Any = None
    ) -> Training:
        rows, target, weight = self._gridded(X, y, sample_weight)
        classes = np.unique(target[target != -1])
        if len(classes) < 2:
            raise DataError(
                f"{type(self).__name__}: expected labels of two classes or more, found {classes.tolist()}"
            )
        self.classes_ = classes
        if X_val is None or y_val is None:
            return Training(rows, _codes(target, classes), classes, weight=weight)
        val = _codes(np.asarray(y_val), classes)
        return Training(rows, _codes(target, classes), classes, self._validation_rows(X_val), val, weight)


class DenseConvRegressorHead(_Dense, RegressorHead):
    """A number for every place.

    Parameters
    ----------
    hidden, kernel, lr, weight_decay, schedule, epochs, patience, batch, standardise, device, random_state
        As `ConvClassifierHead` has them.
    """

    kind = "dense_number"

    def predict(self, X: Any) -> np.ndarray:
        """The number of every place, float64, shape (N, Y, X)."""
        X = self._check_predict(X)
        return self._on_grid(self._outputs(X)[0], len(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² over labelled places."""
        from sklearn.metrics import r2_score

        target = np.asarray(y, np.float64)
        known = ~np.isnan(target)
        weight = (
            None
            if sample_weight is None
            else np.broadcast_to(np.asarray(sample_weight)[:, None, None], target.shape)[known]
        )
        return float(r2_score(target[known], self.predict(X)[known], sample_weight=weight))

    def _training(
        self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, sample_weight: Any = None
    ) -> Training:
        rows, target, weight = self._gridded(X, np.asarray(y, np.float64), sample_weight)
        if np.isnan(target).all():
            raise DataError(f"{type(self).__name__}: no place has a label")
        if X_val is None or y_val is None:
            return Training(rows, target, weight=weight)
        return Training(
            rows, target, None, self._validation_rows(X_val), np.asarray(y_val, np.float64), weight
        )


def _codes(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Places of labels in `classes`; -1 where they are none of them."""
    place = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return np.where(classes[place] == labels, place, -1).astype(np.int64)
