"""Shapes and meanings of axes at every node of a traced model, found without computing anything.

Runs the graph on torch's meta device, and carries the meaning of each axis (batch, channel, height, width,
token) from the input through every operation. What cannot be told is called so, never guessed.
"""

# N samples, C channels, H W height and width, T tokens, D features, ? not known

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import fx, nn

from embedpipe.reduce import Layout

_NCHW = ("N", "C", "H", "W")


@dataclass(frozen=True)
class Axes:
    """What is known of a node's output: meaning of its axes, and the number of image patches in T."""

    shape: tuple[int, ...]
    labels: tuple[str, ...]
    num_patches: int | None = None

    @property
    def layout(self) -> Layout:
        """Layout that reductions know."""
        match self.labels:
            case ("N", "C", "H", "W"):
                return "NCHW"
            case ("N", "H", "W", "C"):
                return "NHWC"
            case ("N", "T", "C"):
                return "NTD"
            case (_, _):
                return "ND"
            case _:
                return "other"

    @property
    def num_prefix(self) -> int:
        """Tokens before the patch tokens, such as a class token."""
        if self.layout != "NTD" or self.num_patches is None:
            return 0
        return max(0, self.shape[1] - self.num_patches)


def propagate_axes(
    module: nn.Module, graph: fx.Graph, input_shape: tuple[int, int, int]
) -> dict[fx.Node, Axes]:
    """Axes of every node whose output is one float tensor with a row a sample.

    Parameters
    ----------
    module : nn.Module
        In eval mode; not changed, and no tensor of it is copied.
    graph : fx.Graph
        Its trace.
    input_shape : tuple of int
        (C, H, W).
    """
    shadow = _on_meta(module)
    two, three = (AxesInterpreter(shadow, graph) for _ in range(2))
    two.run(torch.empty((2, *input_shape), device="meta"))
    three.run(torch.empty((3, *input_shape), device="meta"))
    return {
        node: axes
        for node, axes in two.axes.items()
        if node.op not in ("placeholder", "output", "get_attr")
        and node in two.single
        and axes.shape[:1] == (2,)
        and three.axes[node].shape == (3, *axes.shape[1:])
        and len(axes.shape) >= 2
    }


