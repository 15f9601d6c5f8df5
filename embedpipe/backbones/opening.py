"""Open the model that options name: its module with weights, how its input is made, and what can be tapped.

Each family has a module of its own, imported when it is named.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from embedpipe.backbones.graph import ModelGraph, NodeInfo
from embedpipe.backbones.inputs import Inputs
from embedpipe.backbones.models import build_seeded, open_architecture
from embedpipe.backbones.options import BackboneOptions
from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.backbones.weights import load_weights
from embedpipe.errors import ConfigError
from embedpipe.reduce import Reduction

# family -> function of (options, root, where, with_weights) that gives an `Opened`
_FAMILIES = {
    "transformers": "embedpipe.backbones.huggingface:open_transformers",
    "timm": "embedpipe.backbones.timm_models:open_timm",
    "python": "embedpipe.backbones.custom:open_factory",
    "pt2": "embedpipe.backbones.programs:open_program",
}


class Graph(Protocol):
    """What can be tapped in a model, traced or hooked."""

    infos: tuple[NodeInfo, ...]
    block_names: tuple[str, ...]
    block_modules: tuple[str, ...]

    def __contains__(self, name: str) -> bool: ...

    def names(self) -> list[str]: ...

    def info(self, name: str) -> NodeInfo: ...

    def check(self, names: Iterable[str], where: str) -> None: ...

    def used_parameters(self, names: Iterable[str]) -> set[str]: ...

    def truncated(self, taps: Sequence[tuple[str, str, Reduction]]) -> nn.Module: ...

    def compiled(self, model: nn.Module) -> nn.Module: ...


@dataclass(frozen=True)
class Opened:
    """A model, frozen and in eval mode.

    Attributes
    ----------
    architecture : str
        Name with structural options, for the store's spec.
    missing : frozenset of str
        Tensors that hold no loaded weights: no tap may read them.
    origin : dict of str -> str
        Where it comes from and under which licence, as far as that is known.
    has_norm : bool
        Whether `norm` has a meaning for it.
    """

    architecture: str
    module: nn.Module
    inputs: Inputs
    graph: Graph
    missing: frozenset[str] = frozenset()
    origin: dict[str, str] = field(default_factory=dict)
    has_norm: bool = False


def open_model(
    options: BackboneOptions, root: Path, source_dir: Path, where: str, *, with_weights: bool = True
) -> Opened:
    """Open the model that options name.

    Parameters
    ----------
    with_weights
        Whether weights are loaded; without, its nodes can be listed all the same.

    Raises
    ------
    As `embedpipe.backbones.load_backbone`.
    """
    if options.family not in _FAMILIES:
        return _open_traced(options, root, source_dir, where, with_weights)
    module_name, _, function = _FAMILIES[options.family].partition(":")
    opened: Opened = getattr(importlib.import_module(module_name), function)(
        options, root, where, with_weights=with_weights
    )
    return opened


def _open_traced(
    options: BackboneOptions, root: Path, source_dir: Path, where: str, with_weights: bool
) -> Opened:
    architecture = open_architecture(options, source_dir, where)
    missing: frozenset[str] = frozenset()
    if with_weights:
        module, missing = load_weights(architecture, options, root, source_dir, where)
    else:
        module = build_seeded(architecture.build, 0)
    freeze(module)
    preprocessing = architecture.preprocessing(options, where)
    graph = build_graph(module, preprocessing, where)
    return Opened(architecture.name, module, preprocessing, graph, missing)


def freeze(module: nn.Module) -> None:
    """Eval mode, no gradients, and memory as convolutions want it."""
    module.eval().requires_grad_(False)
    if any(isinstance(part, nn.Conv2d) for part in module.modules()):
        cast(Any, module).to(memory_format=torch.channels_last)


def build_graph(module: nn.Module, preprocessing: Preprocessing, where: str) -> ModelGraph:
    """Trace a model at its input size.

    Raises
    ------
    ConfigError
        If the model can't take an input of that size (a ViT takes one size only).
    """
    try:
        return ModelGraph(module, preprocessing.input_shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = "×".join(map(str, preprocessing.input_shape))
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{where}: the model takes no input of {size} ({reason}); "
            "set preprocess.crop_px to a size it takes"
        ) from error
