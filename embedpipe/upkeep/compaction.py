"""Drop dead rows from a working group, and erase single samples from it: commits after which rows have moved.

Whole shards are written anew beside the old ones and put in place together; until then readers are refused, so
that none takes one row for another. Reads and writes a working group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.store.arrays import KEYS_LAYOUT, PART_LAYOUT, ArrayLayout, ArrayReader, layout_of
from embedpipe.store.commit import JOURNAL, Transaction
from embedpipe.store.encoding import encode_metadata, encode_shard
from embedpipe.store.group import Group
from embedpipe.store.holes import FORGOTTEN, Holes
from embedpipe.store.join import KEY_NBYTES, join
from embedpipe.store.journal import SUFFIX, read_journal
from embedpipe.store.layout import TapState
from embedpipe.store.ledger import NAME, Entry, TapChange, read_ledger

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
ERASED_PART = -1  # part number of a row whose key was erased: no sample has it


@dataclass(frozen=True)
class Dead:
    """Rows of a group that no wanted sample stands in.

    Attributes
    ----------
    mask : bool array, shape (num_rows,)
    nbytes : int
        Bytes of features in these rows, about what compacting frees.
    rewritten_nbytes : int
        Bytes of features behind the first of them: written anew before the old ones go.
    """

    mask: BoolArray
    nbytes: int
    rewritten_nbytes: int

    @property
    def num_rows(self) -> int:
        return int(self.mask.sum())


def find_dead(group: Group, wanted_keys: npt.NDArray[np.uint8]) -> Dead:
    """Rows whose key is not among `wanted_keys`, shape (n, 16)."""
    keys, num = group.keys(), len(wanted_keys)
    no_part = np.zeros(max(len(keys), num), np.int32)  # a sample lives with all its parts
    mask = join(wanted_keys, no_part[:num], keys, no_part[: len(keys)]).rows >= num
    nbytes = rewritten = 0
    if mask.any():
        first = int(np.argmax(mask))
        for tap in group.state.taps.values():
            present = ~tap.holes.mask(0, tap.num_rows)
            nbytes += int((present & mask[: tap.num_rows]).sum()) * tap.row_nbytes
            rewritten += int((present & ~mask[: tap.num_rows])[first:].sum()) * tap.row_nbytes
    return Dead(mask, nbytes, rewritten)


def compact(group: Group, dead: BoolArray) -> None:
    """Write the living rows close together, in their order. Needs the lock and recovery.

    Parameters
    ----------
    dead : bool array, shape (num_rows,)
        At least one row must live: a group without any is removed as a folder.
    """
    assert dead.shape == (group.num_rows,) and not dead.all()
    if not dead.any():
        return
    kept = np.flatnonzero(~dead).astype(np.int64)
    first = int(np.argmax(dead))
    changes, removed = [], []
    transaction = _Rewrite(group)
    with transaction:
        tables: list[tuple[ArrayLayout, int, TapState | None]] = [
            (KEYS_LAYOUT, group.num_rows, None),
            (PART_LAYOUT, group.num_rows, None),
            *((layout_of(tap), tap.num_rows, tap) for tap in group.state.taps.values()),
        ]
        for layout, num_rows, tap in tables:
            living = kept[kept < num_rows]
            holes = Holes.empty() if tap is None else _moved_holes(tap, living)
            reader = ArrayReader(group.path, layout, num_rows, group.state.files)
            for shard in range(first // layout.shard_rows, -(-num_rows // layout.shard_rows)):
                rows = living[shard * layout.shard_rows : (shard + 1) * layout.shard_rows]
                path, low = layout.shard_path(shard), shard * layout.shard_rows
                if len(rows) and not holes.mask(low, low + len(rows)).all():
                    transaction.write(path, encode_shard(layout, reader.gather(rows)))
                elif path in group.state.files:
                    removed.append(path)
            transaction.write(layout.metadata_path, encode_metadata(layout, len(living)))
            if tap is not None:
                after = dataclasses.replace(tap, num_rows=len(living), holes=Holes.empty())
                changes.append(TapChange(after, 0, num_rows, holes))
        transaction.commit("compact", len(kept), changes, removed)


def erase(group: Group, rows: Sequence[int]) -> None:
    """Take the features and keys of rows out of every shard and journal. Needs the lock and recovery."""
    chosen = np.array(sorted(rows), np.int64)
    for path in journals_of(group, {key.tobytes() for key in group.keys()[chosen]}):
        path.unlink()
    transaction = _Rewrite(group)
    changes = []
    with transaction:
        for layout, fill in ((KEYS_LAYOUT, 0), (PART_LAYOUT, ERASED_PART)):
            _overwrite(transaction, group, layout, group.num_rows, chosen, fill)
        for tap in group.state.taps.values():
            here = chosen[chosen < tap.num_rows]
            _overwrite(transaction, group, layout_of(tap), tap.num_rows, here, np.nan)
            holes = tap.holes
            for row in here.tolist():
                holes = holes.replaced(row, row + 1, Holes.from_ranges([(row, row + 1, FORGOTTEN)]))
            changes.append(TapChange(dataclasses.replace(tap, holes=Holes.empty()), 0, tap.num_rows, holes))
        transaction.commit("forget", group.num_rows, changes, [])


def journals_of(group: Group, keys: Collection[bytes]) -> list[Path]:
    """Journals that hold one of these keys, or that cannot be read: a kill leaves rows there that no shard has."""
    out = []
    for path in sorted((group.path / JOURNAL).rglob(f"*{SUFFIX}")):
        found = read_journal(path)
        if found is None or any(row[:KEY_NBYTES].tobytes() in keys for row in found.keys):
            out.append(path)
    return out


def md5s_of_rows(group: Group, rows: Sequence[int]) -> list[str]:
    """MD5 of every version that the group ever published of the shards that hold these rows, by the ledger."""
    entries, _ = read_ledger(group.path / NAME)
    layouts = [KEYS_LAYOUT, PART_LAYOUT, *(layout_of(tap) for tap in group.state.taps.values())]
    paths = {layout.shard_path(row // layout.shard_rows) for layout in layouts for row in rows}
    found = {record.md5 for entry in entries for path, record in entry.files.items() if path in paths}
    return sorted(md5 for md5 in found if md5 is not None)


class _Rewrite:
    """A transaction that leaves the group in need of recovery where it fails."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def __enter__(self) -> None:
        self._group.check_writable()
        self._transaction = Transaction(self._group.path)

    def write(self, path: str, data: bytes) -> None:
        self._transaction.write(path, data)

    def commit(self, kind: str, num_rows: int, changes: list[TapChange], removed: list[str]) -> None:
        entry = Entry(
            self._group.state.num_entries, kind, num_rows, tuple(changes), self._transaction.files, tuple(removed)
        )  # fmt: skip
        self._transaction.commit(entry)
        self._group.committed(entry)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._group.interrupted()
            if isinstance(error, Exception):
                self._transaction.abandon()


def _overwrite(
    transaction: _Rewrite, group: Group, layout: ArrayLayout, num_rows: int, rows: IntArray, fill: Any
) -> None:
    for shard in np.unique(rows // layout.shard_rows).tolist():
        path, low = layout.shard_path(shard), shard * layout.shard_rows
        if path not in group.state.files:
            continue
        high = min(low + layout.shard_rows, num_rows)
        content = ArrayReader(group.path, layout, num_rows, group.state.files).read(low, high)
        content[rows[(rows >= low) & (rows < high)] - low] = fill
        transaction.write(path, encode_shard(layout, content))


def _moved_holes(tap: TapState, living: IntArray) -> Holes:
    return Holes.from_ranges(_moved_ranges(tap, living))


def _moved_ranges(tap: TapState, living: IntArray) -> Iterator[tuple[int, int, str]]:
    for start, stop, reason in tap.holes.ranges():
        yield int(np.searchsorted(living, start)), int(np.searchsorted(living, stop)), reason
