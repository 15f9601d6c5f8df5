"""A folder of images: a class a sub-folder, or `train`, `val` and `test` above the class folders.

A sample's name and locator are its path inside the folder; its label column is `label`. Images that lie
in no class folder have no label and are embedded all the same.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import Field

from embedpipe.errors import DataError
from embedpipe.params import StrictModel
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import Modality, Scanned, Seen, refuse_id_column
from embedpipe.sources.decode import image_suffixes
from embedpipe.sources.files import Check, look_at_all, read_image

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class FolderOptions(StrictModel):
    """A folder of image files."""

    kind: Literal["folder"] = Field(description="Marks this source.")
    path: str = Field(
        min_length=1, description="The folder; a relative path starts at the folder of params.yaml."
    )
    check: Check = Field(
        default="header",
        description="How ingest looks at a file: its header (fast; a file cut off in the middle is found "
        "when "
        "it is embedded) or all of it (decode: 3 ms a photograph).",
    )


class FolderSource:
    """Image files below one folder."""

    modalities: tuple[Modality, ...] = ("image",)

    def __init__(self, options: FolderOptions, root: Path, id_column: str | None = None) -> None:
        refuse_id_column("folder", id_column, "relpath")
        self.options = options
        self.folder = (root / Path(options.path).expanduser()).resolve()
        self._notes: list[str] = []

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List every image, sorted by path."""
        locators, passed_over = list_images(self.folder)
        with_splits = self._has_splits(locators)
        self._notes = _notes_on(passed_over)
        paths = [self.folder / locator for locator in locators]
        for locator, seen in zip(
            locators, look_at_all(paths, locators, self.options.check, known, progress), strict=True
        ):
            parts = locator.split("/")
            split = SPLIT_FOLDERS[parts.pop(0).lower()] if with_splits else None
            label = parts[0] if len(parts) > 1 else None
            yield Scanned(
                locator, locator, seen.key, seen.reason, {"label": label}, split, seen.stamp or None
            )

    def read(self, locator: str) -> Image.Image:
        """One image, mode RGB or L."""
        return read_image(self.folder / locator)

    def notes(self) -> list[str]:
        return self._notes

    def _has_splits(self, locators: list[str]) -> bool:
        """Whether the folders at the top are train/val/test rather than classes."""
        tops = {locator.split("/")[0] for locator in locators if "/" in locator}
        named = {top for top in tops if top.lower() in SPLIT_FOLDERS}
        kinds = {SPLIT_FOLDERS[top.lower()] for top in named}
        if "train" not in kinds or len(kinds) < 2:
            return False  # one such name alone may well be a class: a train beside a car
        others = sorted(tops - named) or sorted(locator for locator in locators if "/" not in locator)
        if others:
            raise DataError(
                f"{self.folder}: expected either split folders ({', '.join(sorted(named))}) or class "
                "folders, "
                f"found both: {', '.join(map(repr, others[:3]))} beside them; move it into one of them"
            )
        return True


def list_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """Relative paths of all image files below a folder, sorted; and how many others there are, by suffix.

    Raises
    ------
    DataError
        If there is no such folder, or no image in it.
    """
    if not folder.exists():
        raise DataError(
            f"{folder}: expected a folder of images, found no such folder; "
            "check `source.path` (relative paths start at the folder of params.yaml)"
        )
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, found a file; check `source.path`")
    suffixes = image_suffixes()
    locators: list[str] = []
    passed_over: Counter[str] = Counter()
    for path in _walk(folder):
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in suffixes:
            passed_over[suffix or "no suffix"] += 1
        elif not _is_utf8(path):
            passed_over["a name that is not UTF-8"] += 1
        else:
            locators.append(path)
    if not locators:
        found = f"found {_counted(passed_over)}" if passed_over else "found nothing"
        raise DataError(
            f"{folder}: expected images in a folder a class, {found}; "
            "suffixes that count are those of formats Pillow reads, such as .jpg and .png"
        )
    return sorted(locators), passed_over


def _walk(folder: Path) -> Iterator[str]:
    """Relative posix paths of all files; hidden ones are left out, linked folders are followed once."""
    visited: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        stat = os.stat(parent)
        if (stat.st_dev, stat.st_ino) in visited:
            folders.clear()
            continue
        visited.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(parent, folder)
        prefix = "" if relative == "." else relative.replace(os.sep, "/") + "/"
        yield from (prefix + name for name in names if not name.startswith("."))


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _counted(passed_over: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {what}" for what, count in sorted(passed_over.items()))


def _notes_on(passed_over: Counter[str]) -> list[str]:
    if not passed_over:
        return []
    total = sum(passed_over.values())
    return [f"passed over {total:,} files that are no images by their suffix ({_counted(passed_over)})"]