class AxesInterpreter(fx.Interpreter):
    """Runs a graph on meta tensors and notes the axes of every node."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)
        self.axes: dict[fx.Node, Axes] = {}
        self.single: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            value = value.to("meta")
            if value.is_floating_point():
                self.single.add(n)
        first = _first_tensor(value)
        if first is not None and n.op not in ("get_attr", "output"):
            shape = tuple(first.shape)
            labels = _NCHW if n.op == "placeholder" else self._labels(n, shape)
            self.axes[n] = Axes(shape, labels, self._num_patches(n, shape, labels))
        return value

    def _labels(self, node: fx.Node, shape: tuple[int, ...]) -> tuple[str, ...]:
        sources = [self.axes[source] for source in node.all_input_nodes if source in self.axes]
        owner = self.submodules[str(node.target)] if node.op == "call_module" else None
        if len(shape) == 4 and isinstance(owner, nn.Conv2d):
            return _NCHW
        if not sources:
            return ("?",) * len(shape)
        operation = _operation(node, owner)
        dims = _dims(node, owner)
        if operation == "permute" and dims and len(dims) == len(shape):
            return tuple(sources[0].labels[dim] for dim in dims)
        if operation in ("transpose", "swapaxes") and len(dims) == 2:
            labels = list(sources[0].labels)
            labels[dims[0]], labels[dims[1]] = labels[dims[1]], labels[dims[0]]
            return tuple(labels)
        if operation in ("flatten", "reshape", "view", "unflatten"):
            return _regrouped(sources[0], shape)
        if operation == "getitem" and isinstance(node.args[1], tuple):
            return _indexed(sources[0], node.args[1], len(shape))
        if operation in ("mean", "sum", "amax") and dims and len(shape) < len(sources[0].labels):
            dropped = {dim % len(sources[0].labels) for dim in dims}
            return tuple(label for place, label in enumerate(sources[0].labels) if place not in dropped)
        return _inherited(sources, shape)

    def _num_patches(self, node: fx.Node, shape: tuple[int, ...], labels: tuple[str, ...]) -> int | None:
        sources = [self.axes[source] for source in node.all_input_nodes if source in self.axes]
        if "T" not in labels:
            return None
        if any(source.layout in ("NCHW", "NHWC") for source in sources):
            return shape[labels.index("T")]
        return next((source.num_patches for source in sources if source.num_patches is not None), None)


def _operation(node: fx.Node, owner: nn.Module | None) -> str:
    if owner is not None:
        return type(owner).__name__.lower()
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return str(node.target)


def _dims(node: fx.Node, owner: nn.Module | None) -> tuple[int, ...]:
    """Axes that a permutation, transposition or mean names; empty where they are no plain numbers."""
    if isinstance(owner, torchvision.ops.Permute):
        return tuple(owner.dims)
    found: Any = node.args[1:] or node.kwargs.get("dims", node.kwargs.get("dim", ()))
    if isinstance(found, Sequence) and len(found) and isinstance(found[0], Sequence):
        found = found[0]
    found = found if isinstance(found, Sequence) else (found,)
    return tuple(found) if all(type(dim) is int for dim in found) else ()


def _inherited(sources: Sequence[Axes], shape: tuple[int, ...]) -> tuple[str, ...]:
    """Labels of the input of the same shape, else of the largest one with as many axes."""
    same = [source for source in sources if source.shape == shape]
    alike = same or [source for source in sources if len(source.shape) == len(shape)]
    if not alike:
        return ("?",) * len(shape)
    return max(alike, key=lambda source: (-source.labels.count("?"), math.prod(source.shape))).labels


def _indexed(source: Axes, index: tuple[Any, ...], ndim: int) -> tuple[str, ...]:
    """Labels after ``x[:, 0]`` and the like."""
    labels: list[str] = []
    if Ellipsis in index:
        place = index.index(Ellipsis)
        missing = len(source.labels) - (len(index) - 1)
        index = (*index[:place], *[slice(None)] * missing, *index[place + 1 :])
    for place, label in enumerate(source.labels):
        if place >= len(index) or isinstance(index[place], slice):
            labels.append(label)
    return tuple(labels) if len(labels) == ndim else ("?",) * ndim


def _regrouped(source: Axes, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Labels after a reshape, where axes are kept or joined; height and width joined are tokens."""
    labels: list[str] = []
    before = list(zip(source.shape, source.labels, strict=True))
    for place, size in enumerate(shape):
        joined: list[str] = []
        product = 1
        while before and (product < size or not joined) and product * before[0][0] <= size:
            product *= before[0][0]
            joined.append(before.pop(0)[1])
        if place == len(shape) - 1 and product == size:
            joined.extend(label for _, label in before)
            before = [] if all(length == 1 for length, _ in before) else before
        if product != size:
            return (*labels, *("?",) * (len(shape) - len(labels)))
        labels.append(_joined(joined))
    return tuple(labels) if not before else ("?",) * len(shape)


def _joined(labels: list[str]) -> str:
    if len(labels) == 1:
        return labels[0]
    return "T" if set(labels) == {"H", "W"} else ("C" if labels[:1] == ["C"] else "?")


def _first_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (tuple, list)):
        return next((item for item in value if isinstance(item, torch.Tensor)), None)
    return None


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy of a module on the meta device, made without copying its tensors."""
    memo: dict[int, Any] = {
        id(value): nn.Parameter(value.to("meta"), requires_grad=False) for value in module.parameters()
    }
    memo |= {id(value): value.to("meta") for value in module.buffers()}
    return copy.deepcopy(module, memo)
