"""Erase samples from the working stores, and list what of DVC's still holds them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedpipe.errors import DataError
from embedpipe.manifest.table import Manifest
from embedpipe.steps.sections import Sections
from embedpipe.steps.stores import StorePlaces
from embedpipe.store.arrays import KEYS_LAYOUT, PART_LAYOUT, layout_of
from embedpipe.store.group import Group, find_groups, open_group
from embedpipe.store.publishing import publish
from embedpipe.store.reader import FeatureStore
from embedpipe.terminal import say
from embedpipe.tracking import cache_of, held_by_remote, remotes_of
from embedpipe.upkeep.compaction import erase, journals_of, md5s_of_rows
from embedpipe.workspace import Workspace


@dataclass
class Forgetting:
    """What one `forget` finds.

    Attributes
    ----------
    keys : tuple of bytes
        Of the sample: one a modality.
    listed : list of str
        ``<data set>/<sample_id>`` of every sample with these keys.
    rows : list of (Group, rows)
        Where the working stores hold it; without rows it is in the journal of a run that was killed.
    md5s : list of str
        Files that hold or held it, by MD5.
    cached : list of str
        Objects of DVC's cache among them.
    remotes : dict of name -> list of str or None
        Those that each remote holds; None if it could not be asked.
    """

    keys: tuple[bytes, ...]
    listed: list[str]
    rows: list[tuple[Group, list[int]]] = field(default_factory=list)
    md5s: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    remotes: dict[str, list[str] | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": self.keys[0].hex(),
            "keys": [key.hex() for key in self.keys],
            "listed": self.listed,
            "groups": {group.path.name: rows for group, rows in self.rows},
            "dvc": {"objects": self.md5s, "cached": self.cached, "remotes": self.remotes},
        }


def find_sample(workspace: Workspace, name: str) -> Forgetting:
    """Find a sample by id, ``<data set>/<id>`` or key (32 hex digits), in every store; touches nothing.

    Raises
    ------
    DataError
        If no manifest lists it, or two samples of different content have the id.
    """
    found_keys: dict[tuple[bytes, ...], list[str]] = {}
    wanted = bytes.fromhex(name) if _is_key(name) else None
    for dataset in Sections(workspace).entries("datasets"):
        path = workspace.manifest(dataset)
        if not path.is_file():
            continue
        manifest = Manifest.read(path)
        rows = (manifest.of(modality).keys for modality in manifest.modalities)
        for sample_id, *its_rows in zip(manifest.sample_ids, *rows, strict=True):
            full, keys = f"{dataset}/{sample_id}", tuple(row.tobytes() for row in its_rows)
            if name in (str(sample_id), full):
                found_keys.setdefault(keys, []).append(full)
            elif wanted is not None and wanted in keys:
                found_keys.setdefault((wanted,), []).append(full)
    if wanted is not None:
        found_keys.setdefault((wanted,), [])
    if not found_keys:
        raise DataError(
            f"{name}: expected a sample_id, <data set>/<sample_id> or a key of 32 hex digits, found it in no manifest; "
            "a sample that was removed already is forgotten by its key"
        )
    if len(found_keys) > 1:
        some = ", ".join(names[0] for names in found_keys.values())
        raise DataError(
            f"{name}: expected one sample, found {len(found_keys)}: {some}; name one as <data set>/<sample_id>"
        )
    ((keys, listed),) = found_keys.items()
    found = Forgetting(keys, listed)
    _find_rows(workspace, found)
    _find_objects(workspace, found)
    return found


def forget(workspace: Workspace, found: Forgetting) -> None:
    """Erase the sample's rows from every working store, and publish those again that held it."""
    for group, _ in found.rows:
        with group.lock():
            group.recover()
            for path in journals_of(group, set(found.keys)):
                path.unlink()
            rows = _rows_of(group.keys(), found.keys)
            if rows:
                erase(group, rows)
    # sums that the sample is part of, and its key
    shutil.rmtree(workspace.moments_dir, ignore_errors=True)
    for path in workspace.work_dir.glob("ingest/*/masks-*.parquet"):  # whose masks are read again
        path.unlink()
    for path in workspace.stores_dir.glob("*.windows.npz"):  # whose windows are counted again
        path.unlink()
    for backbone in Sections(workspace).entries("backbones"):
        folder = workspace.features(backbone)
        if not folder.exists():
            continue
        store = FeatureStore.open(folder)
        holders = [group for group, _ in found.rows if group.spec == store.spec]
        if not holders or not _rows_of(store.keys, found.keys):
            continue
        arrays = tuple(f"{name}/" for name in (*store.taps, KEYS_LAYOUT.name, PART_LAYOUT.name, "probe"))
        extra = {
            path: (folder / path).read_bytes()
            for path in store.contents.files
            if not path.startswith(arrays) and path != "zarr.json"
        }
        holders[-1].reload()
        publish(holders[-1], list(store.taps), folder, extra)


