"""Which rows of which taps are to be computed, in which blocks: arithmetic over keys and tap states.

Reads and writes nothing, so that unit tests can exhaust it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ShapeError
from embedpipe.store.join import IntArray, KeyArray, PartArray, RowArray, Table, join, pieces
from embedpipe.store.layout import BLOCK_NBYTES, TapState, block_rows

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Segment:
    """Rows of a block that lack the same taps: one forward pass over `rows` fills them all.

    Attributes
    ----------
    rows : int64 array, ascending
    taps : tuple of str
        Names of the taps that lack these rows, in the plan's order.
    """

    rows: IntArray
    taps: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """Rows [start, stop), committed together.

    Attributes
    ----------
    index : int
        Position among the plan's blocks.
    segments : list of Segment
        By their first row; no row is in two of them.
    """

    index: int
    start: int
    stop: int
    segments: list[Segment]

    @property
    def num_rows(self) -> int:
        """Rows to compute."""
        return sum(len(segment.rows) for segment in self.segments)


class Blocks(Sequence[Block]):
    """The blocks of a plan, each made when it is asked for: together their rows would take more than the keys."""

    def __init__(
        self, starts: IntArray, step: int, stop: int, masks: list[BoolArray], columns: dict[str, int]
    ) -> None:
        self._starts, self._step, self._stop = starts, step, stop
        self._masks, self._columns = masks, columns

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Block: ...

    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...

    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        start = int(self._starts[number])
        stop = min(start + self._step, self._stop)
        lacks = np.stack([mask[start:stop] for mask in self._masks], axis=1)
        return Block(number, start, stop, _segments(start, lacks, self._columns))

    @cached_property
    def num_rows(self) -> int:
        """Rows to compute, of all blocks."""
        if len(self._masks) == 1:
            return int(np.count_nonzero(self._masks[0]))
        return sum(
            int(
                np.count_nonzero(
                    np.logical_or.reduce([mask[start : start + self._step] for mask in self._masks])
                )
            )
            for start in self._starts.tolist()
        )

    @cached_property
    def rows_of_tap(self) -> dict[str, int]:
        """Rows that each tap lacks."""
        counts = [int(np.count_nonzero(mask)) for mask in self._masks]
        return {name: counts[column] for name, column in self._columns.items()}


@dataclass(frozen=True)
class GrowthPlan:
    """What brings the wanted samples into the wanted taps.

    Holds the wanted keys as they were given, and beside them 5 bytes a row and 4 a wanted sample.

    Attributes
    ----------
    taps : tuple of TapState
        The taps to be complete for the wanted samples, as they stood when planned.
    num_rows_before, num_rows_after : int
        Rows of the group.
    wanted_keys, wanted_parts : uint8 (n, 16), int32 (n,) or None
        As planned with.
    rows_of_wanted : int32 or int64 array, shape (n,)
        Row of each wanted sample after the growth.
    wanted_of_row : int32 or int64 array, shape (num_rows_after,)
        First wanted sample that stands in each row; -1 where none does.
    """

    taps: tuple[TapState, ...]
    num_rows_before: int
    num_rows_after: int
    wanted_keys: Table
    wanted_parts: Table | None
    rows_of_wanted: RowArray
    wanted_of_row: RowArray
    blocks: Blocks

    @property
    def tap_names(self) -> tuple[str, ...]:
        return tuple(tap.name for tap in self.taps)

    @property
    def num_rows_to_compute(self) -> int:
        """Forward passes that the plan takes, counted in rows."""
        return self.blocks.num_rows

    @cached_property
    def num_samples(self) -> int:
        """Distinct samples wanted."""
        return int(np.count_nonzero(self.wanted_of_row >= 0))

    @property
    def nbytes(self) -> int:
        """Bytes of features that the plan adds."""
        nbytes_of = {tap.name: tap.row_nbytes for tap in self.taps}
        return sum(num * nbytes_of[name] for name, num in self.blocks.rows_of_tap.items())

    def keys_between(self, start: int, stop: int) -> KeyArray:
        """Keys of new rows [start, stop), shape (stop - start, 16)."""
        assert self.num_rows_before <= start or stop <= start
        return _picked(self.wanted_keys, self.wanted_of_row[start:stop])

    def parts_between(self, start: int, stop: int) -> PartArray:
        """Part numbers of new rows [start, stop)."""
        assert self.num_rows_before <= start or stop <= start
        if self.wanted_parts is None:
            return np.zeros(max(0, stop - start), np.int32)
        return _picked(self.wanted_parts, self.wanted_of_row[start:stop])

    @property
    def new_keys(self) -> KeyArray:
        """Keys of all new rows, copied."""
        return self.keys_between(self.num_rows_before, self.num_rows_after)

    @property
    def new_parts(self) -> PartArray:
        """Part numbers of all new rows, copied."""
        return self.parts_between(self.num_rows_before, self.num_rows_after)


def plan_growth(
    taps: Sequence[TapState],
    keys: Table,
    parts: Table | None,
    wanted_keys: Table,
    wanted_parts: Table | None = None,
    *,
    block_nbytes: int = BLOCK_NBYTES,
) -> GrowthPlan:
    """Plan the growth of a group along both axes.

    Every (row, tap) that is wanted and missing, whether beyond the tap's length or a hole, is in exactly one
    segment. New keys go to the end in wanted order, a key wanted twice once.

    Parameters
    ----------
    taps
        The taps to fill, as they stand.
    keys, parts : uint8 (N, 16), int32 (N,) or None
        The group's rows: arrays, or tables that are read in pieces. None: every part number is 0.
    wanted_keys, wanted_parts : uint8 (n, 16), int32 (n,) or None
        The samples wanted, in manifest order. The plan keeps them.
    block_nbytes
        Bytes that a block may hold over all taps.

    Raises
    ------
    ShapeError
        If keys are not [n, 16] bytes or parts have another length.
    """
    _check(keys, parts, "stored")
    _check(wanted_keys, wanted_parts, "wanted")
    joined = join(keys, parts, wanted_keys, wanted_parts)
    before = keys.shape[0]
    after = before + len(joined.first_of_new)
    wanted_of_row = np.full(after, -1, joined.rows.dtype)
    wanted_of_row[before:] = joined.first_of_new
    for some in reversed(list(pieces(len(joined.rows))) if before else []):
        rows = joined.rows[some]
        at = np.flatnonzero(rows < before)
        # written backwards, so that the first of several stays
        wanted_of_row[rows[at][::-1]] = (at + some.start)[::-1]
    missing = _missing(taps, wanted_of_row >= 0)
    return GrowthPlan(
        taps=tuple(taps),
        num_rows_before=before,
        num_rows_after=after,
        wanted_keys=wanted_keys,
        wanted_parts=wanted_parts,
        rows_of_wanted=joined.rows,
        wanted_of_row=wanted_of_row,
        blocks=_blocks(taps, missing, after, block_nbytes),
    )


def _picked(table: Table, places: RowArray) -> npt.NDArray[Any]:
    """Rows of a table at ascending places."""
    if not len(places):
        return np.zeros((0, *table.shape[1:]), table.dtype)
    low, high = int(places[0]), int(places[-1]) + 1
    if high - low == len(places):
        return np.ascontiguousarray(table[low:high])
    out = np.empty((len(places), *table.shape[1:]), table.dtype)
    for some in pieces(high - low):
        first, last = np.searchsorted(places, [low + some.start, low + some.stop]).tolist()
        if first < last:
            out[first:last] = table[low + some.start : low + some.stop][
                places[first:last] - (low + some.start)
            ]
    return out


def _check(keys: Table, parts: Table | None, which: str) -> None:
    if len(keys.shape) != 2 or keys.shape[1] != 16 or keys.dtype != np.uint8:
        raise ShapeError(f"{which} keys: expected uint8 [n, 16], found {keys.dtype} {list(keys.shape)}")
    if parts is not None and parts.shape != (keys.shape[0],):
        raise ShapeError(f"{which} parts: expected {keys.shape[0]} of them, found shape {list(parts.shape)}")


def _missing(taps: Sequence[TapState], wanted: BoolArray) -> dict[str, BoolArray]:
    """Rows that each tap lacks, for the taps that lack any. Taps in the same state share one array."""
    by_state: dict[tuple[Any, ...], BoolArray] = {}
    missing: dict[str, BoolArray] = {}
    for tap in taps:
        state = (tap.num_rows, tap.holes.starts.tobytes(), tap.holes.stops.tobytes())
        if state not in by_state:
            lacks = wanted.copy()
            lacks[: tap.num_rows] &= tap.holes.mask(0, tap.num_rows)[: len(lacks)]
            by_state[state] = lacks
        if by_state[state].any():
            missing[tap.name] = by_state[state]
    return missing


def _blocks(
    taps: Sequence[TapState], missing: dict[str, BoolArray], num_rows: int, block_nbytes: int
) -> Blocks:
    if not missing:
        return Blocks(np.zeros(0, np.int64), 1, 0, [], {})
    step = block_rows([tap for tap in taps if tap.name in missing], block_nbytes=block_nbytes)
    edges = np.arange(0, num_rows, step)
    distinct = list({id(mask): mask for mask in missing.values()}.values())
    touched = np.zeros(len(edges), bool)
    for mask in distinct:
        touched |= np.logical_or.reduceat(mask, edges)
    column_of = {id(mask): i for i, mask in enumerate(distinct)}
    columns = {name: column_of[id(mask)] for name, mask in missing.items()}
    return Blocks(edges[touched], step, num_rows, distinct, columns)


def _segments(start: int, lacks: BoolArray, columns: dict[str, int]) -> list[Segment]:
    """Rows of one block grouped by which columns of `lacks`, shape (rows, distinct), are True."""
    if bool((lacks == lacks[0]).all()):  # by far the most frequent, and needs no sorting
        first, inverse = np.zeros(1, np.int64), np.zeros(len(lacks), np.int64)
    else:
        packed = np.packbits(lacks, axis=1)
        _, first, inverse = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        inverse = inverse.reshape(-1)
    segments = []
    for group in np.argsort(first).tolist():
        lacking = lacks[first[group]]
        if lacking.any():
            rows = np.flatnonzero(inverse == group).astype(np.int64) + start
            taps = tuple(name for name, column in columns.items() if lacking[column])
            segments.append(Segment(rows, taps))
    return segments
