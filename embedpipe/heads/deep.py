"""Heads whose network is kept as it was trained, for inputs that have more to them than columns.

The parameters stay apart from the scaling, and torch predicts too. Subclasses give `_net` and what a row must be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from embedpipe.errors import ShapeError
from embedpipe.heads.base import ClassifierHead, HeadState, RegressorHead
from embedpipe.heads.linear import Scaling
from embedpipe.heads.multilabel import MultiLabelHead
from embedpipe.heads.neural import NeuralHead, Unit
from embedpipe.heads.rows import Rows
from embedpipe.heads.stacked import Fitted
from embedpipe.heads.training import Training

# N rows, K outputs, P places of a row that have an output each (1 where a row has one)

PREDICTED_NBYTES = 16 << 20
"""Features predicted at a time: what lies between input and output is several times as large."""


class DeepHead(NeuralHead):
    """Base of such heads.

    Attributes
    ----------
    params_ : dict of float32 arrays
        Of the network, over scaled rows.
    mean_, scale_ : float64 arrays
        What is taken from rows, and what they are divided by; broadcast against a row.
    target_mean_, target_std_ : float
        Units of the targets, where they are one number.
    input_shape_ : tuple of int
        Of one row.
    """

    takes: ClassVar[tuple[str, str]]
    """What features must be, and how to get such, for heads of maps or tokens: the sentence that refuses others."""
    learned: ClassVar[tuple[str, ...]] = ("mean_", "scale_")
    learned_values = (*NeuralHead.learned_values, "target_mean_", "target_std_", "input_shape_")
    params_: dict[str, np.ndarray]
    mean_: np.ndarray
    scale_: np.ndarray
    target_mean_: float
    target_std_: float
    input_shape_: tuple[int, ...]

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        for head in heads:
            head.input_shape_ = tuple(training.rows.shape[1:])
        super()._fit_many(heads, training)

    def _take(self, fitted: Fitted, scaling: Scaling, mean: Unit, std: Unit) -> None:
        self.params_, self.mean_, self.scale_ = fitted.params, scaling.mean, scaling.scale
        if isinstance(mean, np.ndarray) or isinstance(std, np.ndarray):
            # units of several numbers become part of the last layer
            weights, bias = (self.params_[f"output.{name}"] for name in ("weights", "bias"))
            stds, means = np.reshape(std, (-1, 1)), np.reshape(mean, (-1, 1))
            scaled = {"weights": weights * stds, "bias": bias * stds + means}
            self.params_ = {
                **self.params_,
                **{f"output.{n}": p.astype(np.float32) for n, p in scaled.items()},
            }
            mean, std = 0.0, 1.0
        self.target_mean_, self.target_std_ = mean, std

    @property
    def num_outputs(self) -> int:
        """Outputs of the fitted network at a place."""
        return len(self.params_["output.bias"])

    def _outputs(self, X: np.ndarray) -> np.ndarray:
        """Outputs of checked rows in the units of the targets, float64, shape (K, N·P)."""
        import torch

        net = self._net(self.input_shape_, self.num_outputs)
        params = {name: torch.from_numpy(np.array(p))[None] for name, p in self.params_.items()}
        step = max(1, PREDICTED_NBYTES // (4 * max(1, math.prod(self.input_shape_))))
        found = []
        with torch.no_grad():
            for start in range(0, len(X), step):
                block = X[start : start + step]
                scaled = (block - self.mean_.astype(block.dtype)) / self.scale_.astype(block.dtype)
                x = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
                found.append(net.outputs(params, x)[0].double().numpy())
        return np.concatenate(found, axis=1) * self.target_std_ + self.target_mean_

    def _check_fit(self, X: Any, y: Any, *, numeric: bool) -> tuple[Rows, np.ndarray]:
        if self.maps:
            self._refuse_unless_spatial(getattr(X, "shape", None) or np.shape(X))
        rows, target = super()._check_fit(X, y, numeric=numeric)
        self.n_features_in_ = rows.shape[1]
        return rows, target

    def _check_rows(self, X: Any) -> np.ndarray:
        rows = super()._check_rows(X)
        if hasattr(self, "input_shape_") and rows.shape[1:] != tuple(self.input_shape_):
            raise ShapeError(
                f"{type(self).__name__}: was fitted on rows of shape {tuple(self.input_shape_)}, "
                f"found {rows.shape[1:]}; predict features of the same tap"
            )
        return rows

    @classmethod
    def _fits(cls, shape: tuple[int, ...]) -> bool:
        """Whether a row may have this shape, for heads of maps or tokens."""
        raise NotImplementedError

    def _refuse_unless_spatial(self, shape: tuple[int, ...]) -> None:
        if not self._fits(tuple(shape[1:])):
            what, hint = self.takes
            raise ShapeError(
                f"{type(self).__name__}: expected {what}, found features of shape {tuple(shape)}; {hint}"
            )

    def state(self) -> HeadState:
        """Everything learned, for saving."""
        base = super().state()
        named = {f"params.{name}": p for name, p in self.params_.items()}
        values = {**base.values, "input_shape_": list(self.input_shape_)}
        return HeadState({**base.tensors, **named}, values)

    def restore(self, state: HeadState) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        self.input_shape_ = tuple(self.input_shape_)
        self.params_ = {
            name.removeprefix("params."): p for name, p in state.tensors.items() if name.startswith("params.")
        }


class DeepClassifierHead(DeepHead, ClassifierHead):
    """Classes by a softmax over outputs."""

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        return self._outputs(X_ND).T


class DeepRegressorHead(DeepHead, RegressorHead):
    """Numbers by least squares on standardised targets."""

    def _values(self, X_ND: np.ndarray) -> np.ndarray:
        outputs_MN = self._outputs(X_ND)
        values: np.ndarray = outputs_MN[0] if len(outputs_MN) == 1 else outputs_MN.T
        return values


class DeepLabelsHead(DeepHead, MultiLabelHead):
    """Labels by a sigmoid over outputs."""

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        return self._outputs(X_ND).T
