"""Rows of a tap that hold no features, each with its reason.

Stored as ranges, so that a tap which lacks half of 100 million rows stays small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

NOT_WANTED = "not wanted"
LOST = "lost"  # to a damaged shard: the planner fills it again
FORGOTTEN = "forgotten"

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class Holes(Mapping[int, str]):
    """Immutable mapping from row to reason, kept as sorted disjoint ranges.

    Parameters
    ----------
    starts, stops : int64 array, shape (R,)
        Half-open ranges of rows, ascending and disjoint.
    reasons : tuple of str, length R
    """

    def __init__(self, starts: IntArray, stops: IntArray, reasons: tuple[str, ...]) -> None:
        self.starts = starts
        self.stops = stops
        self.reasons = reasons

    @classmethod
    def empty(cls) -> Self:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), ())

    @classmethod
    def from_ranges(cls, ranges: Iterable[tuple[int, int, str]]) -> Self:
        """From (start, stop, reason), in any order, disjoint; neighbours of one reason are joined."""
        joined: list[tuple[int, int, str]] = []
        for start, stop, reason in sorted(r for r in ranges if r[0] < r[1]):
            if joined and joined[-1][1] == start and joined[-1][2] == reason:
                joined[-1] = (joined[-1][0], stop, reason)
            else:
                joined.append((start, stop, reason))
        starts = np.array([r[0] for r in joined], np.int64)
        stops = np.array([r[1] for r in joined], np.int64)
        return cls(starts, stops, tuple(r[2] for r in joined))

    @classmethod
    def from_mask(cls, mask: BoolArray, reason: str, offset: int = 0) -> Self:
        """One reason for every True of `mask`, whose first element is row `offset`."""
        edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
        starts, stops = edges[0::2] + offset, edges[1::2] + offset
        return cls(starts.astype(np.int64), stops.astype(np.int64), (reason,) * len(starts))

    @classmethod
    def from_json(cls, raw: dict[str, list[int]]) -> Self:
        """From ``{reason: [start, stop, start, stop, ...]}``."""
        return cls.from_ranges(
            (flat[i], flat[i + 1], reason) for reason, flat in raw.items() for i in range(0, len(flat), 2)
        )

    def to_json(self) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {}
        for start, stop, reason in self.ranges():
            out.setdefault(reason, []).extend((start, stop))
        return out

    def ranges(self) -> list[tuple[int, int, str]]:
        """(start, stop, reason), ascending."""
        return list(zip(self.starts.tolist(), self.stops.tolist(), self.reasons, strict=True))

    def mask(self, start: int, stop: int) -> BoolArray:
        """Which rows of [start, stop) are holes. Shape (stop - start,)."""
        first = int(np.searchsorted(self.stops, start, side="right"))
        last = int(np.searchsorted(self.starts, stop, side="left"))
        length = stop - start
        edges = np.zeros(length + 1, np.int8)
        edges[np.maximum(self.starts[first:last] - start, 0)] += 1
        np.subtract.at(edges, np.minimum(self.stops[first:last] - start, length), 1)
        covered: BoolArray = np.cumsum(edges[:-1], dtype=np.int8) > 0
        return covered

    def within(self, start: int, stop: int) -> Holes:
        """The holes in [start, stop)."""
        first = int(np.searchsorted(self.stops, start, side="right"))
        last = int(np.searchsorted(self.starts, stop, side="left"))
        return Holes(
            np.maximum(self.starts[first:last], start),
            np.minimum(self.stops[first:last], stop),
            self.reasons[first:last],
        )

    def replaced(self, start: int, stop: int, new: Holes) -> Holes:
        """These holes with [start, stop) replaced by `new`."""
        end = int(self.stops[-1]) if len(self.stops) else 0
        if not len(new.starts) and (end <= start or not len(self.within(start, stop).starts)):
            return self
        if end <= start and not (end == start and self.reasons[-1:] == new.reasons[:1]):
            return Holes(
                np.concatenate([self.starts, new.starts]),
                np.concatenate([self.stops, new.stops]),
                self.reasons + new.reasons,
            )
        before, after = self.within(0, start), self.within(stop, max(end, stop))
        return Holes.from_ranges([*before.ranges(), *new.ranges(), *after.ranges()])

    def __getitem__(self, row: int) -> str:
        i = int(np.searchsorted(self.starts, row, side="right")) - 1
        if i < 0 or row >= self.stops[i]:
            raise KeyError(row)
        return self.reasons[i]

    def __iter__(self) -> Iterator[int]:
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield from range(start, stop)

    def __len__(self) -> int:
        return int((self.stops - self.starts).sum())

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, Holes):
            return self.ranges() == other.ranges()
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Holes({self.to_json()})"
