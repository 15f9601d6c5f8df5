"""A model of the user's: ``python:package.module:factory``.

The factory returns an `nn.Module` that has, beside its own `forward`, two methods (see `OwnBackbone`): how a sample
becomes its input, and what there is to know about it. Everything else is asked of the module.
"""

# N samples, L tokens of a text with its padding

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import nn

from embedpipe.backbones.code import code_digest
from embedpipe.backbones.graph import block_names
from embedpipe.backbones.hooked import HookedModel, Layers, mask_of
from embedpipe.backbones.hub import first_line
from embedpipe.backbones.models import build_seeded
from embedpipe.backbones.observed import observe
from embedpipe.backbones.opening import Opened, freeze
from embedpipe.backbones.options import BackboneOptions
from embedpipe.backbones.staging import PADDING, Staging
from embedpipe.backbones.tokens import TOLERANCE
from embedpipe.backbones.weights import load_into, read_state_dict
from embedpipe.errors import ConfigError, UnreadableSample
from embedpipe.spec import canonical_json

_KNOWN = ("modality", "preprocessing", "max_length", "blocks", "num_prefix", "licence", "source")
_TRIED_TEXT = "A text to try the model with."
_MAX_LENGTH = 512


class OwnBackbone(Protocol):
    """What a factory returns: an `nn.Module` with these three methods.

    Samples of one shape are stacked to a batch. A text that is a sequence of token ids has any length: ids are padded,
    and `forward` takes a mask beside them.
    """

    def preprocess(self, sample: Any) -> torch.Tensor:
        """One sample's input: of a decoded image (Pillow, mode RGB or L), or of a text (str).

        Runs in several threads at once.

        Returns
        -------
        Tensor
            float32 or uint8, of one shape for all samples; or token ids, 1-D of an integer dtype, of any length up to
            ``max_length``.
        """
        ...

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> Any:
        """The model. `mask` is given with token ids alone: bool (N, L), False where padding is (id 0)."""
        ...

    def describe(self) -> dict[str, Any]:
        """What there is to know, as JSON values.

        Returns
        -------
        dict
            ``modality``: image or text; ``preprocessing``: anything that changes when `preprocess` does, since it
            names the store. If there is more to say: ``max_length`` (tokens of the longest text, 512), ``blocks``
            (paths of the main stages), ``num_prefix`` (tokens before the patches), ``licence``, ``source``.
        """
        ...


class OwnInputs:
    """Samples as the user's module makes them its input."""

    def __init__(self, module: Any, described: dict[str, Any], where: str) -> None:
        self.modality = str(described["modality"])
        self.decoder: str | None = None if self.modality == "image" else "python"
        self._module, self._where = module, where
        self._preprocessing = described["preprocessing"]
        self.tried = self._tried()
        self.is_sequence = (
            self.tried.ndim == 1 and not self.tried.is_floating_point() and self.modality == "text"
        )
        longest = int(described.get("max_length", _MAX_LENGTH))
        self.staging = (
            Staging.of_texts(longest)
            if self.is_sequence
            else Staging(tuple(self.tried.shape), self.tried.dtype)
        )

    def stage(self, sample: Any, part: int = 0) -> torch.Tensor:
        value = self._module.preprocess(sample)
        if not isinstance(value, torch.Tensor):
            raise ConfigError(f"{self._where}: preprocess: expected a tensor, found {type(value).__name__}")
        if value.dtype != self.tried.dtype:
            raise ConfigError(
                f"{self._where}: preprocess: expected {self.tried.dtype}, as of a plain {self.modality}, found "
                f"{value.dtype}; give every sample one dtype"
            )
        if self.is_sequence:
            if not 0 < len(value) <= self.staging.lengths[-1] or value.ndim != 1:
                raise UnreadableSample(
                    f"preprocess: expected 1 to {self.staging.lengths[-1]} token ids, found shape {tuple(value.shape)}"
                )
            return value.to(torch.int32)
        if tuple(value.shape) != self.staging.shape:
            raise UnreadableSample(
                f"preprocess: expected a tensor of shape {self.staging.shape}, found {tuple(value.shape)}"
            )
        return value

    def prepare(self, staged: torch.Tensor) -> torch.Tensor:
        return staged

    def canonical(self) -> str:
        steps: dict[str, Any] = {"preprocessing": self._preprocessing}
        if self.is_sequence:
            steps |= {"padded_to": list(self.staging.lengths), "batch_tolerance": TOLERANCE}
        return canonical_json(steps)

    def _tried(self) -> torch.Tensor:
        sample: Any = _TRIED_TEXT if self.modality == "text" else Image.linear_gradient("L").convert("RGB")
        try:
            value = self._module.preprocess(sample)
        except Exception as error:
            raise ConfigError(
                f"{self._where}: preprocess failed on a plain {self.modality} ({type(error).__name__}: "
                f"{first_line(error)}); mend it"
            ) from error
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"{self._where}: preprocess: expected a tensor, found {type(value).__name__}; return one per sample"
            )
        return value


