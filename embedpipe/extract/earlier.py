"""Bring features of an earlier published store into a working group, instead of computing them again.

An empty group takes whole shards over; a group that has rows of its own takes the rows it lacks. Every file is
compared with the checksums of the store's `store.json` first, and what is damaged is left to be computed.
Knows nothing of where the earlier store lies.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from embedpipe.store import commit, ledger
from embedpipe.store.arrays import KEYS_LAYOUT, METADATA, PART_LAYOUT, ArrayLayout, layout_of
from embedpipe.store.commit import Transaction
from embedpipe.store.disk import make_folder, record_of_file, remove_tree
from embedpipe.store.encoding import encode_group, encode_metadata
from embedpipe.store.group import Group, probe_path
from embedpipe.store.holes import LOST, Holes
from embedpipe.store.layout import TapState
from embedpipe.store.ledger import Entry, TapChange
from embedpipe.store.published import Contents
from embedpipe.store.reader import FeatureStore

BATCH = 1024  # rows copied at a time


class EarlierStore(Protocol):
    """A published store that lies somewhere: in a folder, in a cache, at a remote."""

    @property
    def where(self) -> str:
        """In words, for messages."""
        ...

    def read(self, path: str) -> bytes | None:
        """A small file of the store; None if it cannot be had."""
        ...

    def fetch(self, paths: Sequence[str], folder: Path) -> None:
        """Bring files of the store to the same paths under `folder`, by link where possible; skip the missing."""
        ...


@dataclass(frozen=True)
class FolderStore:
    """A published store in a folder of the same file system."""

    folder: Path

    @property
    def where(self) -> str:
        return str(self.folder)

    def read(self, path: str) -> bytes | None:
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def fetch(self, paths: Sequence[str], folder: Path) -> None:
        for path in paths:
            if (self.folder / path).is_file():
                make_folder((folder / path).parent)
                os.link(self.folder / path, folder / path)


def seed(
    group: Group,
    contents: Contents,
    earlier: EarlierStore,
    wanted_keys: npt.NDArray[np.uint8],
    wanted_parts: npt.NDArray[np.int32],
    tap_names: Sequence[str],
) -> int:
    """Take over what the group lacks and an earlier store of the same spec has. Needs the lock and recovery.

    Parameters
    ----------
    contents
        What the earlier store's `store.json` says.
    wanted_keys, wanted_parts : uint8 array, shape (n, 16), int32 array, shape (n,)
    tap_names
        Taps to be filled.

    Returns
    -------
    int
        Wanted rows that were not there, or lacked a tap, and are complete as far as the earlier store goes.
    """
    assert contents.spec == group.spec
    folder = group.path / commit.JOURNAL / commit.SEED
    taps = {name: contents.taps[name] for name in tap_names if name in contents.taps}
    before = _num_complete(group, wanted_keys, wanted_parts, tap_names)
    try:
        if not taps or not contents.num_rows:
            return 0
        if group.num_rows == 0:
            _adopt(group, contents, earlier, taps, folder)
        elif not _was_ours(group, contents, taps):
            _absorb(group, contents, earlier, taps, (wanted_keys, wanted_parts), folder)
    finally:
        remove_tree(folder)
    return _num_complete(group, wanted_keys, wanted_parts, tap_names) - before


def _num_complete(
    group: Group,
    wanted_keys: npt.NDArray[np.uint8],
    wanted_parts: npt.NDArray[np.int32],
    tap_names: Sequence[str],
) -> int:
    plan = group.plan(wanted_keys, wanted_parts, [name for name in tap_names if name in group.taps])
    return plan.num_samples - plan.num_rows_to_compute


def _was_ours(group: Group, contents: Contents, taps: dict[str, TapState]) -> bool:
    """Whether the earlier store is a past state of this group, of which nothing was lost or dropped since."""
    entries, _ = ledger.read_ledger(group.path / ledger.NAME)
    if any(entry.kind in (*commit.MOVING, "repair") for entry in entries):
        return False
    written = {(path, record.xxh3) for entry in entries for path, record in entry.files.items()}
    names = [*taps, KEYS_LAYOUT.name, PART_LAYOUT.name]
    return all((path, contents.files[path].xxh3) in written for path in _shards(contents, names))


def _shards(contents: Contents, names: Iterable[str]) -> list[str]:
    chosen = tuple(f"{name}/c/" for name in names)
    return [path for path in contents.files if path.startswith(chosen)]


def _fetch_whole(contents: Contents, earlier: EarlierStore, paths: Sequence[str], folder: Path) -> set[str]:
    """Fetch files and return those that are as `store.json` says; the others are removed."""
    here = [path for path in paths if not (folder / path).exists()]
    earlier.fetch(here, folder)
    whole = set()
    for path in paths:
        if not (folder / path).exists():
            continue
        if record_of_file(folder / path) == contents.files[path]:
            whole.add(path)
        else:
            (folder / path).unlink()
    return whole


def _adopt(
    group: Group, contents: Contents, earlier: EarlierStore, taps: dict[str, TapState], folder: Path
) -> None:
    """Fill an empty group with whole shards."""
    tables = _shards(contents, [KEYS_LAYOUT.name, PART_LAYOUT.name])
    probes = [path for path in map(probe_path, taps) if path in contents.files]
    arrays = _shards(contents, taps)
    if len(_fetch_whole(contents, earlier, [*tables, *probes], folder)) < len(tables) + len(probes):
        return  # without its keys a store is worth nothing
    whole = _fetch_whole(contents, earlier, arrays, folder)
    transaction = Transaction(group.path)
    try:
        changes = []
        transaction.write(METADATA, encode_group())
        layouts: list[ArrayLayout] = [KEYS_LAYOUT, PART_LAYOUT]
        for tap in (taps[name] for name in sorted(taps)):
            layouts.append(layout_of(tap))
            changes.append(TapChange(tap, 0, tap.num_rows, _holes_without(tap, contents, whole)))
        for layout in layouts:
            transaction.write(layout.metadata_path, encode_metadata(layout, contents.num_rows))
        for path in sorted([*tables, *probes, *whole]):
            transaction.take(path, folder / path, contents.files[path])
        entry = Entry(group.state.num_entries, "seed", contents.num_rows, tuple(changes), transaction.files)
        transaction.commit(entry)
    except BaseException as error:
        group.interrupted()
        if isinstance(error, Exception):
            transaction.abandon()
        raise
    group.committed(entry)


def _holes_without(tap: TapState, contents: Contents, whole: set[str]) -> Holes:
    """Holes of a tap of which only the shards in `whole` could be had."""
    holes = tap.holes
    layout = layout_of(tap)
    for shard in range(-(-tap.num_rows // tap.shard_rows)):
        path = layout.shard_path(shard)
        if path in contents.files and path not in whole:
            start, stop = shard * tap.shard_rows, min((shard + 1) * tap.shard_rows, tap.num_rows)
            holes = holes.replaced(start, stop, Holes.from_ranges([(start, stop, LOST)]))
    return holes


def _absorb(
    group: Group,
    contents: Contents,
    earlier: EarlierStore,
    taps: dict[str, TapState],
    wanted: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]],
    folder: Path,
) -> None:
    """Copy the wanted rows that the group lacks, tap by tap."""
    tables = _shards(contents, [KEYS_LAYOUT.name, PART_LAYOUT.name])
    metadata = [f"{name}/{METADATA}" for name in (KEYS_LAYOUT.name, PART_LAYOUT.name, *taps)]
    if len(_fetch_whole(contents, earlier, [*tables, *metadata], folder)) < len(tables) + len(metadata):
        return
    store = FeatureStore(folder, dataclasses.replace(contents, taps=taps))
    keys, parts = wanted
    rows = store.rows_of(keys, parts)
    for name, tap in taps.items():
        present = rows >= 0
        present[present] = ~store.holes(name).mask(0, contents.num_rows)[rows[present]]
        chosen = np.flatnonzero(present)
        plan = group.plan(keys[chosen], parts[chosen], [name])
        needed_rows = [
            rows[chosen[plan.wanted_of_row[s.rows]]] for block in plan.blocks for s in block.segments
        ]
        if not needed_rows:
            continue
        layout = layout_of(tap)
        shards = np.unique(np.concatenate(needed_rows) // tap.shard_rows).tolist()
        whole = _fetch_whole(contents, earlier, [layout.shard_path(s) for s in shards], folder)
        had = [s for s in shards if layout.shard_path(s) in whole]
        if len(had) < len(shards):
            chosen = chosen[np.isin(rows[chosen] // tap.shard_rows, had)]
            plan = group.plan(keys[chosen], parts[chosen], [name])
        for block in plan.blocks:
            with group.writer(plan, block, batch=BATCH) as writer:
                for index, segment in enumerate(block.segments):
                    for start in range(writer.done(index), len(segment.rows), BATCH):
                        some = segment.rows[start : start + BATCH]
                        source = rows[chosen[plan.wanted_of_row[some]]]
                        writer.append(some, {name: store.read(name, source)})
                writer.commit()
