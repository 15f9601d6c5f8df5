"""Which rows of which taps are to be computed, in which blocks: arithmetic over keys and tap states.

Reads and writes nothing, so that unit tests can exhaust it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ShapeError
from embedpipe.store.join import IntArray, KeyArray, PartArray, join
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


@dataclass(frozen=True)
class GrowthPlan:
    """What brings the wanted samples into the wanted taps.

    Attributes
    ----------
    taps : tuple of TapState
        The taps to be complete for the wanted samples, as they stood when planned.
    num_rows_before, num_rows_after : int
        Rows of the group.
    new_keys, new_parts : uint8 array (m, 16), int32 array (m,)
        Keys of rows num_rows_before ... num_rows_after.
    rows_of_wanted : int64 array, shape (n,)
        Row of each wanted sample after the growth.
    wanted_of_row : int64 array, shape (num_rows_after,)
        First wanted sample that stands in each row; -1 where none does.
    """

    taps: tuple[TapState, ...]
    num_rows_before: int
    num_rows_after: int
    new_keys: KeyArray
    new_parts: PartArray
    rows_of_wanted: IntArray
    wanted_of_row: IntArray
    blocks: list[Block]

    @property
    def tap_names(self) -> tuple[str, ...]:
        return tuple(tap.name for tap in self.taps)

    @property
    def num_rows_to_compute(self) -> int:
        """Forward passes that the plan takes, counted in rows."""
        return sum(block.num_rows for block in self.blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of features that the plan adds."""
        nbytes_of = {tap.name: tap.row_nbytes for tap in self.taps}
        return sum(
            len(segment.rows) * nbytes_of[name]
            for block in self.blocks
            for segment in block.segments
            for name in segment.taps
        )


def plan_growth(
    taps: Sequence[TapState],
    keys: npt.NDArray[Any],
    parts: npt.NDArray[Any],
    wanted_keys: npt.NDArray[Any],
    wanted_parts: npt.NDArray[Any] | None = None,
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
    keys, parts : uint8 array (N, 16), int32 array (N,)
        The group's rows.
    wanted_keys, wanted_parts : uint8 array (n, 16), int32 array (n,) or None
        The samples wanted, in manifest order. None: every sample is one part, number 0.
    block_nbytes
        Bytes that a block may hold over all taps.

    Raises
    ------
    ShapeError
        If keys are not [n, 16] bytes or parts have another length.
    """
    if wanted_parts is None:
        wanted_parts = np.zeros(len(wanted_keys), np.int32)
    _check(keys, parts, "stored")
    _check(wanted_keys, wanted_parts, "wanted")
    joined = join(keys, parts, wanted_keys, wanted_parts)
    before, after = len(keys), len(keys) + len(joined.first_of_new)
    wanted_of_row = np.full(after, -1, np.int64)
    # written backwards, so that the first of several stays
    wanted_of_row[joined.rows[::-1]] = np.arange(len(joined.rows) - 1, -1, -1)
    wanted = wanted_of_row >= 0
    missing = _missing(taps, wanted)
    return GrowthPlan(
        taps=tuple(taps),
        num_rows_before=before,
        num_rows_after=after,
        new_keys=np.ascontiguousarray(wanted_keys[joined.first_of_new]),
        new_parts=wanted_parts[joined.first_of_new].astype(np.int32),
        rows_of_wanted=joined.rows,
        wanted_of_row=wanted_of_row,
        blocks=_blocks(taps, missing, after, block_nbytes),
    )


def _check(keys: npt.NDArray[Any], parts: npt.NDArray[Any], which: str) -> None:
    if keys.ndim != 2 or keys.shape[1] != 16 or keys.dtype != np.uint8:
        raise ShapeError(f"{which} keys: expected uint8 [n, 16], found {keys.dtype} {list(keys.shape)}")
    if parts.shape != (len(keys),):
        raise ShapeError(f"{which} parts: expected {len(keys)} of them, found shape {list(parts.shape)}")


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
) -> list[Block]:
    if not missing:
        return []
    step = block_rows([tap for tap in taps if tap.name in missing], block_nbytes=block_nbytes)
    edges = np.arange(0, num_rows, step)
    distinct = list({id(mask): mask for mask in missing.values()}.values())
    touched = np.zeros(len(edges), bool)
    for mask in distinct:
        touched |= np.logical_or.reduceat(mask, edges)
    column_of = {id(mask): i for i, mask in enumerate(distinct)}
    columns = {name: column_of[id(mask)] for name, mask in missing.items()}
    blocks: list[Block] = []
    for start in edges[touched].tolist():
        stop = min(start + step, num_rows)
        segments = _segments(start, np.stack([mask[start:stop] for mask in distinct], axis=1), columns)
        blocks.append(Block(len(blocks), start, stop, segments))
    return blocks


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
