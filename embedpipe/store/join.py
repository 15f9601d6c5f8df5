"""Match rows by key and part: one sort over both sides, no loop over rows.

100 million keys sort in seconds, where as many random binary searches take minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint8]
PartArray = npt.NDArray[np.int32]


KEY_NBYTES = 16
ROW_KEY_NBYTES = KEY_NBYTES + 4


@dataclass(frozen=True)
class Join:
    """Where each wanted (key, part) stands.

    Attributes
    ----------
    rows : int64 array, shape (n,)
        Row of each wanted element: below the number of existing rows if it exists, else the row it gets
        at the end, in wanted order, duplicates once.
    first_of_new : int64 array, shape (m,)
        Index into wanted of each new row, ascending.
    """

    rows: IntArray
    first_of_new: IntArray


def join(keys: KeyArray, parts: PartArray, wanted_keys: KeyArray, wanted_parts: PartArray) -> Join:
    """Match wanted (key, part) pairs against existing rows.

    Parameters
    ----------
    keys, wanted_keys : uint8 arrays, shapes (N, 16) and (n, 16)
    parts, wanted_parts : int32 arrays, shapes (N,) and (n,)
    """
    num_rows, num_wanted = len(keys), len(wanted_keys)
    high, low = _halves(np.concatenate([keys, wanted_keys]))
    part = np.concatenate([parts, wanted_parts]).astype(np.int32, copy=False)
    order = _stable_order(high, low, part)
    starts = _group_starts(order, high, low, part)
    # the first of a group is its existing row if there is one, else its first wanted element
    first = order[starts]
    is_new = first >= num_rows
    first_of_new = np.sort(first[is_new]) - num_rows
    row_of_group = first.copy()
    rank = np.empty(num_wanted, np.int64)
    rank[first_of_new] = np.arange(len(first_of_new))
    row_of_group[is_new] = num_rows + rank[first[is_new] - num_rows]
    lengths = np.diff(np.append(starts, len(order)))
    rows = np.empty(num_rows + num_wanted, np.int64)
    rows[order] = np.repeat(row_of_group, lengths)
    return Join(rows[num_rows:], first_of_new)


def row_keys(keys: KeyArray, parts: PartArray) -> KeyArray:
    """What names each row: its key and, as little-endian int32, its part number; uint8, shape (n, 20)."""
    numbers = np.ascontiguousarray(parts, "<i4").view(np.uint8).reshape(-1, 4)
    return np.concatenate([keys, numbers], axis=1)


def _halves(keys: KeyArray) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    words = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


def _stable_order(high: npt.NDArray[Any], low: npt.NDArray[Any], part: npt.NDArray[Any]) -> IntArray:
    """Order by (high, low, part, index). Keys are hashes: equal `high` nearly always means equal keys."""
    order = np.argsort(high).astype(np.int64, copy=False)
    sorted_high = high[order]
    same = sorted_high[1:] == sorted_high[:-1]
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))
    if not len(tied):
        return order
    # runs of equal `high` into the order of index: one plain sort of (run, index) packed into an integer
    runs = np.cumsum(np.concatenate([[True], ~same])[tied]) - 1
    some = np.sort(runs * len(order) + order[tied]) - runs * len(order)
    differs = (low[some[1:]] != low[some[:-1]]) | (part[some[1:]] != part[some[:-1]])
    is_mixed = np.zeros(int(runs[-1]) + 1, bool)
    is_mixed[runs[1:][differs & (runs[1:] == runs[:-1])]] = True
    mixed = is_mixed[runs]
    if mixed.any():
        few = some[mixed]
        some[mixed] = few[np.lexsort((few, part[few], low[few], high[few]))]
    order[tied] = some
    return order


def _group_starts(
    order: IntArray, high: npt.NDArray[Any], low: npt.NDArray[Any], part: npt.NDArray[Any]
) -> IntArray:
    if not len(order):
        return np.zeros(0, np.int64)
    changes = np.zeros(len(order), bool)
    changes[0] = True
    for column in (high, low, part):
        values = column[order]
        changes[1:] |= values[1:] != values[:-1]
    return np.flatnonzero(changes).astype(np.int64, copy=False)
