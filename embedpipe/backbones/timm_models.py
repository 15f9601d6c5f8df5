"""Encoders of the timm library, from the hub, a folder, a file of weights or a seed.

Preprocessing is the model's own data configuration; how many tokens come before the patches is asked of the model.
"""

# N samples, C channels, H W height and width, T tokens

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from embedpipe.backbones.graph import block_names
from embedpipe.backbones.hooked import HookedModel, Layers
from embedpipe.backbones.hub import Found, find_folder, is_on_hub, missing_extra, weight_files
from embedpipe.backbones.image_steps import of_data_config
from embedpipe.backbones.models import build_seeded
from embedpipe.backbones.observed import Observed, observe_images
from embedpipe.backbones.opening import Opened, freeze
from embedpipe.backbones.options import BackboneOptions
from embedpipe.backbones.weights import load_into, read_state_dict
from embedpipe.errors import ConfigError
from embedpipe.params import did_you_mean


def open_timm(options: BackboneOptions, root: Path, where: str, *, with_weights: bool = True) -> Opened:
    """Open a model of timm.

    Raises
    ------
    ConfigError
        If timm has no such model, or a hub model lacks its commit.
    WeightsError
        If its weights cannot be fetched, are in a format that can run code, or do not fit.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise missing_extra(where, "timm", "timm") from error
    found: Found | None = None
    if not is_on_hub(options, root):
        found = find_folder(options, root, where)
    name, arguments, told = _described(options, found, where)
    if options.weights is None and with_weights and found is None:
        hub_name = hub_name_of(name, where)
        found = find_folder(options, root, where, hub_name=hub_name)
        _, arguments, told = _described(options, found, where)
    data = {**_data_config(name), **{key: value for key, value in told.items() if value is not None}}
    inputs = of_data_config(data, where).override(options.preprocess, where)

    def build() -> nn.Module:
        given = {"num_classes": told["num_classes"]} if "num_classes" in told else {}
        kwargs = {**given, **arguments}
        try:  # a ViT takes one size only, which it must be told
            model: nn.Module = timm.create_model(name, pretrained=False, img_size=inputs.crop_px, **kwargs)
        except TypeError:
            model = timm.create_model(name, pretrained=False, **kwargs)
        return model

    module, missing = _weighted(build, options, found, root, where, with_weights)
    freeze(module)
    observed = observe_images(module, _call, inputs.input_shape, where)
    layers = _layers(module, observed, options, where)
    origin = found.origin() if found is not None else {"source": options.weights or "timm"}
    licence = told.get("license") or _default(name).get("license")
    if licence and options.role == "transferred":
        origin.setdefault("licence", str(licence))
    extra = "".join(f",{key}={value}" for key, value in sorted(arguments.items()))
    graph = HookedModel(module, _call, observed, layers)
    return Opened(f"timm:{name}{extra}", module, inputs, graph, missing, origin, has_norm=True)


def _call(model: nn.Module, x_NCHW: torch.Tensor) -> Any:
    return model(x_NCHW)


def _described(
    options: BackboneOptions, found: Found | None, where: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(name, arguments, pretrained configuration): of the folder's config.json, or of timm's registry."""
    import timm

    if found is None:
        name, told = options.model_name, _default(options.model_name)
        arguments: dict[str, Any] = {}
    else:
        raw = found.config(where)
        name = str(raw.get("architecture", ""))
        told = {**raw.get("pretrained_cfg", {})}
        if "num_classes" in raw:
            told["num_classes"] = raw["num_classes"]
        arguments = dict(raw.get("model_args") or {})
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        near = did_you_mean(name.partition(".")[0], known)
        place = (
            f"{where}.model" if found is None else f"{where}: {found.folder / 'config.json'}: architecture"
        )
        raise ConfigError(
            f"{place}: timm {timm.__version__} has no model {name!r}{near}; it has {len(known):,}"
        )
    return name.partition(".")[0] if found is not None else name, arguments, told


def _default(name: str) -> dict[str, Any]:
    """timm's pretrained configuration of a name, with the tag that it stands for; {} where it has none."""
    import timm

    try:
        found = timm.models.get_pretrained_cfg(name)
    except Exception:  # no weights of that name
        return {}
    return {} if found is None else dict(found.to_dict())


def _data_config(name: str) -> dict[str, Any]:
    import timm

    return dict(timm.data.resolve_data_config(pretrained_cfg=_default(name)))


def hub_name_of(name: str, where: str) -> str:
    """Where timm's weights of a name lie on the hub.

    Raises
    ------
    ConfigError
        If timm names none.
    """
    found = _default(name)
    hub_name = str(found.get("hf_hub_id") or "")
    if not hub_name:
        raise ConfigError(
            f"{where}.weights: timm names no weights on the hub for {name!r}; give a .safetensors or .pth path, or "
            "random:<seed>"
        )
    tag = found.get("tag")
    full = name.partition(".")[0] + (f".{tag}" if tag else "")
    return f"{hub_name}{full}" if hub_name.endswith("/") else hub_name


def _weighted(
    build: Any, options: BackboneOptions, found: Found | None, root: Path, where: str, with_weights: bool
) -> tuple[nn.Module, frozenset[str]]:
    weights = options.weights or ""
    if not with_weights or weights.startswith("random:"):
        return build_seeded(
            build, int(weights.removeprefix("random:") or 0) if with_weights else 0
        ), frozenset()
    if options.weights_path is not None:
        path = root / options.weights_path
    elif weights:
        raise ConfigError(
            f"{where}.weights: expected random:<seed>, a .safetensors or .pth path, or nothing for the hub's, found "
            f"{weights!r}"
        )
    else:
        assert found is not None
        path = weight_files(found, where)[0]
    module = build_seeded(build, 0)
    state = read_state_dict(path, f"{where}.weights")
    return module, load_into(module, state, f"{where}.weights: {path}", options.model)


def _layers(module: nn.Module, observed: Observed, options: BackboneOptions, where: str) -> Layers:
    blocks = tuple(name for name in block_names(module) if name in observed.outputs)
    num_patches = None
    num_prefix = getattr(module, "num_prefix_tokens", None)
    if blocks and num_prefix is not None and len(observed.outputs[blocks[0]].shape) == 3:
        # CaiT says 1 and adds its class token behind these blocks: the patches themselves are counted first
        counted = getattr(getattr(module, "patch_embed", None), "num_patches", None)
        num_patches = counted or observed.outputs[blocks[0]].shape[1] - int(num_prefix)
    norm: str | None = None
    if options.norm == "final":
        behind = observed.norm_behind(blocks[-1]) if blocks else None
        norm = behind or ("norm" if "norm" in observed.norms and "norm" in observed.outputs else None)
        if norm is None:
            raise ConfigError(
                f"{where}.norm: {options.model} has no norm behind its last block; leave the key out"
            )
    return Layers({name: name for name in blocks}, blocks, norm=norm, num_patches=num_patches)