def open_factory(options: BackboneOptions, root: Path, where: str, *, with_weights: bool = True) -> Opened:
    """Call the user's factory and see what it gives.

    Raises
    ------
    ConfigError
        If there is no such factory, it fails, or what it returns does not keep to `OwnBackbone`.
    WeightsError
        If a file of weights does not fit.
    """
    factory = _import(options.model_name, root, f"{where}.model")
    seed = int((options.weights or "").removeprefix("random:") or 0) if options.role == "random" else 0

    def build() -> nn.Module:
        made: nn.Module = factory(**options.arguments)
        return made

    try:
        module = build_seeded(build, seed)
    except Exception as error:
        raise ConfigError(
            f"{where}.model: {options.model_name}({_arguments(options)}) failed with {type(error).__name__}: "
            f"{first_line(error)}; mend the factory or backbones' arguments"
        ) from error
    described = _described(module, f"{where}.model: {options.model_name}")
    if options.weights_path is not None and with_weights:
        path = root / options.weights_path
        where_weights = f"{where}.weights"
        missing = load_into(
            module, read_state_dict(path, where_weights), f"{where_weights}: {path}", options.model
        )
    elif options.weights is not None and options.role != "random":
        raise ConfigError(
            f"{where}.weights: expected random:<seed>, a .safetensors or .pth path, or nothing for the factory's own, "
            f"found {options.weights!r}"
        )
    else:
        missing = frozenset()
    freeze(module)
    inputs = OwnInputs(module, described, where)
    graph = _graph(module, inputs, described, where)
    origin: dict[str, str] = {key: str(described[key]) for key in ("source", "licence") if key in described}
    name = f"python:{options.model_name}" + (f"({_arguments(options)})" if options.arguments else "")
    code = code_digest(options.model_name.partition(":")[0], root)[:12]
    return Opened(f"{name}:code={code}", module, inputs, graph, missing, {"source": name} | origin)


def _graph(module: nn.Module, inputs: OwnInputs, described: dict[str, Any], where: str) -> HookedModel:
    x, longest, length = torch.stack([inputs.tried, inputs.tried]), 0, 0
    if inputs.is_sequence:
        longest, length = inputs.staging.lengths[-1], int(x.shape[1]) + 1
        ids_NL = torch.full((2, length), PADDING, dtype=torch.int32)
        ids_NL[:, :-1] = x
        x = ids_NL
    call = _call_with_mask if inputs.is_sequence else _call
    try:
        observed = observe(module, call, x)
    except Exception as error:
        raise ConfigError(
            f"{where}.model: forward failed on a batch of two samples of preprocess, shape {tuple(x.shape)} "
            f"({type(error).__name__}: {first_line(error)}); mend one of the two"
        ) from error
    blocks = tuple(described.get("blocks") or block_names(module))
    absent = [name for name in blocks if name not in observed.outputs]
    if absent:
        raise ConfigError(
            f"{where}.model: describe: blocks: expected paths of modules that run once, found {', '.join(absent)}"
        )
    if not blocks:
        children = [name for name, _ in module.named_children() if name in observed.outputs]
        blocks = tuple(children) or tuple(list(observed.outputs)[-1:])
    patches, num_prefix = None, described.get("num_prefix")
    if num_prefix and len(observed.outputs[blocks[0]].shape) == 3:
        patches = observed.outputs[blocks[0]].shape[1] - int(num_prefix)
    layers = Layers(
        {name: name for name in blocks}, blocks, num_patches=patches, first_is_class=bool(num_prefix)
    )
    return HookedModel(module, call, observed, layers, longest=longest, length=length)


def _call(model: nn.Module, x: torch.Tensor) -> Any:
    return model(x)


def _call_with_mask(model: nn.Module, ids_NL: torch.Tensor) -> Any:
    mask_NL = mask_of(ids_NL)
    return model(torch.where(ids_NL == PADDING, 0, ids_NL).long(), mask_NL)


def _import(name: str, root: Path, where: str) -> Any:
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(root.resolve()))  # the user's package lies beside params.yaml, or is installed
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{where}: expected a module {module_name} beside params.yaml or installed, found none ({error})"
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"{where}: importing {module_name} failed: {reason}") from error
    finally:
        sys.path.remove(str(root.resolve()))
    factory = getattr(module, attribute, None)
    if not callable(factory):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(
            f"{where}: expected a function {attribute} in {module_name}, found "
            f"{'none' if factory is None else type(factory).__name__}; it has {', '.join(names[:8]) or 'none'}"
        )
    return factory


def _described(module: Any, where: str) -> dict[str, Any]:
    wanted = "an nn.Module with the methods preprocess(sample) and describe()"
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{where}: expected {wanted}, found {type(module).__name__}")
    lacking = [name for name in ("preprocess", "describe") if not callable(getattr(module, name, None))]
    if lacking:
        raise ConfigError(
            f"{where}: expected {wanted}, found {type(module).__name__} without {' and '.join(lacking)}"
        )
    described = cast(Any, module).describe()
    if not isinstance(described, dict) or not {"modality", "preprocessing"} <= set(described):
        raise ConfigError(
            f"{where}: describe: expected a dict with modality and preprocessing, found "
            f"{sorted(described) if isinstance(described, dict) else type(described).__name__}"
        )
    unknown = sorted(set(described) - set(_KNOWN))
    if unknown or described["modality"] not in ("image", "text"):
        raise ConfigError(
            f"{where}: describe: expected modality image or text and keys of {', '.join(_KNOWN)}, found "
            f"{described['modality']!r}" + (f" and {', '.join(unknown)}" if unknown else "")
        )
    for key, least in (("max_length", 1), ("num_prefix", 0)):
        value = described.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(
                f"{where}: describe: {key}: expected a whole number of at least {least}, found {value!r}"
            )
    try:
        canonical_json(described)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: describe: expected JSON values ({error})") from error
    return described


def _arguments(options: BackboneOptions) -> str:
    return ",".join(
        f"{key}={json.dumps(value, sort_keys=True)}" for key, value in sorted(options.arguments.items())
    )
