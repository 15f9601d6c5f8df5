"""The target network from a place on: where it may begin, what shape is expected there, and the part behind it.

Traces with the project's own graphs, so that places have the names that taps have.
"""

# N samples, C channels, H W rows and columns

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx, nn

from embedpipe.backbones.graph import ModelGraph
from embedpipe.errors import ConfigError, ShapeError
from embedpipe.params import did_you_mean

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tail:
    """A network from a place on.

    Attributes
    ----------
    place : str
        Node whose output is replaced.
    shape : tuple of int
        Of one sample there.
    module : GraphModule
        From that to the network's output; it shares the network's parameters.
    """

    place: str
    shape: Shape
    module: fx.GraphModule


def tail_of(target: nn.Module, input_shape: Shape, place: str | None, source: Shape) -> Tail:
    """Cut the target.

    Parameters
    ----------
    input_shape
        (C, H, W) of an image that the target takes.
    place
        Node or module whose output the mapped features are; None: chosen by the shape of the features. For maps the
        main stage before the last one whose size is nearest; for vectors the last place of a vector that has
        weights behind it.
    source
        Shape of one sample's features.

    Raises
    ------
    ConfigError
        If the target cannot be traced, has no such place, or something leads around it.
    ShapeError
        If the target does not take such images.
    """
    graph = _graph(target, input_shape)
    if place is None:
        place = _chosen(graph, source)
    elif place not in graph:
        raise ConfigError(
            f"target_at: the target has no layer {place!r}{did_you_mean(place, graph.names())}; its main stages: "
            f"{', '.join(graph.block_names)}"
        )
    elif not _is_cut(graph, place):
        raise ConfigError(
            f"target_at: something leads around {place!r}, such as a shortcut, so the target cannot begin there; "
            f"places where it can: {', '.join(name for name in graph.block_names if _is_cut(graph, name)) or 'none'}"
        )
    return Tail(place, graph.info(place).shape, _behind(graph, target, place))


def _graph(target: nn.Module, input_shape: Shape) -> ModelGraph:
    was_training = target.training
    target.eval()
    try:
        return ModelGraph(target, (input_shape[0], input_shape[1], input_shape[2]))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ShapeError(
            f"target_model: takes no images of shape {input_shape} ({str(error).strip().splitlines()[0][:160]}); give "
            "the loaders another size, or name one that it takes with target_input_shape"
        ) from error
    except (TypeError, fx.proxy.TraceError) as error:
        raise ConfigError(
            f"target_model: cannot be traced ({str(error).strip().splitlines()[0][:160]}), so it cannot begin in the "
            "middle; give a network without branches on values"
        ) from error
    finally:
        target.train(was_training)


def _chosen(graph: ModelGraph, source: Shape) -> str:
    if len(source) == 3:
        stages = [
            name for name in graph.block_names if len(graph.info(name).shape) == 3 and _is_cut(graph, name)
        ]
        if stages:
            able = stages[:-1] or stages

            def distance(name: str) -> float:
                side = math.sqrt(math.prod(graph.info(name).shape[1:]))
                return abs(math.log(side / math.sqrt(math.prod(source[1:]))))

            # the deepest of the nearest: less to learn
            return min(reversed(able), key=distance)
    else:
        vectors = [info.name for info in graph.infos if len(info.shape) == 1 and _is_cut(graph, info.name)]
        able = [name for name in vectors if _has_weights(graph, name)]
        if able:
            return able[-1]
    raise ConfigError(
        f"target_at: no place of the target fits features of shape {source}; name one: {', '.join(graph.block_names)}"
    )


def _after(graph: ModelGraph, place: str) -> list[fx.Node]:
    """Nodes behind a place that the output needs."""
    nodes = list(graph.graph.nodes)
    start = graph.node(place)
    needed, stack = set(), [nodes[-1]]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(one for one in node.all_input_nodes if one is not start)
    return [node for node in nodes if node in needed]


def _is_cut(graph: ModelGraph, place: str) -> bool:
    """Whether the output hangs on the input through this place alone."""
    after = _after(graph, place)
    start = graph.node(place)
    reaches = any(start in node.all_input_nodes for node in after)
    return reaches and not any(node.op == "placeholder" for node in after)


def _has_weights(graph: ModelGraph, place: str) -> bool:
    return bool(list(_behind(graph, graph.module, place).parameters()))


def _behind(graph: ModelGraph, target: nn.Module, place: str) -> fx.GraphModule:
    behind = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {graph.node(place): behind.placeholder("mapped")}
    for node in _after(graph, place):
        copies[node] = behind.node_copy(node, lambda source: copies[source])
    return fx.GraphModule(target, behind, "Tail")


def num_outputs(tail: Tail, device: torch.device) -> int:
    """Outputs of the target, found by asking it.

    Raises
    ------
    ShapeError
        If it does not give one row of outputs a sample.
    """
    tail.module.eval()
    with torch.inference_mode():
        found = tail.module(torch.zeros((2, *tail.shape), device=device))
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ShapeError(f"target_model: expected outputs of shape (samples, outputs), found {shape}")
    return int(found.shape[1])
