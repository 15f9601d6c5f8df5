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

# operations whose output has other axes than either input
_MIXING = ("matmul", "bmm", "einsum", "baddbmm", "scaled_dot_product_attention", "stack")


@dataclass(frozen=True)
class Factor:
    """A part of an axis: a reshape may split an axis into several and put them together again.

    Attributes
    ----------
    letter : str
        Meaning of the axis it was split from.
    place : tuple of int
        Which part it is, outermost first; empty for a whole axis.
    size : int
    """

    letter: str
    place: tuple[int, ...]
    size: int


Axis = tuple[Factor, ...]


@dataclass(frozen=True)
class Axes:
    """What is known of a node's output.

    Attributes
    ----------
    shape : tuple of int
        With N.
    axes : tuple of Axis
        What each axis is made of.
    num_patches : int or None
        Tokens that come from places of a map, where there is an axis of tokens.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    num_patches: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Meaning of each axis, ``?`` where it is not known."""
        return tuple(map(_label, self.axes))

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
    shadow = on_meta(module)
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
            axes = _whole("NCHW", shape) if n.op == "placeholder" else self._axes_of(n, shape)
            self.axes[n] = Axes(shape, axes, self._num_patches(n, Axes(shape, axes)))
        return value

    def _axes_of(self, node: fx.Node, shape: tuple[int, ...]) -> tuple[Axis, ...]:
        sources = [self.axes[source] for source in node.all_input_nodes if source in self.axes]
        owner = self.submodules[str(node.target)] if node.op == "call_module" else None
        operation = _operation(node, owner)
        if len(shape) == 4 and isinstance(owner, nn.Conv2d):
            return _whole("NCHW", shape)
        if not sources or operation in _MIXING:
            return _whole("?" * len(shape), shape)
        first = sources[0].axes
        dims = _dims(node, owner)
        if operation == "permute" and len(dims) == len(shape):
            return tuple(first[dim] for dim in dims)
        if operation in ("transpose", "swapaxes") and len(dims) == 2:
            swapped = list(first)
            swapped[dims[0]], swapped[dims[1]] = swapped[dims[1]], swapped[dims[0]]
            return tuple(swapped)
        if operation in ("flatten", "reshape", "view", "unflatten"):
            return _regrouped(first, shape)
        if operation == "getitem" and isinstance(node.args[1], tuple):
            return _indexed(first, node.args[1], shape)
        if operation in ("mean", "sum", "amax") and dims and len(shape) < len(first):
            dropped = {dim % len(first) for dim in dims}
            return tuple(axis for place, axis in enumerate(first) if place not in dropped)
        return _inherited(sources, shape)

    def _num_patches(self, node: fx.Node, found: Axes) -> int | None:
        if "T" not in found.labels:
            return None
        sources = [self.axes[source] for source in node.all_input_nodes if source in self.axes]
        if any(source.layout in ("NCHW", "NHWC") for source in sources):
            return found.shape[found.labels.index("T")]
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


def _whole(letters: str, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    return tuple((Factor(letter, (), size),) for letter, size in zip(letters, shape, strict=True))


def _label(axis: Axis) -> str:
    """Meaning of an axis: of one letter with its parts in order, tokens (places of a map), or channels."""
    if not axis:
        return "1"  # an axis of size 1 that a reshape has put in
    letters = {factor.letter for factor in axis}
    if len(letters) == 1:
        letter = axis[0].letter
        ordered = letter == "C" or [part.place for part in axis] == sorted(part.place for part in axis)
        return letter if ordered else "?"
    if letters <= {"H", "W", "T"}:
        return "T"
    return "C" if axis[0].letter == "C" else "?"


def _inherited(sources: Sequence[Axes], shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes of the input of the same shape that is known best, else the meanings of the largest as deep."""
    same = [source for source in sources if source.shape == shape]
    if same:
        return min(same, key=lambda source: source.labels.count("?")).axes
    alike = [source for source in sources if len(source.shape) == len(shape)]
    if not alike:
        return _whole("?" * len(shape), shape)
    nearest = min(alike, key=lambda source: (source.labels.count("?"), -math.prod(source.shape)))
    return tuple(
        axis if math.prod(part.size for part in axis) == size else (Factor(label, (), size),)
        for axis, label, size in zip(nearest.axes, nearest.labels, shape, strict=True)
    )


def _indexed(axes: tuple[Axis, ...], index: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes after ``x[:, 0]`` and the like."""
    if Ellipsis in index:
        place = index.index(Ellipsis)
        missing = len(axes) - (len(index) - 1)
        index = (*index[:place], *[slice(None)] * missing, *index[place + 1 :])
    kept = [axis for place, axis in enumerate(axes) if place >= len(index) or isinstance(index[place], slice)]
    if len(kept) != len(shape):
        return _whole("?" * len(shape), shape)
    return _whole("".join(map(_label, kept)), shape)


def _regrouped(axes: tuple[Axis, ...], shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes after a reshape: factors in their order, split where an axis is, joined where axes are."""
    unknown = _whole("?" * len(shape), shape)
    left = [factor for axis in axes for factor in axis]
    found: list[Axis] = []
    for size in shape:
        taken: list[Factor] = []
        product = 1
        while left and (product < size or (not taken and left[0].size == 1)):
            factor, needed = left[0], size // product
            if factor.size > needed:
                if needed == 0 or factor.size % needed or size % product:
                    return unknown
                inner = Factor(factor.letter, (*factor.place, 1), factor.size // needed)
                factor = Factor(factor.letter, (*factor.place, 0), needed)
                left[0] = inner
            else:
                left.pop(0)
            taken.append(factor)
            product *= factor.size
        if product != size:
            return unknown
        found.append(tuple(taken))
    if any(factor.size != 1 for factor in left):
        return unknown
    found[-1] = (*found[-1], *left)
    labels = [_label(axis) for axis in found]
    # an axis put together again is whole, and may be split elsewhere next time
    return tuple(
        (Factor(label, (), size),) if label in "NCHW" and labels.count(label) == 1 else axis
        for axis, label, size in zip(found, labels, shape, strict=True)
    )


def _first_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (tuple, list)):
        return next((item for item in value if isinstance(item, torch.Tensor)), None)
    return None


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of a module on the meta device, made without copying its tensors."""
    memo: dict[int, Any] = {
        id(value): nn.Parameter(value.to("meta"), requires_grad=False) for value in module.parameters()
    }
    memo |= {id(value): value.to("meta") for value in module.buffers()}
    return copy.deepcopy(module, memo)
