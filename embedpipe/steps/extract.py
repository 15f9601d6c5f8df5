"""Step `extract`: one backbone over every sample of the target domain, once.

Reads `datasets`, `backbones`, `extract`, the manifests, source models; writes data/features/<backbone>.
"""

from __future__ import annotations

from typing import Any

from embedpipe.backbones import BackboneOptions
from embedpipe.backbones.listing import list_nodes
from embedpipe.extract.array import extract_task, parse_task
from embedpipe.extract.earlier import EarlierStore, FolderStore
from embedpipe.extract.estimate import Estimate, estimate
from embedpipe.extract.options import ExtractOptions
from embedpipe.extract.run import ExtractSummary, extract_backbone
from embedpipe.extract.session import open_session
from embedpipe.manifest.listed import ListedSamples
from embedpipe.params import validate
from embedpipe.sources.base import SPOOL, Source, WindowOptions, open_source
from embedpipe.steps.sections import Sections, embedded_datasets
from embedpipe.terminal import progress_bar, say
from embedpipe.tracking import TrackedFolder
from embedpipe.workspace import Workspace


def extract_features(
    workspace: Workspace, backbone: str, *, limit: int | None = None, stop_after: str | None = None
) -> ExtractSummary:
    """Embed what is missing and publish the store.

    Parameters
    ----------
    limit
        Most samples to embed in this run; None: all.
    stop_after
        As `extract.stop_after`, in its place.
    """
    with progress_bar(f"embedding with {backbone}") as progress:
        job = _job(workspace, backbone, stop_after)
        summary = extract_backbone(**job, limit=limit, progress=progress, say=say)
    say(summary.sentence(), event="extracted", **summary.to_dict())
    return summary


def extract_part(
    workspace: Workspace, backbone: str, task: str, *, stop_after: str | None = None
) -> ExtractSummary | None:
    """Spool the i-th of n parts, ``i/n``; whoever comes last commits and publishes.

    Returns
    -------
    ExtractSummary or None
        None where parts of other tasks are still to come.
    """
    part = parse_task(task)
    with progress_bar(f"embedding with {backbone}, task {part}") as progress:
        summary = extract_task(part, **_job(workspace, backbone, stop_after), progress=progress, say=say)
    if summary is not None:
        say(summary.sentence(), event="extracted", **summary.to_dict())
    return summary


def _job(workspace: Workspace, backbone: str, stop_after: str | None) -> dict[str, Any]:
    """What extraction is called with."""
    sections = Sections(workspace)
    options = sections.whole("extract", ExtractOptions)
    if stop_after is not None:
        options = validate(ExtractOptions, {**options.model_dump(), "stop_after": stop_after}, "--stop-after")
    return {
        "name": backbone,
        "options": sections.one("backbones", backbone, BackboneOptions),
        "extract": options,
        "datasets": _target_datasets(workspace, sections),
        "root": workspace.root,
        "source_dir": workspace.source_dir,
        "stores_dir": workspace.stores_dir,
        "destination": workspace.features(backbone),
        "earlier": _earlier(workspace, backbone),
        "rows": _rows(sections),
    }


def plan_features(workspace: Workspace, backbone: str) -> Estimate:
    """What `extract_features` would do; stores nothing but an empty group."""
    sections = Sections(workspace)
    with open_session(
        backbone,
        sections.one("backbones", backbone, BackboneOptions),
        sections.whole("extract", ExtractOptions),
        _target_datasets(workspace, sections),
        workspace.root,
        workspace.source_dir,
        workspace.stores_dir,
        workspace.features(backbone),
        earlier=_earlier(workspace, backbone),
        rows=_rows(sections),
        say=say,
    ) as session:
        return estimate(session)


def describe_nodes(workspace: Workspace, backbone: str) -> list[dict[str, Any]]:
    """Every node that can be tapped: names, shape without N, bytes a sample in float16, relative depth."""
    options = Sections(workspace).one("backbones", backbone, BackboneOptions)
    nodes = list_nodes(backbone, options, workspace.root, source_dir=workspace.source_dir)
    return [
        {
            "name": node.modules[0] if node.modules else node.name,
            "also": [name for name in (*node.modules[1:], node.name) if name != node.modules[0]]
            if node.modules
            else [],
            "block": node.is_block,
            "shape": list(node.shape),
            "layout": node.layout,
            "nbytes": node.nbytes_float16,
            "depth": round(node.depth, 4),
        }
        for node in nodes
    ]


def _earlier(workspace: Workspace, backbone: str) -> list[EarlierStore]:
    """Where the store was published before: in its place, unless DVC has cleared it, and in what DVC tracks."""
    destination = workspace.features(backbone)
    return [FolderStore(destination), TrackedFolder(workspace.root, destination)]


def _rows(sections: Sections) -> dict[str, WindowOptions | None]:
    """How the long texts of each data set are laid out."""
    return {
        name: None
        if (raw or {}).get("rows") is None
        else validate(WindowOptions, raw["rows"], f"params.yaml: datasets.{name}.rows")
        for name, raw in sections.entries("datasets").items()
    }


def _target_datasets(workspace: Workspace, sections: Sections) -> list[tuple[ListedSamples, Source]]:
    """Data sets of the target domain, in the order of params.yaml; the source domain is trained on, not embedded."""
    found = []
    for name in embedded_datasets(sections):
        manifest = ListedSamples.open(workspace.manifest(name))
        spool = workspace.ingest_cache(name) / SPOOL
        found.append((manifest, open_source(manifest.source, workspace.root, spool=spool)))
    return found
