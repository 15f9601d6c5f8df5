"""A trained mapping and target as one safetensors file, with what it is of as JSON; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from embedpipe.errors import WeightsError
from embedpipe.manifest.files import write_bytes

FORMAT_VERSION = 1
_NAME = "tlfe"
_PICKLES = (b"PK", b"\x80\x02", b"\x80\x04")
"""How files of `torch.save` and of pickle begin."""


def write_network(path: Path, network: nn.Module, about: Mapping[str, Any]) -> None:
    """Replace the file."""
    tensors = {name: one.detach().cpu().contiguous() for name, one in network.state_dict().items()}
    text = json.dumps({**about, "format_version": FORMAT_VERSION}, sort_keys=True)
    write_bytes(path, safetensors.torch.save(tensors, {_NAME: text}))


def read_network(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What `write_network` wrote.

    Raises
    ------
    WeightsError
        If it is no such file, a pickle, damaged, or of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})[_NAME])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: expected what TLFE.save wrote, found no such file") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        pickled = path.is_file() and path.read_bytes()[:2] in _PICKLES
        found = "a pickle, which could run any code and is not read" if pickled else "something else"
        raise WeightsError(
            f"{path}: expected safetensors that TLFE.save wrote, found {found}; save it with TLFE.save"
        ) from error
    if about["format_version"] != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: expected format {FORMAT_VERSION}, found {about['format_version']}; fit and save it again"
        )
    return about, tensors


def load_tensors(path: Path, network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load tensors that `read_network` found at `path`.

    Raises
    ------
    WeightsError
        If they are of another architecture; names the first that differs.
    """
    own = {name: tuple(one.shape) for name, one in network.state_dict().items()}
    there = {name: tuple(one.shape) for name, one in tensors.items()}
    for name in sorted(own.keys() | there.keys()):
        if own.get(name) != there.get(name):
            raise WeightsError(
                f"{path}: a checkpoint of another architecture: expected {name} of shape {own.get(name)}, found "
                f"{there.get(name)}; give the target that it was trained with"
            )
    network.load_state_dict(dict(tensors))
