"""Weights of a backbone: from torchvision, from a file, from a seed, or from a source model trained here.

Never unpickles anything but tensors. Knows nothing of taps or preprocessing.
"""

from __future__ import annotations

import contextlib
import hashlib
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from torch import nn

from embedpipe.backbones.models import Architecture, build_seeded
from embedpipe.backbones.options import BackboneOptions
from embedpipe.errors import ConfigError, WeightsError
from embedpipe.params import did_you_mean

_MAX_LISTED = 6


def load_weights(
    architecture: Architecture, options: BackboneOptions, root: Path, source_dir: Path, where: str
) -> tuple[nn.Module, frozenset[str]]:
    """Build the module with its weights.

    Returns
    -------
    module : nn.Module
    missing : frozenset of str
        Tensors of the classifier that the file does not fit: they hold no weights, and no tap may read
        them.

    Raises
    ------
    ConfigError
        If torchvision has no weights of that name for the model.
    WeightsError
        If a file is absent, cannot be trusted, or does not fit.
    """
    weights = options.weights
    where = f"{where}.weights"
    if weights is None:
        return architecture.build(), frozenset()
    if weights.startswith("random:"):
        return build_seeded(architecture.build, int(weights.removeprefix("random:"))), frozenset()
    if options.source_model is not None:
        path = source_dir / options.source_model / "weights.safetensors"
        return _from_file(architecture, path, where)
    if options.weights_path is not None:
        return _from_file(architecture, root / options.weights_path, where)
    if architecture.torchvision_name is None:
        raise ConfigError(
            f"{where}: expected random:<seed>, source:<S> or a .safetensors or .pth path, found {weights!r}"
        )
    return _from_torchvision(architecture.torchvision_name, weights, where), frozenset()


def weights_digest(module: nn.Module, leave_out: frozenset[str] = frozenset()) -> str:
    """blake2b-128 over the tensors a module holds, sorted by name: name, dtype, shape, bytes in C order.

    Parameters
    ----------
    module : nn.Module
    leave_out : frozenset of str
        Names that hold no loaded weights.

    Returns
    -------
    32 hex digits; independent of the device, the memory format and the file the tensors came from.
    """
    state = {key: value for key, value in module.state_dict().items() if key not in leave_out}
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}\0{str(value.dtype).removeprefix('torch.')}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_enum_name(name: str, weights: str, where: str) -> None:
    """Check that torchvision has weights of that name for a model; ConfigError that lists them."""
    names = list(torchvision.models.get_model_weights(name).__members__)
    if weights not in names:
        raise ConfigError(
            f"{where}: {name} has no weights {weights!r}{did_you_mean(weights, names)}; "
            f"it has {', '.join(names)}; also random:<seed>, or a .safetensors or .pth path"
        )


def fetch_enum(name: str, weights: str, where: str) -> str:
    """Fetch weights of torchvision unless they are in its cache; gives their address.

    Raises
    ------
    WeightsError
        If they cannot be fetched.
    """
    chosen = torchvision.models.get_model_weights(name)[weights]
    with _telling_network(chosen.url, where):
        chosen.get_state_dict(progress=False, check_hash=True)
    return str(chosen.url)


def _from_torchvision(name: str, weights: str, where: str) -> nn.Module:
    check_enum_name(name, weights, where)
    chosen = torchvision.models.get_model_weights(name)[weights]
    with _telling_network(chosen.url, where):
        module: nn.Module = torchvision.models.get_model(name, weights=chosen, progress=False)
    return module


@contextlib.contextmanager
def _telling_network(url: str, where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, urllib.error.URLError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"{where}: could not download {url} ({_first_line(error)}); run `embedpipe prefetch` where there is "
            f"network, or put it at {folder / Path(url).name}"
        ) from error


def _from_file(architecture: Architecture, path: Path, where: str) -> tuple[nn.Module, frozenset[str]]:
    state = read_state_dict(path, where)
    module = build_seeded(architecture.build, 0)
    return module, load_into(module, state, f"{where}: {path}", architecture.name)


def read_state_dict(path: Path, where: str = "weights") -> dict[str, torch.Tensor]:
    """Names and tensors of a .safetensors or .pth file; nothing else in it is ever run.

    A checkpoint that keeps them under ``state_dict`` or ``model`` is opened, and a ``module.`` before every
    name (of DataParallel) is dropped.

    Raises
    ------
    WeightsError
        If there is no such file, or it holds anything but tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{where}: no such file: {path}; give a .safetensors or .pth file of a state dict")
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no weights fail in any way the readers can
        raise WeightsError(
            f"{where}: {path} is not a file of weights ({_first_line(error)}); expected a state dict, "
            "names and tensors only, since a pickle can run code; save one with "
            "torch.save(model.state_dict(), path) or safetensors.torch.save_file"
        ) from error
    if isinstance(found, dict):
        for key in ("state_dict", "model"):
            if isinstance(found.get(key), dict):
                found = found[key]
                break
    if not isinstance(found, dict) or not found:
        raise WeightsError(f"{where}: {path}: expected a state dict, found {type(found).__name__}")
    strange = [str(key) for key, value in found.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise WeightsError(
            f"{where}: {path}: expected names and tensors only, found other values under "
            f"{_listed(strange)}; save model.state_dict() alone"
        )
    if all(str(key).startswith("module.") for key in found):
        found = {str(key).removeprefix("module."): value for key, value in found.items()}
    return {str(key): value for key, value in found.items()}


def load_into(
    module: nn.Module, state: dict[str, torch.Tensor], where: str, architecture: str
) -> frozenset[str]:
    """Copy a state dict into a module, all of it or with one list of what does not fit.

    Returns
    -------
    frozenset of str
        Names of the classifier that do not fit: another number of classes is no error by itself. Its
        tensors keep what the module was built with.

    Raises
    ------
    WeightsError
        Lists missing, unexpected and mismatched tensors, and those of another kind of number.
    """
    own = module.state_dict()
    head = classifier_keys(module)
    # Files from before batch norm counted its batches lack a number that evaluation never reads.
    uncounted = {key for key in own if key.endswith("num_batches_tracked") and key not in state}
    missing = [key for key in own if key not in state and key not in uncounted]
    unexpected = [key for key in state if key not in own]
    mismatched = [key for key in own if key in state and own[key].shape != state[key].shape]
    left_out = {key for key in (*missing, *mismatched) if key in head}
    lines = []
    if rest := [key for key in missing if key not in left_out]:
        lines.append(f"{len(rest)} missing: {_listed(rest)}")
    if unexpected:
        lines.append(f"{len(unexpected)} unexpected: {_listed(unexpected)}")
    if rest := [key for key in mismatched if key not in left_out]:
        shapes = [f"{key} expected {tuple(own[key].shape)}, found {tuple(state[key].shape)}" for key in rest]
        lines.append(f"{len(rest)} of another shape: {_listed(shapes)}")
    if lines:
        raise WeightsError(
            f"{where} does not fit {architecture}; {'; '.join(lines)}; give the weights of this architecture"
        )
    kept = {key: value for key, value in state.items() if key not in left_out}
    module.load_state_dict(own | kept)
    return frozenset(left_out)


def classifier_keys(module: nn.Module) -> set[str]:
    """Names of the tensors of the last module that holds any: by torchvision's habit the classifier head."""
    last = ""
    for name, part in module.named_modules():
        if any(True for _ in part.parameters(recurse=False)):
            last = name
    return {key for key in module.state_dict() if last and key.startswith(f"{last}.")}


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
