"""A fitted head as a torch module: from raw features to outputs, its preprocessing folded in.

What a head learned of scaling, unit length, components and temperature becomes part of the module, which can so be
trained on, exported, or put behind a backbone. Knows nothing of backbones or files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from embedpipe.errors import ConfigError, NotFitted
from embedpipe.heads.base import ClassifierHead, Head
from embedpipe.heads.centroid import CentroidHead
from embedpipe.heads.deep import DeepHead
from embedpipe.heads.foreign import SklearnClassifierHead, SklearnRegressorHead
from embedpipe.heads.knn import KnnClassifierHead, KnnRegressorHead
from embedpipe.heads.layers import (
    HeadModule,
    Link,
    LogSigmoid,
    Neighbours,
    OneColumn,
    Scale,
    StackMember,
    UnitLength,
)
from embedpipe.heads.linear import LinearClassifierHead, LinearRegressorHead, Scaling
from embedpipe.heads.logistic import LogisticHead
from embedpipe.heads.mlp import MlpClassifierHead, MlpLabelsHead, MlpRegressorHead
from embedpipe.heads.multilabel import LinearLabelsHead, RidgeLabelsHead

# N rows, D features, K outputs

__all__ = ["HeadModule", "head_module"]

CAN = (
    "logistic, ridge, svm, lda, centroid, sgd, mlp, conv, attentive, layerwise, group_lasso and scikit-learn's "
    "linear models can"
)


def head_module(head: Head, *, dtype: torch.dtype = torch.float32, trainable: bool = True) -> HeadModule:
    """The module that computes what a fitted head does, up to the rounding of `dtype`.

    Parameters
    ----------
    head
        Fitted.
    dtype
        Of its parameters and buffers.
    trainable
        Whether it is to have parameters; without, nearest neighbours do too: their rows are buffers.

    Returns
    -------
    HeadModule
        In evaluation mode; its parameters can be trained further.

    Raises
    ------
    ConfigError
        If the family answers from its training rows (kernels; knn where it is to be trainable), or has no
        probabilities of this form; names those that can.
    NotFitted
        If the head has not been fitted, or its fit failed.
    """
    if not hasattr(head, "converged_"):
        raise NotFitted(f"{type(head).__name__} is not fitted yet: fit it, or load a saved head, first")
    for family, make in _MAKERS:
        if isinstance(head, family):
            return make(head).to(dtype).eval()
    if isinstance(head, (KnnClassifierHead, KnnRegressorHead)) and not trainable:
        return _of_neighbours(head).to(dtype).eval()
    raise ConfigError(
        f"head {head.family!r}: cannot become a module with parameters, since it answers from its training rows; {CAN}"
    )


def _linear(coef_KD: np.ndarray, intercept_K: np.ndarray) -> nn.Linear:
    layer = nn.Linear(coef_KD.shape[1], coef_KD.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(coef_KD, np.float64)))
        layer.bias.copy_(torch.from_numpy(np.array(intercept_K, np.float64)))
    return layer


def _numbers(net: nn.Module, num: int) -> nn.Module:
    """A network of numbers: of one, without the axis of outputs."""
    return nn.Sequential(net, OneColumn()) if num == 1 else net


def _link(head: Any) -> Link:
    """What turns the outputs of a network into probabilities."""
    if isinstance(head, ClassifierHead):
        return "softmax"
    return "sigmoid" if head.kind == "multilabel" else "none"


def _scale(head: Any) -> Scale:
    return Scale(torch.from_numpy(np.array(head.mean_)), torch.from_numpy(np.array(head.scale_)))


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
    layer = _linear(np.atleast_2d(head.coef_), np.atleast_1d(head.intercept_))
    return _module(head, _numbers(layer, len(np.atleast_2d(head.coef_))), "none")


def _of_labels(head: Any) -> HeadModule:
    coef, intercept = head.coef_, head.intercept_
    if isinstance(head, RidgeLabelsHead):  # sigmoid(b (2 s - 1))
        b = head.inverse_temperature_
        coef, intercept = 2.0 * b * coef, b * (2.0 * intercept - 1.0)
    return _module(head, _linear(coef, intercept), "sigmoid")


def _of_centroid(head: Any) -> HeadModule:
    b = head.inverse_temperature_
    if head.metric == "cosine":
        layer = _linear(b * head.centroids_, np.zeros(len(head.centroids_)))
        return _module(head, layer, "softmax", nn.Sequential(_scale(head), UnitLength()))
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
    net: nn.Module = nn.Sequential(*layers)
    if head.kind == "number":
        net = _numbers(net, len(head.biases_[-1]))
    return _module(head, net, _link(head))


def _of_deep(head: Any) -> HeadModule:
    member = StackMember(
        head._net(head.input_shape_, head.num_outputs),
        {name: torch.from_numpy(np.array(p)) for name, p in head.params_.items()},
        mean=head.target_mean_,
        std=head.target_std_,
        places=head.input_shape_[1:] if head.kind.startswith("dense") else None,
        kind=head.kind,
    )
    return _module(head, member, _link(head), _scale(head))


def _of_neighbours(head: Any) -> HeadModule:
    if isinstance(head, KnnClassifierHead):
        known_MK = np.eye(len(head.classes_))[head.codes_]
    else:
        known_MK = head.targets_.reshape(len(head.targets_), -1)
    nearest = Neighbours(
        torch.from_numpy(np.array(head.rows_)),
        torch.from_numpy(known_MK),
        k=head.k,
        weights=head.weights,
        temperature=head.temperature,
    )
    is_classes = isinstance(head, KnnClassifierHead)
    net = nearest if is_classes else _numbers(nearest, known_MK.shape[1])
    return _module(head, net, "none", nn.Sequential(_scale(head), UnitLength()))


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
    (LinearLabelsHead, _of_labels),
    ((MlpClassifierHead, MlpRegressorHead, MlpLabelsHead), _of_perceptron),
    (DeepHead, _of_deep),
    ((SklearnClassifierHead, SklearnRegressorHead), _of_sklearn),
)
