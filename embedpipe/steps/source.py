"""Step `source`: train one source model on its source domain."""

from __future__ import annotations

from typing import Any

from embedpipe.backbones.options import SourceModelOptions
from embedpipe.backbones.source_model import train_source
from embedpipe.manifest.files import read_parquet
from embedpipe.manifest.table import Manifest
from embedpipe.sources.base import SPOOL, open_source
from embedpipe.steps.sections import Sections
from embedpipe.terminal import progress_bar, say
from embedpipe.workspace import Workspace


def train_source_model(workspace: Workspace, model: str) -> dict[str, Any]:
    """Write data/source/<model>: weights, card and history."""
    options = Sections(workspace).one("source", model, SourceModelOptions)
    manifest = Manifest.read(workspace.manifest(options.on))
    with progress_bar(f"training {model}") as progress:
        card = train_source(
            options,
            manifest,
            read_parquet(workspace.labels(options.on), "run `embedpipe ingest`"),
            open_source(manifest.source, workspace.root, spool=workspace.ingest_cache(options.on) / SPOOL),
            workspace.source_dir / model,
            progress=progress,
        )
    say(
        f"{model}: source accuracy {card['accuracy']['val']['value']:.1%} on held-out samples of {options.on}"
    )
    return card
