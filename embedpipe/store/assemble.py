"""Turn the micro-batches of a block into shards, keys and metadata, inside one transaction.

A shard is encoded once, whole: rows it held before are copied from the old one, which stays as it is. Rows
are copied straight to where they are written from.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.store.arrays import KEYS_LAYOUT, METADATA, PART_LAYOUT, ArrayLayout, ArrayReader, layout_of
from embedpipe.store.commit import Transaction
from embedpipe.store.encoding import encode_group, encode_metadata, encode_shard, shard_parts
from embedpipe.store.gates import NUM_SAMPLED, BlockStatistics
from embedpipe.store.holes import NOT_WANTED, Holes
from embedpipe.store.layout import TapState
from embedpipe.store.ledger import LedgerState, TapChange

BoolArray = npt.NDArray[np.bool_]
Batch = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]  # rows (n,) ascending, values (n, ...)


def write_tap(
    transaction: Transaction,
    state: LedgerState,
    before: TapState,
    stop: int,
    batches: list[Batch],
    failed: dict[int, str],
    first: int,
) -> TapChange:
    """Write the shards of one tap that a block adds rows to, and its metadata.

    Parameters
    ----------
    before
        The tap as it stands; `num_rows` 0 if it is new.
    first, stop
        Rows of the block.
    batches
        The tap's new features.
    failed
        Row -> reason of the rows that were tried and failed.
    """
    start = min(before.num_rows, first)
    after = dataclasses.replace(before, num_rows=max(before.num_rows, stop), holes=Holes.empty())
    layout = layout_of(after)
    filled = np.zeros(stop - start, bool)
    for rows, _ in batches:
        filled[rows - start] = True
    for shard in np.unique((np.flatnonzero(filled) + start) // layout.shard_rows).tolist():
        low = shard * layout.shard_rows
        high = min(low + layout.shard_rows, after.num_rows)
        put = _Rows(ArrayReader(transaction.root, layout, before.num_rows, state.files), batches, low)
        transaction.write(layout.shard_path(shard), shard_parts(layout, high - low, put))
    if layout.metadata_path not in state.files or after.num_rows != before.num_rows:
        transaction.write(layout.metadata_path, encode_metadata(layout, after.num_rows))
    holes = _holes(before, start, stop, filled, failed)
    return TapChange(after, start, stop, holes, _statistics(batches))


def write_keys(
    transaction: Transaction,
    state: LedgerState,
    new_keys: npt.NDArray[np.uint8],
    new_parts: npt.NDArray[np.int32],
) -> None:
    """Append keys and parts to the group's rows, and write the group's own metadata the first time."""
    if METADATA not in state.files:
        transaction.write(METADATA, encode_group())
    start, stop = state.num_rows, state.num_rows + len(new_keys)
    if start == stop:
        return
    tables: list[tuple[ArrayLayout, npt.NDArray[Any]]] = [(KEYS_LAYOUT, new_keys), (PART_LAYOUT, new_parts)]
    for layout, new in tables:
        step = layout.shard_rows
        for shard in range(start // step, -(-stop // step)):
            low, high = shard * step, min((shard + 1) * step, stop)
            content = _old_rows(transaction.root, state, layout, shard, start, high)
            content[max(low, start) - low :] = new[max(low, start) - start : high - start]
            transaction.write(layout.shard_path(shard), encode_shard(layout, content))
        transaction.write(layout.metadata_path, encode_metadata(layout, stop))


class _Rows:
    """Rows of one shard: what it held before, overwritten by the batches."""

    def __init__(self, old: ArrayReader, batches: list[Batch], low: int) -> None:
        self._old = old
        self._low = low
        self._batches = [batch for batch in batches if batch[0][-1] >= low]
        self._firsts = np.array([rows[0] for rows, _ in self._batches], np.int64)
        self._lasts = np.array([rows[-1] for rows, _ in self._batches], np.int64)

    def __call__(self, out: npt.NDArray[Any], start: int) -> None:
        first = self._low + start
        last = first + len(out)
        pieces = []
        for i in np.flatnonzero((self._firsts < last) & (self._lasts >= first)).tolist():
            rows, values = self._batches[i]
            low, high = np.searchsorted(rows, (first, last)).tolist()
            if low < high:
                pieces.append((rows[low:high] - first, values[low:high]))
        if sum(len(places) for places, _ in pieces) < len(out):  # a row is in no two batches
            self._old.read(first, last, out)
        for places, some in pieces:
            begin, end = int(places[0]), int(places[-1]) + 1
            out[slice(begin, end) if end - begin == len(places) else places] = some


def _old_rows(
    root: Path, state: LedgerState, layout: ArrayLayout, shard: int, num_rows: int, stop: int
) -> npt.NDArray[Any]:
    """Rows of a shard up to `stop`, with what it holds already below `num_rows`."""
    old = ArrayReader(root, layout, num_rows, state.files)
    return old.read(shard * layout.shard_rows, stop)


def _holes(before: TapState, start: int, stop: int, filled: BoolArray, failed: dict[int, str]) -> Holes:
    """Every hole of the tap in [start, stop) after the commit."""
    decided = filled.copy()
    decided[np.fromiter(failed, np.int64, len(failed)) - start] = True
    ranges = [(row, row + 1, reason) for row, reason in failed.items()]
    never = (np.arange(start, stop) >= before.num_rows) & ~decided
    ranges += Holes.from_mask(never, NOT_WANTED, start).ranges()
    old = before.holes.within(start, stop)
    for reason in sorted(set(old.reasons)):
        kept = Holes.from_ranges(r for r in old.ranges() if r[2] == reason).mask(start, stop) & ~decided
        ranges += Holes.from_mask(kept, reason, start).ranges()
    return Holes.from_ranges(ranges)


def _statistics(batches: list[Batch]) -> BlockStatistics | None:
    """Over evenly spaced rows, in the order of rows: the same whatever the order of the batches."""
    if not batches:
        return None
    rows = np.concatenate([rows for rows, _ in batches])
    order = np.argsort(rows)
    chosen = order[:: -(-len(rows) // NUM_SAMPLED)]
    ends = np.cumsum([len(rows) for rows, _ in batches])
    sampled = np.empty((len(chosen), *batches[0][1].shape[1:]), batches[0][1].dtype)
    which = np.searchsorted(ends, chosen, side="right")
    for i in np.unique(which).tolist():
        values, here = batches[i][1], which == i
        sampled[here] = values[chosen[here] - (ends[i] - len(values))]
    return BlockStatistics.of(sampled)
