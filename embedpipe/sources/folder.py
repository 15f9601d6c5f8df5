"""A folder of images, here or at an address: a class a sub-folder, or `train`, `val`, `test` above the classes.

A sample's name and locator are its path inside the folder; its label column is `label`. Images that lie
in no class folder have no label and are embedded all the same.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field

from embedpipe.errors import DataError
from embedpipe.params import StrictModel
from embedpipe.progress import Progress, silent
from embedpipe.remote import is_remote
from embedpipe.sources.base import CONTENT, ETAG, Access, Modality, Scanned, Seen, refuse_columns
from embedpipe.sources.decode import image_suffixes
from embedpipe.sources.files import Check, look_at_all, read_image
from embedpipe.sources.places import STORAGE, FileInfo, Files, join, locate, suffix_of

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class FolderOptions(StrictModel):
    """A folder of image files."""

    kind: Literal["folder"] = Field(description="Marks this source.")
    path: str = Field(
        min_length=1,
        description="The folder, or its address (s3://, gs://, https://); a relative path starts at the folder of "
        "params.yaml.",
    )
    storage: dict[str, Any] | None = Field(default=None, description=STORAGE)
    check: Check = Field(
        default="header",
        description="How ingest looks at a file: its header (fast; a file cut off in the middle is found "
        "when "
        "it is embedded) or all of it (decode: 3 ms a photograph).",
    )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has."""
        return ("image",)


class FolderSource:
    """Image files below one folder."""

    modalities: tuple[Modality, ...] = ("image",)

    def __init__(self, options: FolderOptions, access: Access) -> None:
        refuse_columns("folder", access, "relpath", [CONTENT, ETAG])
        self.options = options
        self.version = access.version
        self.folder = locate(access.root, options.path)
        self.files = access.files(options.storage)
        self._notes: list[str] = []

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List every image, sorted by path."""
        infos, passed_over = list_images(self.folder, self.files)
        self._notes = _notes_on(passed_over)
        given = {locator: info for locator, info in infos.items() if info is not None}
        yield from self._look(sorted(infos), known, progress, given)
        self.files.sweep()

    def scan_changes(
        self, changes: Mapping[str, str], known: Mapping[str, Seen], progress: Progress = silent
    ) -> Iterator[Scanned]:
        """The images known, as `changes` leave them; those that it names are looked at, and no others."""
        suffixes = image_suffixes()
        others = sorted(name for name in changes if suffix_of(name) not in suffixes)
        if others:
            raise DataError(
                f"feed: expected ids of images below {self.folder}, such as class/photo.jpg, found "
                f"{', '.join(map(repr, others[:3]))}"
            )
        left = {name for name, op in changes.items() if op != "delete"} | (known.keys() - changes.keys())
        self._notes = []
        yield from self._look(
            sorted(left), known, progress, {}, {name: known[name] for name in left - changes.keys()}
        )

    def _look(
        self,
        locators: list[str],
        known: Mapping[str, Seen],
        progress: Progress,
        infos: Mapping[str, FileInfo],
        taken: Mapping[str, Seen] | None = None,
    ) -> Iterator[Scanned]:
        """Look at all but those that are taken as they are."""
        with_splits = self._has_splits(locators)
        taken = taken or {}
        looked = [locator for locator in locators if locator not in taken]
        looks = look_at_all(
            self.files,
            [join(self.folder, locator) for locator in looked],
            looked,
            self.options.check,
            self.version,
            known,
            progress,
            infos,
        )
        for locator in locators:
            seen = taken[locator] if locator in taken else next(looks)
            parts = locator.split("/")
            split = SPLIT_FOLDERS[parts.pop(0).lower()] if with_splits else None
            label = parts[0] if len(parts) > 1 else None
            yield Scanned(
                locator, locator, seen.key, seen.reason, {"label": label}, split, seen.stamp or None
            )
        next(looks, None)  # so that the last files are reported

    def read(self, locator: str) -> Image.Image:
        """One image, mode RGB or L."""
        return read_image(self.files, join(self.folder, locator))

    def read_encoded(self, locator: str) -> bytes:
        """The file of one image."""
        return self.files.read(join(self.folder, locator))

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


def list_images(folder: str, files: Files) -> tuple[dict[str, FileInfo | None], Counter[str]]:
    """Relative paths of all image files below a folder, with what a remote listing says; how many others, by suffix.

    Raises
    ------
    DataError
        If there is no such folder, or no image in it.
    """
    suffixes = image_suffixes()
    found: dict[str, FileInfo | None] = {}
    passed_over: Counter[str] = Counter()
    for path, info in _files_below(folder, files):
        suffix = suffix_of(path)
        if suffix not in suffixes:
            passed_over[suffix or "no suffix"] += 1
        elif not _is_utf8(path):
            passed_over["a name that is not UTF-8"] += 1
        else:
            found[path] = info
    if not found:
        others = f"found {_counted(passed_over)}" if passed_over else "found nothing"
        raise DataError(
            f"{folder}: expected images in a folder a class, {others}; "
            "suffixes that count are those of formats Pillow reads, such as .jpg and .png"
        )
    return found, passed_over


def _files_below(folder: str, files: Files) -> Iterator[tuple[str, FileInfo | None]]:
    if is_remote(folder):
        try:
            for path, info in files.find(folder):
                if not any(part.startswith(".") for part in path.split("/")):
                    yield path, info
        except FileNotFoundError as error:
            raise DataError(
                f"{folder}: expected a folder of images, found no such bucket or folder; check `source.path`"
            ) from error
        return
    if not os.path.exists(folder):
        raise DataError(
            f"{folder}: expected a folder of images, found no such folder; "
            "check `source.path` (relative paths start at the folder of params.yaml)"
        )
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: expected a folder of images, found a file; check `source.path`")
    yield from ((path, None) for path in _walk(Path(folder)))


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
