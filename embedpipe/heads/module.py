"""A fitted head as a torch module: from raw features to outputs, its preprocessing folded in.

What a head learned of scaling, unit length, components and temperature becomes part of the module, which can so be
trained on, exported, or put behind a backbone. Nearest neighbours and kernels keep their training rows and stay
what they are. Knows nothing of backbones or files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from embedpipe.errors import ConfigError, NotFitted, ShapeError
from embedpipe.heads.base import ClassifierHead, Head
from embedpipe.heads.centroid import CentroidHead
from embedpipe.heads.deep import DeepHead
from embedpipe.heads.foreign import SklearnClassifierHead, SklearnRegressorHead
from embedpipe.heads.linear import LinearClassifierHead, LinearRegressorHead, Scaling
from embedpipe.heads.logistic import LogisticHead
from embedpipe.heads.mlp import MlpClassifierHead, MlpRegressorHead
from embedpipe.heads.multilabel import MultiLabelHead, RidgeLabelsHead
from embedpipe.heads.nets import Net

# N rows, D features, K outputs, Y X rows and columns of a map

Link = Literal["softmax", "sigmoid", "none"]
CAN = (
    "logistic, ridge, svm, lda, centroid, sgd, mlp, conv, attentive, layerwise, group_lasso and scikit-learn's "
    "linear models can"
)


class HeadModule(nn.Module):
    """A head behind features.

    Attributes
    ----------
    kind : str
        ``classes``, ``number``, ``labels``, ``dense_classes`` or ``dense_number``.
    classes : tuple
        Labels of the columns, for classes; else empty.
    link : str
        What turns outputs into probabilities.
    maps : bool
        Whether a row is a map or tokens; else rows are laid out flat.
    prepare, net : Module
        What is done to rows first, which has buffers alone, and what has parameters.
    """

    def __init__(
        self,
        prepare: nn.Module,
        net: nn.Module,
        *,
        kind: str,
        link: Link,
        num_features: int,
        classes: tuple[Any, ...] = (),
        maps: bool = False,
    ) -> None:
        super().__init__()
        self.prepare = prepare
        self.net = net
        self.kind = kind
        self.link: Link = link
        self.num_features = num_features
        self.classes = classes
        self.maps = maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of raw features.

        Parameters
        ----------
        x : float tensor, shape (N, D), or (N, ...) that lays out flat to it; maps and tokens as they were tapped

        Returns
        -------
        float tensor
            (N, K) for classes and labels: their `link` gives the head's own probabilities; (N,) for a number;
            (N, K, Y, X) and (N, Y, X) where every place has outputs.

        Raises
        ------
        ShapeError
            If there are other than D features in a row.
        """
        rows = x if self.maps else x.flatten(1)
        if rows.shape[1] != self.num_features:
            raise ShapeError(
                f"head: expected features of shape (rows, {self.num_features}{', ...' if self.maps else ''}), "
                f"found {tuple(x.shape)}; give it the tap that it was trained on"
            )
        found: torch.Tensor = self.net(self.prepare(rows))
        return found

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        """What outputs say: probabilities by class or label, numbers as they are."""
        if self.link == "softmax":
            return outputs.softmax(dim=1)
        return outputs.sigmoid() if self.link == "sigmoid" else outputs

    def predict_proba(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities, or numbers, of raw features."""
        return self.probabilities(self(x))


class Scale(nn.Module):
    """Rows less a mean, divided by a scale; buffers, so that training leaves them alone."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.scale


class UnitLength(nn.Module):
    """Rows of unit Euclidean length; a row of zeros stays zero."""

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        norms_N1 = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True)
        return x_ND / torch.where(norms_N1 > 0, norms_N1, 1.0)


class LogSigmoid(nn.Module):
    """Logarithms of the sigmoids of scores: their softmax is the sigmoids brought to a sum of 1."""

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return F.logsigmoid(scores)


class OneColumn(nn.Module):
    """The only column of outputs, shape (N,)."""

    def forward(self, outputs_N1: torch.Tensor) -> torch.Tensor:
        return outputs_N1.squeeze(1)


