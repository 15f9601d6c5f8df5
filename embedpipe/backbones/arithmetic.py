"""Arithmetic of a forward pass: its precision, and a traced model made ready for less than float32.

Knows nothing of taps, weights files or preprocessing.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context a forward pass runs in: autocast to `dtype`, or float32 without shortcuts."""
    if dtype is not torch.float32:
        return torch.autocast(device.type, dtype=dtype)
    if device.type == "cuda":
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    return nullcontext()


def lowered(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy for autocast at `dtype`: batch norms folded, weights of convolutions and linear layers cast.

    Autocast would cast the weights at each batch; folding spares a pass over each map. Arithmetic is otherwise
    autocast's own.

    Parameters
    ----------
    model : nn.Module
        In eval mode; not changed. Norms are folded where it is a traced graph.
    dtype : torch.dtype
        ``bfloat16`` or ``float16``.
    """
    model = copy.deepcopy(model)
    if isinstance(model, fx.GraphModule):
        model = _folded(model)
    for part in model.modules():
        if isinstance(part, (*_CONVOLUTIONS, nn.Linear)):
            part.to(dtype)
    return model


def _folded(model: fx.GraphModule) -> fx.GraphModule:
    """Each batch norm that alone reads a convolution becomes part of it. Modules that run twice are left."""
    modules = dict(model.named_modules())
    calls = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    for node in list(model.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        once = calls.count(str(node.target)) == calls.count(str(before.target)) == 1
        if not (once and isinstance(norm, _BATCH_NORMS) and isinstance(convolution, _CONVOLUTIONS)):
            continue
        if norm.running_mean is None:
            continue
        parent, _, name = str(before.target).rpartition(".")
        setattr(model.get_submodule(parent), name, fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(before)
        model.graph.erase_node(node)
    model.recompile()
    return model
