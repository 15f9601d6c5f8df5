"""What head modules are made of, and a module as a description that it can be built from again.

Knows torch and the stacks of `embedpipe.heads.nets`; nothing of estimators, of how anything was fitted, or of files.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import torch
from torch import nn
from torch.nn import functional as F

from embedpipe.errors import ShapeError, WeightsError
from embedpipe.heads.nets import Net

# N rows, D features, K outputs, M training rows, Y X rows and columns of a map

Link = Literal["softmax", "sigmoid", "none"]
_NETS = {
    "ConvNet": "embedpipe.heads.conv",
    "AttentiveNet": "embedpipe.heads.attentive",
    "FusionNet": "embedpipe.heads.layerwise",
}


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
            (N, K) for classes and labels: their `link` gives the head's own probabilities; (N,) for a number, (N, M)
            for several;
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

    def describe(self) -> dict[str, Any]:
        """JSON values from which `build` makes the same module, but for its tensors."""
        return {
            "kind": self.kind,
            "link": self.link,
            "num_features": self.num_features,
            "classes": list(self.classes),
            "maps": self.maps,
            "prepare": _describe(self.prepare),
            "net": _describe(self.net),
        }

    @classmethod
    def build(cls, about: Mapping[str, Any]) -> Self:
        """A module as `describe` gave it, its tensors still to be loaded.

        Raises
        ------
        WeightsError
            If it is no such description.
        """
        try:
            return cls(
                _build(about["prepare"]),
                _build(about["net"]),
                kind=about["kind"],
                link=about["link"],
                num_features=about["num_features"],
                classes=tuple(about["classes"]),
                maps=about["maps"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"not the description of a head that this version can build ({error})"
            ) from error


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


class Neighbours(nn.Module):
    """Weighted mean of what is known of the k rows of highest cosine similarity; has no parameters.

    Parameters
    ----------
    rows_MD : float tensor
        Of unit length.
    known_MK : float tensor
        What is known of each: one-hot classes, or a number.
    k : int
    weights : str
        ``softmax`` of similarity over `temperature`, ``distance`` or ``uniform``.
    """

    rows: torch.Tensor
    known: torch.Tensor

    def __init__(
        self, rows_MD: torch.Tensor, known_MK: torch.Tensor, *, k: int, weights: str, temperature: float
    ) -> None:
        super().__init__()
        self.register_buffer("rows", rows_MD)
        self.register_buffer("known", known_MK)
        self.k, self.weights, self.temperature = k, weights, temperature

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        near_Nk, nearest_Nk = (x_ND @ self.rows.T).topk(min(self.k, self.rows.shape[0]), dim=1)
        if self.weights == "softmax":
            weight_Nk = (near_Nk / self.temperature).softmax(dim=1)
        else:
            raw_Nk = (
                torch.ones_like(near_Nk)
                if self.weights == "uniform"
                else 1.0 / (1.0 - near_Nk).clamp(min=1e-6)
            )
            weight_Nk = raw_Nk / raw_Nk.sum(dim=1, keepdim=True)
        return (self.known[nearest_Nk] * weight_Nk[..., None]).sum(dim=1)


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
        params: Mapping[str, torch.Tensor],
        *,
        mean: float,
        std: float,
        places: tuple[int, ...] | None,
        kind: str,
    ) -> None:
        super().__init__()
        self.stack = net
        self._names = {name: name.replace(".", "_") for name in params}
        for name, value in params.items():
            self.register_parameter(self._names[name], nn.Parameter(value))
        self.mean, self.std, self.places, self.kind = mean, std, places, kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        params = {name: getattr(self, own)[None] for name, own in self._names.items()}
        out_KM = self.stack.outputs(params, x)[0]
        if self.kind in ("number", "dense_number"):
            out_KM = out_KM * self.std + self.mean
        if self.places is None:
            return out_KM[0] if self.kind == "number" and len(out_KM) == 1 else out_KM.T
        out_NKYX = out_KM.reshape(out_KM.shape[0], x.shape[0], *self.places).movedim(0, 1)
        return out_NKYX[:, 0] if self.kind == "dense_number" else out_NKYX

    def describe(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {
            "net": type(self.stack).__name__,
            "fields": dataclasses.asdict(self.stack),  # type: ignore[call-overload]
            "params": {name: list(getattr(self, own).shape) for name, own in self._names.items()},
            "mean": self.mean,
            "std": self.std,
            "places": None if self.places is None else list(self.places),
            "kind": self.kind,
        }

    @classmethod
    def build(cls, about: Mapping[str, Any]) -> Self:
        """As `describe` gave it."""
        net = getattr(importlib.import_module(_NETS[about["net"]]), about["net"])
        fields = {name: tuple(one) if isinstance(one, list) else one for name, one in about["fields"].items()}
        return cls(
            net(**fields),
            {name: torch.zeros(shape) for name, shape in about["params"].items()},
            mean=about["mean"],
            std=about["std"],
            places=None if about["places"] is None else tuple(about["places"]),
            kind=about["kind"],
        )


_PLAIN: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "unit_length": UnitLength,
    "log_sigmoid": LogSigmoid,
    "one_column": OneColumn,
}


def _describe(module: nn.Module) -> list[Any]:
    """Layers in order, each a list of its name and what it is built with."""
    if isinstance(module, nn.Sequential):
        return ["sequence", [_describe(layer) for layer in module]]
    if isinstance(module, nn.Linear):
        return ["linear", module.in_features, module.out_features]
    if isinstance(module, Scale):
        return ["scale", list(module.mean.shape)]
    if isinstance(module, StackMember):
        return ["stack", module.describe()]
    if isinstance(module, Neighbours):
        shapes = [list(module.rows.shape), list(module.known.shape)]
        return ["neighbours", *shapes, module.k, module.weights, module.temperature]
    return [next(name for name, layer in _PLAIN.items() if type(module) is layer)]


def _build(about: list[Any]) -> nn.Module:
    name, *values = about
    if name in _PLAIN:
        return _PLAIN[name]()
    makers: dict[str, Callable[..., nn.Module]] = {
        "sequence": lambda layers: nn.Sequential(*(_build(layer) for layer in layers)),
        "linear": nn.Linear,
        "scale": lambda shape: Scale(torch.zeros(shape), torch.ones(shape)),
        "stack": StackMember.build,
        "neighbours": lambda rows, known, k, weights, temperature: Neighbours(
            torch.zeros(rows), torch.zeros(known), k=k, weights=weights, temperature=temperature
        ),
    }
    return makers[name](*values)