def show_forgetting(found: Forgetting, *, done: bool) -> None:
    """What was, or would be, erased, and what remains elsewhere."""
    what = "erased" if done else "to erase"
    for group, rows in found.rows:
        where = f"row {', '.join(map(str, rows))}" if rows else "the journal of a killed run"
        say(f"{what}: {where} of group {group.path.name}, from {len(group.state.taps)} taps")
    if not found.rows:
        say("no working store holds it")
    if found.cached:
        say(f"DVC's cache still holds it in {len(found.cached)} objects: {', '.join(found.cached)}")
    for remote, md5s in found.remotes.items():
        if md5s is None:
            say(f"DVC's remote {remote} could not be asked; it may hold: {', '.join(found.md5s)}")
        elif md5s:
            say(f"DVC's remote {remote} still holds it in {len(md5s)} objects: {', '.join(md5s)}")
    if found.cached or any(md5s is None or md5s for md5s in found.remotes.values()):
        say("once a store without it is committed, `dvc gc --workspace --cloud` removes objects that no longer count; "
            "heads trained on it stay as they are")  # fmt: skip
    if found.listed:
        say(
            f"{', '.join(found.listed)} is still listed: remove it from its source, or the next run embeds it again"
        )
    if not done:
        name = found.listed[0] if found.listed else found.keys[0].hex()
        say(f"nothing was removed; run `embedpipe forget {name} --yes` to erase it")


def _find_rows(workspace: Workspace, found: Forgetting) -> None:
    for info in find_groups(workspace.stores_dir):
        group = open_group(workspace.stores_dir, info.spec, generation=info.generation)
        with group.lock():
            group.recover()
            rows = _rows_of(group.keys(), found.keys)
            spooled = journals_of(group, set(found.keys))
        if rows or spooled:
            found.rows.append((group, rows))
            found.md5s += md5s_of_rows(group, rows)


def _find_objects(workspace: Workspace, found: Forgetting) -> None:
    found.md5s = sorted({*found.md5s, *_tracked_md5s(workspace, found.keys)})
    if not (workspace.root / ".dvc").is_dir():
        return
    cache = cache_of(workspace.root)
    found.cached = [md5 for md5 in found.md5s if cache.object(md5).exists()]
    found.remotes = {
        remote: held_by_remote(workspace.root, remote, found.md5s) for remote in remotes_of(workspace.root)
    }


def _tracked_md5s(workspace: Workspace, keys: tuple[bytes, ...]) -> Iterator[str]:
    """Files of published stores that hold one of the keys."""
    for backbone in Sections(workspace).entries("backbones"):
        folder = StorePlaces(workspace, backbone).folder
        if not folder.exists():
            continue
        store = FeatureStore.open(folder)
        rows = _rows_of(store.keys, keys)
        for layout in (KEYS_LAYOUT, PART_LAYOUT, *(layout_of(tap) for tap in store.taps.values())):
            for path in {layout.shard_path(row // layout.shard_rows) for row in rows}:
                md5 = store.contents.files[path].md5 if path in store.contents.files else None
                if md5 is not None:
                    yield md5


def _rows_of(stored: np.ndarray, keys: tuple[bytes, ...]) -> list[int]:
    """Every row of a sample: it has several where it is windows or crops, or of several modalities."""
    held = np.any([(stored == np.frombuffer(key, np.uint8)).all(axis=1) for key in keys], axis=0)
    rows: list[int] = np.flatnonzero(held).tolist()
    return rows


def _is_key(name: str) -> bool:
    return len(name) == 32 and not set(name.lower()) - set("0123456789abcdef")
