"""What params.yaml asks of this machine: files of weights, names in torchvision, a GPU.

Builds no model: whether weights fit it and whether it has the taps shows when it is built, as `embedpipe plan`
does. Imports torch only where params.yaml names a torchvision model or CUDA.
"""

from __future__ import annotations

from embedpipe.backbones.options import BackboneOptions
from embedpipe.config import Params
from embedpipe.errors import ConfigError
from embedpipe.workspace import Workspace


def machine_problems(params: Params, workspace: Workspace) -> list[str]:
    """One sentence for each thing that extraction would refuse here."""
    found = []
    for name, options in params.backbones.items():
        try:
            _check_backbone(f"params.yaml: backbones.{name}", options, workspace)
        except ConfigError as error:
            found.append(str(error))
    if params.extract.device == "cuda":
        from embedpipe.extract.device import resolve_device

        try:
            resolve_device("cuda")
        except ConfigError as error:
            found.append(str(error))
    return found


def _check_backbone(where: str, options: BackboneOptions, workspace: Workspace) -> None:
    weights, path = options.weights or "", options.weights_path
    if path is not None and not (workspace.root / path).is_file():
        raise ConfigError(
            f"{where}.weights: expected a file of weights, found none at {workspace.root / path}; correct the path"
        )
    if options.model.startswith("torchvision:"):
        from embedpipe.backbones.models import open_architecture
        from embedpipe.backbones.weights import check_enum_name

        open_architecture(options, workspace.source_dir, where)
        if path is None and not weights.startswith("random:"):
            check_enum_name(options.model.removeprefix("torchvision:"), weights, f"{where}.weights")
    elif options.family == "pt2":
        if not (workspace.root / options.model_name).is_file():
            raise ConfigError(
                f"{where}.model: expected a program, found none at {workspace.root / options.model_name}"
            )
    elif options.family in ("timm", "transformers"):
        from embedpipe.backbones.hub import check_place

        check_place(options, workspace.root, where)
    elif weights and path is None and not weights.startswith(("random:", "source:")):
        raise ConfigError(
            f"{where}.weights: expected random:<seed>, source:<S> or a .safetensors or .pth path, found {weights!r}"
        )
