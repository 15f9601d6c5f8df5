"""Rows of features that a head learns from: in memory, or read block by block from wherever they lie.

A head that streams sees `Rows` alone, and the same blocks either way: so it learns the same to the bit whether
the features fit memory or not. Knows nothing of stores, targets or heads.
"""

# n rows, each of the shape of the tap: (D,) pooled, (C, H, W) maps, (T, D) tokens

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from embedpipe.errors import DataError

Index = npt.NDArray[np.int64]

MEMORY_NBYTES = 4 << 30
"""Features up to this many bytes are held in memory while a head is fitted."""
BLOCK_NBYTES = 16 << 20
MOST_ROWS, FEWEST_ROWS = 4096, 16


@runtime_checkable
class Rows(Protocol):
    """Rows of features in a fixed order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and the shape of one."""

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Every row once, in order: where a block lies, and its float rows; cut as `cut` says."""

    def gather(self, index: Index) -> np.ndarray:
        """Float rows at these positions, in the order asked."""

    def take(self, index: Index) -> Rows:
        """The rows at these positions, in the order asked, without reading them."""


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array in memory."""

    X: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows`."""
        return self.X.shape

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Rows`."""
        for part in cut(self.shape):
            yield part, self.X[part]

    def gather(self, index: Index) -> np.ndarray:
        """See `Rows`."""
        gathered: np.ndarray = self.X[index]
        return gathered

    def take(self, index: Index) -> Self:
        """See `Rows`."""
        return type(self)(self.X[index])


@dataclass(frozen=True)
class FlatRows:
    """Maps or tokens laid out flat, for heads that learn from vectors."""

    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows`."""
        return (self.rows.shape[0], math.prod(self.rows.shape[1:]))

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Rows`."""
        for part, block in self.rows.blocks():
            yield part, block.reshape(len(block), -1)

    def gather(self, index: Index) -> np.ndarray:
        """See `Rows`."""
        return self.rows.gather(index).reshape(len(index), -1)

    def take(self, index: Index) -> Rows:
        """See `Rows`."""
        return FlatRows(self.rows.take(index))


@dataclass(frozen=True)
class CheckedRows:
    """Rows whose values are checked to be finite as they are read."""

    rows: Rows
    who: str

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows`."""
        return self.rows.shape

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Rows`."""
        for part, block in self.rows.blocks():
            self._check(block)
            yield part, block

    def gather(self, index: Index) -> np.ndarray:
        """See `Rows`."""
        block = self.rows.gather(index)
        self._check(block)
        return block

    def take(self, index: Index) -> Rows:
        """See `Rows`."""
        return CheckedRows(self.rows.take(index), self.who)

    def _check(self, block: np.ndarray) -> None:
        if not np.isfinite(block.sum(dtype=np.float64)):
            raise DataError(f"{self.who}: cannot be fitted: features hold NaN or infinity; verify the store")


def as_rows(X: np.ndarray | Rows) -> Rows:
    """The rows themselves, or those of an array."""
    return ArrayRows(X) if isinstance(X, np.ndarray) else X


def flat(rows: Rows) -> Rows:
    """Each row laid out flat."""
    if len(rows.shape) == 2:
        return rows
    return ArrayRows(rows.X.reshape(len(rows.X), -1)) if isinstance(rows, ArrayRows) else FlatRows(rows)


def cut(shape: tuple[int, ...]) -> Iterator[slice]:
    """Blocks of rows of a shape: 4,096 rows, or fewer where these would be more than 16 MB of float32.

    They depend on the shape alone, so that sums over blocks are the same to the bit wherever the rows lie.
    """
    step = min(max(BLOCK_NBYTES // (4 * max(1, math.prod(shape[1:]))), FEWEST_ROWS), MOST_ROWS)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def nbytes_of(rows: Rows) -> int:
    """Bytes of the rows as float32."""
    return 4 * math.prod(rows.shape)


def array_of(rows: Rows) -> np.ndarray:
    """All rows in one array; those that lie in memory already are not copied."""
    if isinstance(rows, ArrayRows):
        return rows.X
    found = None
    for part, block in rows.blocks():
        if found is None:
            found = np.empty(rows.shape, block.dtype)
        found[part] = block
    return np.empty(rows.shape, np.float32) if found is None else found


def in_memory(rows: Rows, limit_nbytes: int, who: str, streams: bool) -> Rows:
    """The rows held in memory where they fit; else the rows as they are, for a family that streams.

    Raises
    ------
    DataError
        If they do not fit and `who` needs them in memory; with the bytes, and what to do.
    """
    if isinstance(rows, ArrayRows):
        return rows
    if nbytes_of(rows) <= limit_nbytes:
        return ArrayRows(array_of(rows))
    if streams:
        return rows
    raise DataError(
        f"{who}: needs its training rows in memory: expected at most {limit_nbytes / 1e9:.3g} GB, found "
        f"{nbytes_of(rows) / 1e9:.3g} GB ({rows.shape[0]:,} rows of {math.prod(rows.shape[1:]):,} columns); raise "
        "EMBEDPIPE_MEMORY_GB, take a tap of fewer columns, or a family that streams, such as ridge, lda or logistic"
    )
