"""Small data sets that tests make themselves, and a project folder to ingest them in."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedpipe.ingest.options import DatasetOptions
from embedpipe.ingest.run import IngestSummary, ingest
from embedpipe.ingest.targets import TargetsSummary, make_targets
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.table import Manifest
from embedpipe.params import validate
from embedpipe.progress import Progress, silent


@dataclass(frozen=True)
class Project:
    """A folder with one data set called `photos`."""

    root: Path

    def ingest(self, raw: dict[str, Any], seed: int = 0, progress: Progress = silent) -> IngestSummary:
        return ingest(
            "photos",
            validate(DatasetOptions, raw, "params.yaml: datasets.photos"),
            seed=seed,
            root=self.root,
            out_dir=self.root / "data" / "manifests" / "photos",
            labels_path=self.labels_path,
            cache_dir=self.root / "cache",
            progress=progress,
        )

    def targets(self, **raw: Any) -> TargetsSummary:
        return make_targets(
            "kind",
            validate(TaskOptions, {"on": "photos", **raw}, "params.yaml: tasks.kind"),
            manifest=self.manifest,
            labels_path=self.labels_path,
            root=self.root,
            open_path=self.targets_dir / "open.parquet",
            sealed_path=self.targets_dir / "sealed.parquet",
            digest_path=self.targets_dir / "sealed.digest",
        )

    @property
    def manifest(self) -> Manifest:
        return Manifest.read(self.root / "data" / "manifests" / "photos" / "samples.parquet")

    @property
    def quarantine(self) -> str:
        return (self.root / "data" / "manifests" / "photos" / "quarantine.csv").read_text(encoding="utf-8")

    @property
    def labels_path(self) -> Path:
        return self.root / "data" / "labels" / "photos.parquet"

    @property
    def targets_dir(self) -> Path:
        return self.root / "data" / "targets" / "kind"

    def outputs(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted((self.root / "data").rglob("*"))
            if path.is_file()
        }

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def png() -> Callable[[int], bytes]:
    """Bytes of a small PNG; another number gives another image."""

    def make(number: int) -> bytes:
        file = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (6, 6), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture
def photos(project: Project, png: Callable[[int], bytes]) -> Project:
    """A project with 60 images in two class folders, cat and dog."""
    for i in range(60):
        project.write(f"photos/{'cat' if i % 2 else 'dog'}/{i:03d}.png", png(i))
    return project


@pytest.fixture
def folder() -> dict[str, Any]:
    """Options of the data set in `photos`."""
    return {"source": {"kind": "folder", "path": "photos"}}
