"""What can be tapped in a backbone, before its weights or its taps are there.

Needs no weights, and no network but for a hub model's configuration: names, shapes and layouts are the architecture's.
"""

from __future__ import annotations

from pathlib import Path

from embedpipe.backbones.graph import NodeInfo
from embedpipe.backbones.opening import open_model
from embedpipe.backbones.options import BackboneOptions


def list_nodes(name: str, options: BackboneOptions, root: Path, *, source_dir: Path) -> list[NodeInfo]:
    """Every node of a backbone in order of computation, whatever its taps say.

    So it answers when a tap is misspelt, and when weights are still to be fetched.

    Parameters
    ----------
    name, options, root, source_dir
        As `embedpipe.backbones.load_backbone` takes them.

    Returns
    -------
    list of NodeInfo

    Raises
    ------
    ConfigError
        For an unknown model, or an input size it can't take.
    """
    where = f"params.yaml: backbones.{name}"
    return list(open_model(options, root, source_dir, where, with_weights=False).graph.infos)