class StackMember(nn.Module):
    """One network of a stack, as `embedpipe.heads.nets` computes it.

    Parameters
    ----------
    net
        Of the stack.
    params
        The member's own.
    mean, std
        Units of the targets, where they are numbers.
    places
        Rows and columns of the outputs; None where a row has one output.
    kind
        Of target.
    """

    def __init__(
        self,
        net: Net,
        params: dict[str, torch.Tensor],
        *,
        mean: float,
        std: float,
        places: tuple[int, ...] | None,
        kind: str,
    ) -> None:
        super().__init__()
        self._stack = net
        self._names = {name: name.replace(".", "_") for name in params}
        for name, value in params.items():
            self.register_parameter(self._names[name], nn.Parameter(value))
        self._mean, self._std = mean, std
        self._places, self._kind = places, kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        params = {name: getattr(self, own)[None] for name, own in self._names.items()}
        out_KM = self._stack.outputs(params, x)[0]
        if self._kind in ("number", "dense_number"):
            out_KM = out_KM * self._std + self._mean
        if self._places is None:
            return out_KM[0] if self._kind == "number" else out_KM.T
        out_NKYX = out_KM.reshape(out_KM.shape[0], x.shape[0], *self._places).movedim(0, 1)
        return out_NKYX[:, 0] if self._kind == "dense_number" else out_NKYX


def head_module(head: Head, *, dtype: torch.dtype = torch.float32) -> HeadModule:
    """The module that computes what a fitted head does, up to the rounding of `dtype`.

    Parameters
    ----------
    head
        Fitted, of any family that sees its training rows no more once it is fitted.
    dtype
        Of its parameters and buffers.

    Returns
    -------
    HeadModule
        In evaluation mode; its parameters can be trained further.

    Raises
    ------
    ConfigError
        If the family keeps its training rows (knn, kernels) or has no probabilities of this form; names those
        that can.
    NotFitted
        If the head has not been fitted, or its fit failed.
    """
    if not hasattr(head, "converged_"):
        raise NotFitted(f"{type(head).__name__} is not fitted yet: fit it, or load a saved head, first")
    for family, make in _MAKERS:
        if isinstance(head, family):
            return make(head).to(dtype).eval()
    raise ConfigError(
        f"head {head.family!r}: cannot become a module, since it answers from its training rows; {CAN}"
    )


def _linear(coef_KD: np.ndarray, intercept_K: np.ndarray) -> nn.Linear:
    layer = nn.Linear(coef_KD.shape[1], coef_KD.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(coef_KD, np.float64)))
        layer.bias.copy_(torch.from_numpy(np.array(intercept_K, np.float64)))
    return layer


def _of_classifier(head: Any) -> HeadModule:
    coef, intercept = head.coef_, head.intercept_
    if len(coef) == 1:  # a score of the second class against the first, which has none
        coef = np.concatenate([np.zeros_like(coef), coef])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    b = getattr(head, "inverse_temperature_", 1.0)
    net: nn.Module = _linear(coef * b, intercept * b)
    if isinstance(head, LogisticHead) and head.multi_class == "one_vs_rest" and len(coef) > 2:
        net = nn.Sequential(net, LogSigmoid())
    return _module(head, net, "softmax")


def _of_regressor(head: Any) -> HeadModule:
    layer = _linear(head.coef_[None], np.array([head.intercept_]))
    return _module(head, nn.Sequential(layer, OneColumn()), "none")


def _of_labels(head: Any) -> HeadModule:
    coef, intercept = head.coef_, head.intercept_
    if isinstance(head, RidgeLabelsHead):  # sigmoid(b (2 s - 1))
        b = head.inverse_temperature_
        coef, intercept = 2.0 * b * coef, b * (2.0 * intercept - 1.0)
    return _module(head, _linear(coef, intercept), "sigmoid")


