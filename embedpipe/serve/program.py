"""A network as `torch.export` writes it: what its outputs need alone, so that nothing behind the deepest tap is kept.

Programs are read as data: a file that could run code is refused before torch sees it.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from embedpipe.backbones.programs import check_harmless
from embedpipe.errors import WeightsError

Program = torch.export.ExportedProgram


def export(module: nn.Module, example: tuple[torch.Tensor, ...], sizes: list[dict[int, Any]]) -> Program:
    """A network for batches of any size.

    Parameters
    ----------
    example
        One batch for each input.
    sizes
        Which dimensions of each input may differ from the example, by number.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own making, and none of the user's concern
        return torch.export.export(module, example, dynamic_shapes=(tuple(sizes),), strict=False)


def export_needed(
    module: nn.Module, example: tuple[torch.Tensor, ...], sizes: list[dict[int, Any]]
) -> Program:
    """`export` of a model that computes more than it gives, without what it gives nothing of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # without operations that write in place, what an output is made of can be followed back
        whole = export(module, example, sizes).run_decompositions({})
        graph_module: Any = whole.module()
        _drop_unneeded(graph_module)
        return torch.export.export(graph_module, example, dynamic_shapes=tuple(sizes), strict=False)


def _drop_unneeded(graph_module: fx.GraphModule) -> None:
    nodes = list(graph_module.graph.nodes)
    needed: set[fx.Node] = set()
    waiting = [node for node in nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    for node in reversed(nodes):
        if node not in needed and node.op != "placeholder":
            graph_module.graph.erase_node(node)
    used = {str(node.target) for node in needed if node.op == "get_attr"}
    for name, value in [*graph_module.named_parameters(), *graph_module.named_buffers()]:
        owner, _, attribute = name.rpartition(".")
        part = graph_module.get_submodule(owner)
        if name not in used:
            delattr(part, attribute)
        elif isinstance(value, nn.Parameter):  # a copy, since the weights are the backbone's own
            setattr(part, attribute, nn.Parameter(value.detach().clone().contiguous(), requires_grad=False))
    graph_module.recompile()


def save(program: Program, path: Path) -> None:
    """Write a program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)


def read(path: Path, data: bytes, where: str) -> Program:
    """Read a program.

    Parameters
    ----------
    data
        What the file holds, which was compared with its digest.

    Raises
    ------
    WeightsError
        If it is damaged, of another version of torch, or could run code.
    """
    check_harmless(path, where)
    try:
        return torch.export.load(io.BytesIO(data))
    except Exception as error:
        raise WeightsError(
            f"{where}: {path} could not be loaded by torch {torch.__version__} ({_first_line(error)}); bundle the arm "
            "again with this version"
        ) from error


def on_device(program: Program, device: torch.device) -> nn.Module:
    """The network, on a device."""
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__
