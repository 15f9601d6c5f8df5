"""Step `ingest`: the manifest and the labels of one data set."""

from __future__ import annotations

from embedpipe.ingest.options import DatasetOptions
from embedpipe.ingest.run import IngestSummary, ingest
from embedpipe.steps.sections import Sections
from embedpipe.terminal import progress_bar, say
from embedpipe.workspace import Workspace


def ingest_dataset(workspace: Workspace, dataset: str) -> IngestSummary:
    """List the samples of one data set; what has not changed since the last time is not read."""
    sections = Sections(workspace)
    with progress_bar(f"ingesting {dataset}") as progress:
        summary = ingest(
            dataset,
            sections.one("datasets", dataset, DatasetOptions),
            seed=sections.seed(),
            root=workspace.root,
            out_dir=workspace.manifest_dir(dataset),
            labels_path=workspace.labels(dataset),
            cache_dir=workspace.ingest_cache(dataset),
            progress=progress,
        )
    splits = ", ".join(f"{split} {summary.splits[split]:,}" for split in sorted(summary.splits))
    say(f"{dataset}: {summary.num_samples:,} samples ({splits}), {summary.num_looked_at:,} read now")
    for note in summary.notes:
        say(f"{dataset}: {note}")
    return summary