def _of_centroid(head: Any) -> HeadModule:
    scale = Scale(torch.from_numpy(np.array(head.mean_)), torch.from_numpy(np.array(head.scale_)))
    b = head.inverse_temperature_
    if head.metric == "cosine":
        layer = _linear(b * head.centroids_, np.zeros(len(head.centroids_)))
        return _module(head, layer, "softmax", nn.Sequential(scale, UnitLength()))
    # -|x - c|² without |x|², which all classes share
    coef_KD, intercept_K = Scaling(head.mean_, head.scale_).fold(
        (2.0 * b / head.spread_) * head.centroids_.T,
        -(b / head.spread_) * np.square(head.centroids_).sum(axis=1),
    )
    return _module(head, _linear(coef_KD, intercept_K), "softmax")


def _of_perceptron(head: Any) -> HeadModule:
    layers: list[nn.Module] = []
    for weights, bias in zip(head.weights_, head.biases_, strict=True):
        layers += [_linear(weights, bias), nn.ReLU()]
    layers.pop()
    classes = isinstance(head, ClassifierHead)
    if not classes:
        layers.append(OneColumn())
    return _module(head, nn.Sequential(*layers), "softmax" if classes else "none")


def _of_deep(head: Any) -> HeadModule:
    num_outputs = len(head.classes_) if isinstance(head, ClassifierHead) else 1
    member = StackMember(
        head._net(head.input_shape_, num_outputs),
        {name: torch.from_numpy(np.array(p)) for name, p in head.params_.items()},
        mean=head.target_mean_,
        std=head.target_std_,
        places=head.input_shape_[1:] if head.kind.startswith("dense") else None,
        kind=head.kind,
    )
    scale = Scale(torch.from_numpy(np.array(head.mean_)), torch.from_numpy(np.array(head.scale_)))
    return _module(head, member, "softmax" if isinstance(head, ClassifierHead) else "none", scale)


def _of_sklearn(head: Any) -> HeadModule:
    *steps, estimator = (step for _, step in head.pipeline_.steps)
    coef, name = getattr(estimator, "coef_", None), type(estimator).__name__
    huber = getattr(estimator, "loss", None) == "modified_huber" and name == "SGDClassifier"
    if coef is None or name in ("SVC", "NuSVC") or huber:
        raise ConfigError(f"head {head.family!r}: cannot become a module, since it is no linear model; {CAN}")
    coef_KD = np.atleast_2d(np.asarray(coef, np.float64))
    intercept_K = np.atleast_1d(np.asarray(estimator.intercept_, np.float64))
    intercept_K = np.broadcast_to(intercept_K, (len(coef_KD),))  # 0.0 where none was fitted
    for scaler in steps:
        coef_KD, intercept_K = Scaling(scaler.mean_, scaler.scale_).fold(coef_KD.T, intercept_K)
    if head.kind == "number":
        return _module(head, nn.Sequential(_linear(coef_KD, intercept_K), OneColumn()), "none")
    if len(coef_KD) == 1:
        coef_KD = np.concatenate([np.zeros_like(coef_KD), coef_KD])
        intercept_K = np.concatenate([np.zeros(1), intercept_K])
    net: nn.Module = _linear(coef_KD, intercept_K)
    if len(coef_KD) > 2 and name == "SGDClassifier" and estimator.loss == "log_loss":
        net = nn.Sequential(net, LogSigmoid())  # each class against the rest, brought to a sum of 1
    return _module(head, net, "softmax")


def _module(head: Any, net: nn.Module, link: Link, prepare: nn.Module | None = None) -> HeadModule:
    if prepare is None:
        prepare = UnitLength() if getattr(head, "normalise", False) else nn.Identity()
    return HeadModule(
        prepare,
        net,
        kind=head.kind,
        link=link,
        num_features=int(head.n_features_in_),
        classes=tuple(head.classes_.tolist()) if isinstance(head, ClassifierHead) else (),
        maps=head.maps,
    )


_MAKERS: tuple[tuple[type | tuple[type, ...], Callable[[Any], HeadModule]], ...] = (
    (CentroidHead, _of_centroid),
    (LinearClassifierHead, _of_classifier),
    (LinearRegressorHead, _of_regressor),
    (MultiLabelHead, _of_labels),
    ((MlpClassifierHead, MlpRegressorHead), _of_perceptron),
    (DeepHead, _of_deep),
    ((SklearnClassifierHead, SklearnRegressorHead), _of_sklearn),
)
