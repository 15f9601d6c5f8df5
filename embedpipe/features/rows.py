"""Find the rows of a store that belong to samples: by key, whatever the order, with all parts of each.

Arithmetic over keys and part numbers; reads no features.
"""

# n samples, r rows of a store that belong to them

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.store import FeatureStore
from embedpipe.store.join import join

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowsOfSamples:
    """Rows of each sample, those of one sample one after the other, by part number.

    Attributes
    ----------
    rows : int64 [r]
    starts : int64 [n + 1]
        Sample i has ``rows[starts[i]:starts[i + 1]]``.
    parts : int32 [r]
        Part number of each row: 0 where a sample is one row, the number of the window or crop else.
    """

    rows: Index
    starts: Index
    parts: npt.NDArray[np.int32]

    @property
    def counts(self) -> Index:
        """Rows of each sample, int64 [n]."""
        return np.diff(self.starts)

    def take(self, samples: Index) -> RowsOfSamples:
        """Of these samples, in the order asked."""
        places, starts = ragged(self.starts, samples)
        return RowsOfSamples(self.rows[places], starts, self.parts[places])

    def without(self, holes: npt.NDArray[np.bool_], *, whole: bool) -> RowsOfSamples:
        """Leave out rows that hold no features.

        Parameters
        ----------
        holes : bool [num_rows of the store]
        whole
            Leave out every row of a sample that has such a row: what is made of its other parts would be
            another feature than that of the sample.
        """
        hit = holes[self.rows]
        if not hit.any():
            return self
        if whole:
            before = np.concatenate([[0], np.cumsum(hit)])
            hit = np.repeat(before[self.starts[1:]] > before[self.starts[:-1]], self.counts)
        kept_before = np.concatenate([[0], np.cumsum(~hit)]).astype(np.int64)
        return RowsOfSamples(self.rows[~hit], kept_before[self.starts], self.parts[~hit])


def rows_of_samples(store: FeatureStore, keys: npt.NDArray[np.uint8]) -> RowsOfSamples:
    """Every row of every sample, holes too.

    Parameters
    ----------
    keys : uint8 [n, 16]
        Repeats allowed: two ids may name one content.
    """
    num = len(keys)
    if _lie_as_asked(store, keys):
        ascending = np.arange(num + 1)
        return RowsOfSamples(ascending[:-1], ascending, np.zeros(num, np.int32))
    # part numbers are left out of the match, so that every row finds the first sample of its key
    of_row = join(keys, None, store.keys, None).rows
    first = join(keys, None, keys, None).rows.astype(np.int64, copy=False)
    rows = np.flatnonzero(of_row < num)
    sample = of_row[rows].astype(np.int64, copy=False)
    parts = store.parts[rows]
    order = np.lexsort((parts, sample))
    starts = np.searchsorted(sample[order], np.arange(num + 1)).astype(np.int64)
    return RowsOfSamples(rows[order].astype(np.int64), starts, parts[order]).take(first)


def _lie_as_asked(store: FeatureStore, keys: npt.NDArray[np.uint8]) -> bool:
    """Whether the first rows of the store are these samples, one row each: then nothing has to be sorted."""
    num, step = len(keys), 1 << 14
    for i in range(0, store.num_rows if num <= store.num_rows else 0, step):
        found, parts = store.rows_between(i, i + step)
        here = max(0, min(num - i, step))
        if parts.any() or not np.array_equal(keys[i : i + here], found[:here]):
            return False
    return num <= store.num_rows


def mean_of_parts(values_rD: npt.NDArray[Any], starts: Index) -> npt.NDArray[np.float64]:
    """Mean over the rows of each sample, taken in float64 in the order of part numbers.

    Parameters
    ----------
    values_rD : array [r, D]
        Rows of one sample one after the other.
    starts : int64 [n + 1]
        As `RowsOfSamples` has them; each sample has a row.

    Returns
    -------
    float64 array [n, D]
    """
    sums = np.add.reduceat(values_rD, starts[:-1], axis=0, dtype=np.float64)
    found: npt.NDArray[np.float64] = sums / np.diff(starts)[:, None]
    return found


def ragged(starts: Index, samples: Index) -> tuple[Index, Index]:
    """Places of all rows of `samples`, and where those of each begin among them, [len(samples) + 1]."""
    counts = starts[samples + 1] - starts[samples]
    new_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = np.arange(new_starts[-1]) + np.repeat(starts[samples] - new_starts[:-1], counts)
    return places, new_starts
