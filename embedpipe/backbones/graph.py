"""The graph of a model: its nodes, their shapes and layouts, and the part of it that given taps need.

Traces with torchvision's feature extraction, so that node names are those of its documentation.
Knows nothing of weights, preprocessing or params.yaml.
"""

# N samples, C channels, H W height and width, T tokens, D features

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, cast

import torch
import torchvision
from torch import fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from embedpipe.backbones.layouts import Axes, propagate_axes
from embedpipe.reduce import Layout, Reduction


@dataclass(frozen=True)
class NodeInfo:
    """One place that can be tapped.

    Attributes
    ----------
    name : str
        Graph node name.
    shape : tuple of int
        Shape of one sample's output, without N.
    layout : Layout
        Order of its axes.
    nbytes_float16 : int
        Bytes of one sample's whole output when stored as float16.
    depth : float
        Place in the order of computation: 0 at the input, 1 at the model's output.
    num_prefix : int
        Tokens before the patch tokens (the class token of a ViT); 0 elsewhere.
    modules : tuple of str
        Modules whose output this node is, outermost first; each of these names means this node too.
    is_block : bool
        Whether it is the output of one of the main stages, which ``blocks`` stands for.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    nbytes_float16: int
    depth: float
    num_prefix: int = 0
    modules: tuple[str, ...] = ()
    is_block: bool = False


class ModelGraph:
    """A traced model in eval mode.

    Parameters
    ----------
    module : nn.Module
        In eval mode; its parameters are shared, never copied.
    input_shape : tuple of int
        (C, H, W) of one preprocessed sample.
    """

    def __init__(self, module: nn.Module, input_shape: tuple[int, int, int]) -> None:
        tracer = NodePathTracer(autowrap_modules=(math, torchvision.ops), leaf_modules=_op_modules())
        self.graph: fx.Graph = tracer.trace(module)
        self.module = module
        self.input_shape = input_shape
        self._names: dict[fx.Node, str] = dict(tracer.node_to_qualname)
        self._axes = propagate_axes(module, self.graph, input_shape)
        order = [node for node in self.graph.nodes if node.op not in ("placeholder", "output")]
        depths = {node: (place + 1) / len(order) for place, node in enumerate(order)}
        tappable = [node for node in order if node in self._axes]
        outputs = _module_outputs([(node, self._names[node]) for node in tappable])
        modules_of: dict[fx.Node, list[str]] = {}
        for module_name, node in outputs.items():
            modules_of.setdefault(node, []).append(module_name)
        self._by_name: dict[str, fx.Node] = {self._names[node]: node for node in tappable}
        self._by_module = {name: node for name, node in outputs.items() if name not in self._by_name}
        self.block_names: tuple[str, ...] = tuple(
            name for name in block_names(module) if name in self._by_name or name in self._by_module
        )
        if not self.block_names:
            self.block_names = self._top_level_maps()
        self.block_modules = self.block_names
        blocks = {self.node(name) for name in self.block_names}
        self.infos: tuple[NodeInfo, ...] = tuple(
            _node_info(
                self._names[node],
                self._axes[node],
                depths[node],
                tuple(sorted(set(modules_of.get(node, [])) - {self._names[node]}, key=len)),
                node in blocks,
            )
            for node in tappable
        )
        self._info_of = dict(zip(tappable, self.infos, strict=True))

    def __contains__(self, name: str) -> bool:
        return name in self._by_name or name in self._by_module

    def names(self) -> list[str]:
        """Every name that can be tapped: nodes, and modules that stand for their output node."""
        return [*self._by_name, *self._by_module]

    def node(self, name: str) -> fx.Node:
        """Graph node of a node or module name."""
        return self._by_name[name] if name in self._by_name else self._by_module[name]

    def info(self, name: str) -> NodeInfo:
        """Shape and layout of a node, or of the output node of a module."""
        info: NodeInfo = self._info_of[self.node(name)]
        return info

    def check(self, names: Iterable[str], where: str) -> None:
        """Any node can be tapped."""

    def used_parameters(self, names: Iterable[str]) -> set[str]:
        """Names of parameters and buffers that the forward pass up to the deepest of `names` reads."""
        prefixes = {str(node.target) for node in self._upto(names) if node.op in ("call_module", "get_attr")}
        return {
            key
            for key in self.module.state_dict()
            if any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
        }

    def truncated(self, taps: Sequence[tuple[str, str, Reduction]]) -> fx.GraphModule:
        """The forward pass that ends at the deepest tap, with each reduction right behind its node.

        Parameters
        ----------
        taps : sequence of (array name, node name, reduction)

        Returns
        -------
        GraphModule
            Shares the model's parameters; maps (N, C, H, W) to a dict of array name to float32 features.
            Maps are freed as soon as they are reduced, and in-place operations behind a tap can't reach it.
        """
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        reducers: dict[str, nn.Module] = {}
        results: dict[str, fx.Node] = {}
        wanted: dict[fx.Node, list[tuple[str, Reduction]]] = {}
        for array, name, reduction in taps:
            wanted.setdefault(self.node(name), []).append((array, reduction))
        for node in self._upto([name for _, name, _ in taps]):
            copies[node] = graph.node_copy(node, lambda source: copies[source])
            info = self._info_of.get(node)
            for array, reduction in wanted.get(node, []):
                assert info is not None
                target = f"embedpipe_reduce_{len(reducers)}"
                reducers[target] = Reducer(reduction, info.layout, info.num_prefix)
                results[array] = graph.call_module(target, (copies[node],))
        graph.output({array: results[array] for array, _, _ in taps})
        owned = {
            str(node.target): reducers.get(str(node.target)) or _attribute(self.module, str(node.target))
            for node in graph.nodes
            if node.op in ("call_module", "get_attr")
        }
        return fx.GraphModule(owned, graph, "Truncated").eval()

    def compiled(self, model: nn.Module) -> nn.Module:
        """Let `torch.compile` make kernels for a truncated model."""
        return cast(nn.Module, torch.compile(model))

    def _upto(self, names: Iterable[str]) -> list[fx.Node]:
        """Nodes in order up to the deepest of `names`, without those that none of them needs."""
        ends = {self.node(name) for name in names}
        needed: set[fx.Node] = set()
        stack = list(ends)
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                stack.extend(node.all_input_nodes)
        return [node for node in self.graph.nodes if node in needed]

    def _top_level_maps(self) -> tuple[str, ...]:
        children = [name for name, _ in self.module.named_children() if name in self]
        maps = [name for name in children if self._axes[self.node(name)].layout in ("NCHW", "NHWC", "NTD")]
        return tuple(maps or children) or tuple(list(self._by_name)[-1:])


class Reducer(nn.Module):
    """A reduction as a module of the truncated graph."""

    def __init__(self, reduction: Reduction, layout: Layout, num_prefix: int) -> None:
        super().__init__()
        self.reduction, self.layout, self.num_prefix = reduction, layout, num_prefix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reduction.apply(x, self.layout, num_prefix=self.num_prefix)


def block_names(module: nn.Module) -> tuple[str, ...]:
    """Names of a model's main stages, in order; empty where its shape is not known.

    ``layer1…`` of ResNets, ``encoder.layers`` of ViT, ``features`` of Swin, ConvNeXt and EfficientNet (of
    VGG and AlexNet: its pooling layers), ``trunk_output`` of RegNet, ``blocks`` of MaxViT and of timm's ViT,
    ``stage2…`` of ShuffleNet, ``stages`` of timm's ConvNeXt, ``layers`` of MNASNet, ``block1…`` of glyphnet.
    """
    for pattern in (r"layer[0-9]+", r"block[0-9]+", r"stage[0-9]+"):
        numbered = [name for name, _ in module.named_children() if re.fullmatch(pattern, name)]
        if numbered:
            return tuple(numbered)
    for path in ("encoder.layers", "features", "trunk_output", "blocks", "stages", "layers"):
        try:
            stack = module.get_submodule(path)
        except AttributeError:
            continue
        children = list(stack.named_children())
        stages = [name for name, child in children if any(child.children())]
        pools = [name for name, child in children if isinstance(child, nn.MaxPool2d)]
        if stages or pools:
            return tuple(f"{path}.{name}" for name in stages or pools)
    return ()


def expand_selector(selector: str, block_names: Sequence[str]) -> list[str]:
    """Node names that ``blocks``, ``last`` or ``every:n`` stand for; any other selector stands for itself.

    ``every:n`` counts back from the last block, so that the deepest is always among them.
    """
    if selector == "blocks":
        return list(block_names)
    if selector == "last":
        return [block_names[-1]]
    if selector.startswith("every:"):
        return list(block_names)[:: -int(selector.removeprefix("every:"))][::-1]
    return [selector]


def _node_info(name: str, axes: Axes, depth: float, modules: tuple[str, ...], is_block: bool) -> NodeInfo:
    shape = axes.shape[1:]
    return NodeInfo(name, shape, axes.layout, 2 * math.prod(shape), depth, axes.num_prefix, modules, is_block)


def _module_outputs(nodes: Sequence[tuple[fx.Node, str]]) -> dict[str, fx.Node]:
    """For every module on the path of a node, its last node in order of computation."""
    outputs: dict[str, fx.Node] = {}
    for node, name in nodes:
        parts = name.split(".")
        for length in range(1, len(parts)):
            outputs[".".join(parts[:length])] = node
    return outputs


def _op_modules() -> list[type[nn.Module]]:
    """Modules of `torchvision.ops`, which are one node each, as in torchvision's own feature extraction."""
    classes = (item for _, item in inspect.getmembers(torchvision.ops, inspect.isclass))
    return [item for item in classes if issubclass(item, nn.Module)]


def _attribute(module: nn.Module, path: str) -> Any:
    return reduce(getattr, path.split("."), module)
