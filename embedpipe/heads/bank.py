"""Rows that others are compared with: the nearest by cosine, found block by block.

A block is compared with all that is asked and merged into the nearest so far, so that what is held does not grow with
the rows, and nothing depends on where they lie. Equal similarities are decided by the order of the rows. Knows nothing
of votes or heads.
"""

# N rows asked, M rows of the bank, D features, k nearest; n of those asked, m of a block

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import xxhash

from embedpipe.heads.linear import Scaling, unit_rows
from embedpipe.heads.rows import ArrayRows, Index, Rows

ASKED, COMPARED = 256, 1024
"""Rows that are asked, and rows of a block, in one comparison: what is held of it is a few MB."""
TOGETHER = 32
"""Rows of every product come in multiples of this: fewer are summed in another order."""
PART = 256
"""Rows scaled at a time, in float64."""
_PLACE = 0xFFFFFFFF


@dataclass(frozen=True)
class UnitRows:
    """Rows scaled and brought to unit length as they are read, float32."""

    rows: Rows
    scaling: Scaling

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows`."""
        return self.rows.shape

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Rows`."""
        for part, block in self.rows.blocks():
            yield part, unit_of(block, self.scaling)

    def gather(self, index: Index) -> np.ndarray:
        """See `Rows`."""
        return unit_of(self.rows.gather(index), self.scaling)

    def take(self, index: Index) -> Rows:
        """See `Rows`."""
        return UnitRows(self.rows.take(index), self.scaling)


def unit_of(X_ND: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Scaled rows of unit length, float32."""
    unit_ND = np.empty(X_ND.shape, np.float32)
    for start in range(0, len(X_ND), PART):
        some = slice(start, start + PART)
        unit_ND[some] = unit_rows(scaling.apply(X_ND[some]))
    return unit_ND


class Bank:
    """Unit rows, and the nearest of them.

    Parameters
    ----------
    rows : Rows or float32 array, shape (M, D)
        Of unit length, in memory or read each time.
    most : int
        The most neighbours that any of those who share it asks for: all of them ask the same rows one after the
        other, so what was found last is kept.
    """

    def __init__(self, rows: Rows | np.ndarray, most: int) -> None:
        self.rows: Rows = ArrayRows(rows) if isinstance(rows, np.ndarray) else rows
        self.most = min(most, self.rows.shape[0])
        self._last: tuple[tuple[tuple[int, ...], bytes], np.ndarray] | None = None

    def nearest(self, unit_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, k) of the nearest rows, in their order, and their similarities, float64.

        Parameters
        ----------
        unit_ND
            Float32 rows of unit length.
        k
            Neighbours; all rows where there are fewer.
        """
        unit_ND = np.ascontiguousarray(unit_ND)
        asked = (unit_ND.shape, xxhash.xxh3_128_digest(unit_ND.data))
        if self._last is None or self._last[0] != asked:
            self._last = asked, self._found(unit_ND)
        keys_Nk = self._last[1][:, : min(k, self.most)]
        index_Nk, similarity_Nk = _told(keys_Nk)
        order = np.argsort(index_Nk, axis=1)
        return np.take_along_axis(index_Nk, order, 1), np.take_along_axis(similarity_Nk, order, 1)

    def _found(self, unit_ND: np.ndarray) -> np.ndarray:
        """Keys of the nearest, the nearest first, shape (N, most)."""
        import torch

        padded_PD = torch.zeros((-(-len(unit_ND) // TOGETHER) * TOGETHER, unit_ND.shape[1]))
        padded_PD[: len(unit_ND)] = torch.from_numpy(unit_ND)
        best_Pk = np.full((len(padded_PD), self.most), np.iinfo(np.int64).min)
        for part, block in self.rows.blocks():
            block_mD = torch.from_numpy(np.require(block, requirements="W"))  # a mapped block is copied
            for start, at in product(range(0, len(padded_PD), ASKED), range(0, len(block_mD), COMPARED)):
                some = slice(start, start + ASKED)
                # numpy's products of float32 sum a row's in an order that depends on where it stands among others
                similarity_nm = (padded_PD[some] @ block_mD[at : at + COMPARED].T).numpy()
                found_nk = _most(_keys(similarity_nm, part.start + at), self.most)
                best_Pk[some] = _most(np.concatenate([best_Pk[some], found_nk], axis=1), self.most)
        best_Pk = best_Pk[: len(unit_ND)]
        best_Pk.sort(axis=1)
        return np.ascontiguousarray(best_Pk[:, ::-1])


def _most(keys_nm: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each row, in any order."""
    surplus = keys_nm.shape[1] - k
    return keys_nm if surplus <= 0 else np.partition(keys_nm, surplus, axis=1)[:, surplus:]


def _keys(similarity_nm: np.ndarray, start: int) -> np.ndarray:
    """Numbers that order by similarity and then by position, the first the larger: int64, overwrites what it is given.

    The bits of a float32 order as an integer's do once those of negative numbers are turned around.
    """
    similarity_nm += 0.0  # -0 is 0
    bits = similarity_nm.view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys_nm: np.ndarray = bits.astype(np.int64) << 32
    keys_nm -= np.arange(start, start + keys_nm.shape[1], dtype=np.int64)
    return keys_nm


def _told(keys_nk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and float64 similarities that keys stand for."""
    index_nk: np.ndarray = -keys_nk & _PLACE
    bits = ((keys_nk + index_nk) >> 32).astype(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    similarity_nk: np.ndarray = bits.view(np.float32).astype(np.float64)
    return index_nk, similarity_nk
