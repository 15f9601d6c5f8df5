"""Mend what `verify` found: the working store, the published store, and DVC's cache objects.

The three are one file on disk where nothing went wrong, so a damaged object must leave DVC's cache, or DVC links
it back over whatever was mended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedpipe.errors import DataError, StoreError
from embedpipe.features.card import CARD, read_card
from embedpipe.manifest.table import Manifest
from embedpipe.steps.extract import extract_features
from embedpipe.steps.sections import Sections, embedded_datasets
from embedpipe.steps.stores import StorePlaces
from embedpipe.steps.verify import verify_cache
from embedpipe.store.disk import md5_of_file
from embedpipe.store.verification import verify
from embedpipe.terminal import say
from embedpipe.tracking import DvcCache
from embedpipe.upkeep.repair import repair_group
from embedpipe.workspace import Workspace


def repair_stores(
    workspace: Workspace, backbones: Sequence[str], *, named: bool = False
) -> list[dict[str, Any]]:
    """Mend the stores of each backbone, embed again what is lost, publish, and put back DVC's objects.

    Raises
    ------
    DataError
        If a backbone that the user named, or none at all, has a store.
    StoreError
        If something cannot be mended; says what to do.
    """
    done = []
    for backbone in backbones:
        places = StorePlaces(workspace, backbone)
        if not places.groups and not places.folder.exists() and places.tracked.md5 is None:
            if named:
                raise DataError(f"{places.folder}: no such store; run `embedpipe extract {backbone}`")
            continue
        done.append(_repair(workspace, places))
    if not done:
        raise DataError(
            f"{workspace.data / 'features'}: expected a store to repair, found none; run `dvc repro`"
        )
    return done


def _repair(workspace: Workspace, places: StorePlaces) -> dict[str, Any]:
    said: dict[str, Any] = {"backbone": places.backbone, "groups": [], "cache": [], "published": []}
    for path in places.groups:
        mended = repair_group(
            path, places.candidates, specs=places.specs, published=places.published,
            known_keys=_known_keys(workspace, places.folder), wait_s=60.0,
        )  # fmt: skip
        if mended:
            said["groups"].append(
                {"group": path.name, "restored": mended.restored, "lost": mended.lost, "removed": mended.removed,
                 "notes": mended.notes}
            )  # fmt: skip
    cache = places.tracked.cache if places.tracked.md5 else None
    broken = [damage.path for damage in verify_cache(places.tracked)]
    for path in broken:
        path.unlink(missing_ok=True)
    said["published"] = [str(damage) for damage in _published_damages(places.folder)]
    if said["groups"] or broken or said["published"]:
        summary = extract_features(workspace, places.backbone)
        said["embedded"] = summary.num_embedded
        if cache is not None:
            said["cache"] = _put_back(cache, broken, places)
    return said


def _published_damages(folder: Path) -> list[Any]:
    if not folder.exists():
        return []
    try:
        return list(verify(folder).damages)
    except StoreError as error:
        return [error]


def _put_back(cache: DvcCache, broken: Iterable[Path], places: StorePlaces) -> list[dict[str, Any]]:
    """Link mended files into DVC's cache under the names of the objects that were damaged."""
    files = sorted((p for p in places.folder.rglob("*") if p.is_file()), key=lambda p: p.parts)
    listed = [(path.relative_to(places.folder).as_posix(), md5_of_file(path)) for path in files]
    md5_of = {md5: places.folder / name for name, md5 in listed}
    # a folder's object, as DVC writes it: where nothing else changed it comes out with the old name
    listing = json.dumps([{"md5": md5, "relpath": name} for name, md5 in listed], sort_keys=True).encode()
    out = []
    for path in broken:
        md5 = path.parent.name + path.name
        if md5 in md5_of:
            cache.put(md5, md5_of[md5])
        elif md5 == hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(listing)
        out.append({"object": md5, "restored": path.exists()})
    return out


def _known_keys(workspace: Workspace, store_dir: Path) -> np.ndarray:
    """Keys of what a backbone embeds in the order in which a first extraction stored them."""
    modality = read_card(store_dir).modality if (store_dir / CARD).is_file() else "image"
    manifests = [
        Manifest.read(workspace.manifest(name))
        for name in embedded_datasets(Sections(workspace))
        if workspace.manifest(name).is_file()
    ]
    found = [manifest.of(modality).keys for manifest in manifests if modality in manifest.modalities]
    if not found:
        return np.zeros((0, 16), np.uint8)
    keys = np.concatenate(found)
    _, first = np.unique(keys, axis=0, return_index=True)
    return np.ascontiguousarray(keys[np.sort(first)])


def show_repaired(done: Sequence[dict[str, Any]]) -> None:
    """What was mended, for a person."""
    for one in done:
        for group in one["groups"]:
            lost = ", ".join(f"{tap} ({rows:,} rows)" for tap, rows in group["lost"].items())
            pieces = [
                f"{len(group['restored'])} files put back" if group["restored"] else "",
                f"embedded again: {lost}" if lost else "",
                f"{len(group['removed'])} files of no use removed" if group["removed"] else "",
            ]
            say(f"{one['backbone']}, working store {group['group']}: {'; '.join(p for p in pieces if p)}")
            for note in group["notes"]:
                say(f"  {note}")
        for item in one["cache"]:
            what = (
                "put back"
                if item["restored"]
                else "removed; `dvc repro` makes it again, or `dvc fetch` brings it"
            )
            say(f"{one['backbone']}, DVC's cache: damaged object {item['object']}: {what}")
        if one["published"]:
            say(f"{one['backbone']}, published: {len(one['published'])} damaged files replaced")
        if not (one["groups"] or one["cache"] or one["published"]):
            say(f"{one['backbone']}: nothing to repair")
