"""Backbones: frozen source models, their weights, preprocessing and taps.

`embedpipe.backbones.options` and this package import no torch; `load_backbone` does, when it is called.
Knows nothing of stores, heads or tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedpipe.backbones.options import BackboneOptions, PreprocessOptions, SourceModelOptions

if TYPE_CHECKING:
    from embedpipe.backbones.backbone import Backbone

__all__ = ["BackboneOptions", "PreprocessOptions", "SourceModelOptions", "load_backbone"]


def load_backbone(name: str, options: BackboneOptions, root: Path, *, source_dir: Path) -> Backbone:
    """Build a frozen backbone with its weights, and check its taps.

    Parameters
    ----------
    name : str
        Its name in params.yaml; messages start with it.
    options : BackboneOptions
        Model, weights, taps and preprocessing.
    root : Path
        Folder of params.yaml: relative paths of weights are relative to it.
    source_dir : Path
        Folder of source models trained here; ``source:<S>`` is read from ``source_dir/S``.

    Raises
    ------
    ConfigError
        For an unknown model, weights name or tap; lists near names.
    ShapeError
        If a reduction does not fit its node.
    WeightsError
        If weights are missing, cannot be trusted, or do not fit the architecture.
    """
    from embedpipe.backbones.backbone import build_backbone

    return build_backbone(name, options, root, source_dir=source_dir)
