"""Where the features of one backbone lie: working groups, the published store, and what DVC tracks of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from embedpipe.errors import StoreError
from embedpipe.spec import BackboneSpec
from embedpipe.store import published
from embedpipe.store.disk import FileRecord
from embedpipe.store.published import Contents, parse_contents
from embedpipe.tracking import TrackedFolder
from embedpipe.workspace import Workspace


class StorePlaces:
    """Every place of one backbone's features, as far as they can be read.

    Attributes
    ----------
    folder : Path
        The published store.
    tracked : TrackedFolder
        The same, as dvc.lock names it.
    """

    def __init__(self, workspace: Workspace, backbone: str) -> None:
        self.backbone = backbone
        self.folder = workspace.features(backbone)
        self.tracked = TrackedFolder(workspace.root, self.folder)
        self._stores_dir = workspace.stores_dir

    @cached_property
    def published(self) -> list[Contents]:
        """What the published store and the one that dvc.lock names say they hold; a damaged one is left out."""
        found = []
        data = [self.tracked.read(published.NAME)]
        if (self.folder / published.NAME).is_file():
            data.insert(0, (self.folder / published.NAME).read_bytes())
        for one in data:
            try:
                found += [] if one is None else [parse_contents(one, self.folder)]
            except StoreError:
                continue
        return found

    @cached_property
    def specs(self) -> list[BackboneSpec]:
        """Specs that the backbone has or had: when it last ran, and as published."""
        found = [contents.spec for contents in self.published]
        last = self._stores_dir / f"{self.backbone}.last.json"
        spec = BackboneSpec.parse(last.read_text("utf-8", "replace")) if last.is_file() else None
        return found if spec is None else [spec, *found]

    @property
    def groups(self) -> list[Path]:
        """Folders of the working groups of these specs, all generations, even without a readable name plate."""
        fingerprints = {spec.fingerprint for spec in self.specs}
        if not self._stores_dir.is_dir():
            return []
        return [
            path
            for path in sorted(self._stores_dir.iterdir())
            if path.is_dir() and path.name.partition("-")[0] in fingerprints
        ]

    def candidates(self, path: str, record: FileRecord) -> Iterator[Path]:
        """Where a whole copy of a working group's file may lie."""
        yield self.folder / path
        if record.md5 is not None:
            yield self.tracked.cache.object(record.md5)
