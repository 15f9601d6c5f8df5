"""Where the mask of each image lies: in a folder beside the images, or where a column says; here or at an address.

Knows nothing of what masks hold.
"""

# N samples

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedpipe.errors import DataError
from embedpipe.ingest.labels import text_of
from embedpipe.ingest.raw import RawLabels
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.table import Manifest
from embedpipe.remote import is_remote
from embedpipe.sources.places import Files, join, locate, parent_of, suffix_of

SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Formats that keep every value as it is."""
LOSSY = (".jpg", ".jpeg")


def masks_in_folder(
    where: str, options: TaskOptions, images: Manifest, files: Files, root: Path
) -> list[str | None]:
    """The mask of each image: of the same path below the folder, whatever its suffix.

    Raises
    ------
    DataError
        If there is no such folder, no image has a mask, or one has two.
    """
    assert options.folder is not None
    folder = locate(root, options.folder)
    if not files.exists(folder):
        raise DataError(
            f"{where}.labels: expected a folder of masks, found no folder {folder}; relative paths start at params.yaml"
        )
    by_stem: dict[str, str] = {}
    for name in _names_below(files, folder):
        if os.path.basename(name).startswith(".") or suffix_of(name) not in SUFFIXES + LOSSY:
            continue
        stem = os.path.splitext(name)[0]
        if stem in by_stem:
            raise DataError(
                f"{where}: expected one mask a sample, found {by_stem[stem]} and {name} in {folder}; take one away"
            )
        by_stem[stem] = name
    stems = [os.path.splitext(str(locator).removeprefix("image:"))[0] for locator in images.locators]
    if not any(stem in by_stem for stem in stems):
        # of a table of images/1.png, images/2.png ... masks may lie below their folder alone
        shared = ""
        with suppress(ValueError):  # no samples, or absolute paths beside relative ones
            shared = os.path.commonpath([os.path.dirname(stem) for stem in stems])
        stems = [stem.removeprefix(f"{shared}/") for stem in stems]
    if not any(stem in by_stem for stem in stems):
        example, there = (stems[0] if stems else ""), ", ".join(map(repr, sorted(by_stem)[:3])) or "none"
        raise DataError(
            f"{where}.labels: expected masks named as the images, such as {example + '.png'!r}, found {there} in "
            f"{folder}"
        )
    return [join(folder, by_stem[stem]) if stem in by_stem else None for stem in stems]


def _names_below(files: Files, folder: str) -> Iterator[str]:
    """Paths of files inside a folder, with forward slashes."""
    if is_remote(folder):
        yield from (name for name, _ in files.find(folder))
        return
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            yield Path(parent, name).relative_to(folder).as_posix()


def masks_in_column(
    where: str, options: TaskOptions, images: Manifest, raw: RawLabels, root: Path
) -> list[str | None]:
    """The mask that a column names for each image.

    Raises
    ------
    DataError
        If there is no file at a path.
    """
    if options.masks is not None:
        folder = locate(root, options.masks)
    elif raw.folder is not None:
        folder = raw.folder
    else:
        folder = _source_folder(images.source, root)
    texts = [text_of(value) for value in raw.columns[0]]
    paths = [None if text is None else locate(root, join(folder, text)) for text in texts]
    absent = [path for path in paths if path is not None and not is_remote(path) and not os.path.isfile(path)]
    if absent:
        raise DataError(
            f"{where}: expected a mask at each path in {raw.words}, found no file at {len(absent):,} of them "
            f"({', '.join(absent[:3])}); correct them, or name the folder they start at with {where}.masks"
        )
    return paths


def _source_folder(source: Mapping[str, Any], root: Path) -> str:
    """Where the paths of a data set start."""
    if source.get("images"):
        return locate(root, source["images"])
    path = locate(root, str(source.get("path") or "."))
    return path if source.get("kind") == "folder" or os.path.isdir(path) else parent_of(path)
