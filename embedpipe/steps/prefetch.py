"""Step `prefetch`: fetch what backbones need from the network, into the caches of the libraries that will read it.

Reads `backbones`; writes nothing of the project's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedpipe.backbones.hub import find_folder, is_on_hub
from embedpipe.backbones.options import BackboneOptions
from embedpipe.errors import ConfigError
from embedpipe.terminal import say
from embedpipe.workspace import Workspace


def prefetch_weights(workspace: Workspace, name: str, options: BackboneOptions) -> dict[str, Any]:
    """Fetch what one backbone needs, unless it is here.

    Returns
    -------
    dict
        ``backbone``; ``from``: hub, torchvision or nowhere; ``path``: where it lies now, or None.

    Raises
    ------
    ConfigError
        If its name cannot be followed.
    WeightsError
        If it cannot be fetched.
    """
    where = f"params.yaml: backbones.{name}"
    source, path = "nowhere", None
    on_hub = options.family in ("transformers", "timm") and is_on_hub(options, workspace.root)
    if on_hub and (options.family == "transformers" or options.weights is None):
        source, path = "hub", _from_hub(options, workspace.root, where)
    elif options.family == "torchvision" and options.role != "random" and options.weights_path is None:
        source, path = "torchvision", _from_torchvision(options, where)
    said = f"{name}: nothing to fetch" if path is None else f"{name}: {options.model} is at {path}"
    say(said, event="prefetched", backbone=name, path=None if path is None else str(path))
    return {"backbone": name, "from": source, "path": None if path is None else str(path)}


def _from_hub(options: BackboneOptions, root: Path, where: str) -> Path:
    if options.family == "timm":
        from embedpipe.backbones.timm_models import hub_name_of

        return find_folder(options, root, where, hub_name=hub_name_of(options.model_name, where)).folder
    return find_folder(options, root, where, weights=options.weights is None).folder


def _from_torchvision(options: BackboneOptions, where: str) -> Path:
    import torch
    import torchvision

    from embedpipe.backbones.weights import check_enum_name, fetch_enum

    name = options.model_name
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(f"{where}.model: torchvision has no model {name!r}")
    check_enum_name(name, options.weights or "", f"{where}.weights")
    url = fetch_enum(name, options.weights or "", f"{where}.weights")
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
