"""Rows of several taps side by side, some columns of rows, and rows that are laid out flat seen as maps."""

# n rows; D columns of all taps

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embedpipe.heads.rows import Index, Rows, cut


@dataclass(frozen=True)
class BesideRows:
    """Each row of the first tap, then that of the second, and so on, laid out flat."""

    taps: tuple[Rows, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows`."""
        return (self.taps[0].shape[0], sum(self.widths))

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each tap."""
        return tuple(math.prod(rows.shape[1:]) for rows in self.taps)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Rows`."""
        for part in cut(self.shape):
            yield part, self.gather(np.arange(part.start, part.stop, dtype=np.int64))

    def gather(self, index: Index) -> np.ndarray:
        """See `Rows`."""
        return np.concatenate([rows.gather(index).reshape(len(index), -1) for rows in self.taps], axis=1)

    def take(self, index: Index) -> Rows:
        """See `Rows`."""
        return BesideRows(tuple(rows.take(index) for rows in self.taps))


@dataclass(frozen=True)
class ColumnRows:
    """Some of the columns of rows."""

    rows: Rows
    columns: Index

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows`."""
        return (self.rows.shape[0], len(self.columns))

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Rows`."""
        for part, block in self.rows.blocks():
            yield part, block[:, self.columns]

    def gather(self, index: Index) -> np.ndarray:
        """See `Rows`."""
        return self.rows.gather(index)[:, self.columns]

    def take(self, index: Index) -> Rows:
        """See `Rows`."""
        return ColumnRows(self.rows.take(index), self.columns)


@dataclass(frozen=True)
class ShapedRows:
    """Rows whose values are seen in another shape."""

    rows: Rows
    row_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows`."""
        return (self.rows.shape[0], *self.row_shape)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Rows`."""
        for part, block in self.rows.blocks():
            yield part, block.reshape(len(block), *self.row_shape)

    def gather(self, index: Index) -> np.ndarray:
        """See `Rows`."""
        return self.rows.gather(index).reshape(len(index), *self.row_shape)

    def take(self, index: Index) -> Rows:
        """See `Rows`."""
        return ShapedRows(self.rows.take(index), self.row_shape)
