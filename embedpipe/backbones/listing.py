"""What can be tapped in a backbone, before its weights or its taps are there.

Needs no network and no weights: names, shapes and layouts are the architecture's.
"""

from __future__ import annotations

from pathlib import Path

from embedpipe.backbones.backbone import build_graph
from embedpipe.backbones.graph import NodeInfo
from embedpipe.backbones.models import build_seeded, open_architecture
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
    architecture = open_architecture(options, source_dir, where)
    module = build_seeded(architecture.build, 0).eval().requires_grad_(False)
    return list(build_graph(module, architecture.preprocessing(options, where), where).infos)
