"""Match rows by key and part: sorts over both sides, part by part, no loop over rows.

100 million keys sort in seconds, where as many random binary searches take minutes. Neither side is copied whole: the
keys fall into partitions by a fingerprint, each of which is sorted by itself, so that memory beyond the keys and the
result stays within a few hundred megabytes whatever their number.
"""

# n keys of one partition: the stored ones first, then the wanted ones

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
RowArray = npt.NDArray[np.signedinteger[Any]]  # int32 as long as every row fits, else int64
KeyArray = npt.NDArray[np.uint8]
PartArray = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]

PARTITION_ROWS = 1 << 23  # sorted at a time: 40 bytes a row for a moment
PIECE_ROWS = 1 << 20  # read at a time


class Table(Protocol):
    """Rows that are read in pieces, such as an array or a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, some: slice, /) -> npt.NDArray[Any]: ...


KEY_NBYTES = 16
ROW_KEY_NBYTES = KEY_NBYTES + 4


@dataclass(frozen=True)
class Join:
    """Where each wanted (key, part) stands.

    Attributes
    ----------
    rows : int32 or int64 array, shape (n,)
        Row of each wanted element: below the number of existing rows if it exists, else the row it gets
        at the end, in wanted order, duplicates once.
    first_of_new : int32 or int64 array, shape (m,)
        Index into wanted of each new row, ascending.
    """

    rows: RowArray
    first_of_new: RowArray


def join(keys: Table, parts: Table | None, wanted_keys: Table, wanted_parts: Table | None) -> Join:
    """Match wanted (key, part) pairs against existing rows.

    Parameters
    ----------
    keys, wanted_keys : uint8, shapes (N, 16) and (n, 16)
    parts, wanted_parts : int32, shapes (N,) and (n,), or None
        None: every part number is 0.
    """
    num_rows, num_wanted = keys.shape[0], wanted_keys.shape[0]
    dtype = row_dtype(num_rows + num_wanted)
    rows = np.empty(num_wanted, dtype)
    is_first = np.zeros(num_wanted, bool)
    num_partitions = -(-(num_rows + num_wanted) // PARTITION_ROWS)
    shift = 8 - min(max(num_partitions - 1, 0).bit_length(), 8)
    of_stored, of_wanted = (_partitions(table, shift) for table in (keys, wanted_keys))
    for number in range(1 << (8 - shift)):
        wanted = _select(wanted_keys, wanted_parts, of_wanted, number, dtype)
        if len(wanted.place):
            stored = _select(keys, parts, of_stored, number, dtype)
            for some_stored, some_wanted in zip(_cut(stored), _cut(wanted), strict=True):
                rows[some_wanted.place] = _match(some_stored, some_wanted, is_first)
    first_of_new = _where(is_first, dtype)
    rows[first_of_new] = np.arange(num_rows, num_rows + len(first_of_new), dtype=dtype)
    for start in range(0, num_wanted, PIECE_ROWS):
        repeated = np.flatnonzero(rows[start : start + PIECE_ROWS] < 0) + start
        rows[repeated] = rows[~rows[repeated]]
    return Join(rows, first_of_new)


@dataclass(frozen=True)
class _Some:
    """Some rows of a table: where they stand in it, ascending, their keys as words (n, 2), their part numbers."""

    place: RowArray
    words: Words
    part: PartArray


def _match(stored: _Some, wanted: _Some, is_first: npt.NDArray[np.bool_]) -> RowArray:
    """Row of each wanted element that exists; of a new one ~(place of the first with its key), noted in `is_first`."""
    num_stored = len(stored.place)
    words, part = np.concatenate([stored.words, wanted.words]), np.concatenate([stored.part, wanted.part])
    index, starts = _groups(words, part)
    # the first of a group is its existing row if there is one, else its first wanted element
    first = index[starts]
    is_new = first >= num_stored
    firsts = wanted.place[first[is_new] - num_stored]
    is_first[firsts] = True
    found = np.empty(len(starts), wanted.place.dtype)
    found[~is_new] = stored.place[first[~is_new]]
    found[is_new] = ~firsts
    rows = np.empty(len(words), found.dtype)
    rows[index] = np.repeat(found, np.diff(np.append(starts, len(index))))
    return rows[num_stored:]


def _cut(some: _Some) -> Iterator[_Some]:
    """Cut a partition into 256, each of which fits the processor's cache, by further bits of the fingerprint."""
    numbers = ((_fingerprints(some.words) >> np.uint64(48)) & np.uint64(255)).astype(np.uint8)
    order = np.argsort(numbers, kind="stable")
    place, words, part = some.place[order], some.words.take(order, axis=0), some.part[order]
    edges = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=256))]).tolist()
    for start, stop in itertools.pairwise(edges):
        here = slice(start, stop)
        yield _Some(place[here], words[here], part[here])


def row_keys(keys: KeyArray, parts: PartArray) -> KeyArray:
    """What names each row: its key and, as little-endian int32, its part number; uint8, shape (n, 20)."""
    numbers = np.ascontiguousarray(parts, "<i4").view(np.uint8).reshape(-1, 4)
    return np.concatenate([keys, numbers], axis=1)


def row_dtype(num_rows: int) -> np.dtype[np.signedinteger[Any]]:
    """The smallest dtype that counts as many rows."""
    return np.dtype(np.int32 if num_rows < 2**31 else np.int64)


def pieces(num_rows: int) -> Iterator[slice]:
    """Slices that cover a table."""
    for start in range(0, num_rows, PIECE_ROWS):
        yield slice(start, min(start + PIECE_ROWS, num_rows))


def _where(mask: npt.NDArray[np.bool_], dtype: np.dtype[Any]) -> RowArray:
    """`flatnonzero` without 8 bytes a row on the way."""
    out = np.empty(np.count_nonzero(mask), dtype)
    at = 0
    for some in pieces(len(mask)):
        found = np.flatnonzero(mask[some])
        out[at : at + len(found)] = found
        out[at : at + len(found)] += some.start
        at += len(found)
    return out


def _words(keys: KeyArray) -> Words:
    return np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2)


def _fingerprints(words_n2: Words) -> npt.NDArray[np.uint64]:
    """64 well-mixed bits of each key, also where keys are no hashes (Steele et al. 2014, SplitMix64's finaliser)."""
    mixed = words_n2[:, 0] ^ (words_n2[:, 1] * np.uint64(0x9E3779B97F4A7C15))
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _partitions(keys: Table, shift: int) -> npt.NDArray[np.uint8] | None:
    """Partition of each row: the leading bits of its fingerprint. None where there is one partition."""
    if shift == 8:
        return None
    out = np.empty(keys.shape[0], np.uint8)
    for some in pieces(len(out)):
        out[some] = (_fingerprints(_words(keys[some])) >> np.uint64(56)) >> np.uint64(shift)
    return out


def _select(
    keys: Table, parts: Table | None, of: npt.NDArray[np.uint8] | None, number: int, dtype: np.dtype[Any]
) -> _Some:
    """The rows of one partition."""
    num = keys.shape[0] if of is None else int(np.count_nonzero(of == number))
    place, words, part = np.empty(num, dtype), np.empty((num, 2), np.uint64), np.zeros(num, np.int32)
    at = 0
    for some in pieces(keys.shape[0]):
        chosen = np.arange(some.stop - some.start) if of is None else np.flatnonzero(of[some] == number)
        if len(chosen):
            here = slice(at, at + len(chosen))
            place[here] = chosen
            place[here] += some.start
            words[here] = _words(keys[some]).take(chosen, axis=0)
            if parts is not None:
                part[here] = parts[some][chosen]
            at = here.stop
    return _Some(place, words, part)


def _groups(words_n2: Words, part_n: PartArray) -> tuple[IntArray, IntArray]:
    """Places in an order that brings equal (key, part) together, the first first; and where each group starts.

    One sort of integers that hold a fingerprint and the place. Only where fingerprints are equal are keys compared:
    nearly always they are equal too.
    """
    num = len(words_n2)
    bits = np.uint64(max(num - 1, 1).bit_length())
    # what has been cut by leading bits shares them: those are dropped to make room
    packed = _fingerprints(words_n2) << np.uint64(16)
    packed &= ~((np.uint64(1) << bits) - np.uint64(1))
    packed |= np.arange(num, dtype=np.uint64)
    packed.sort()
    place = (packed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    packed >>= bits
    changes = np.ones(num, bool)
    np.not_equal(packed[1:], packed[:-1], out=changes[1:])
    del packed
    is_tied = ~changes
    is_tied[:-1] |= is_tied[1:]
    tied = np.flatnonzero(is_tied)
    if len(tied):
        place[tied], changes[tied] = _settle(place[tied], changes[tied], words_n2, part_n)
    return place, np.flatnonzero(changes)


def _settle(
    place: IntArray, changes: npt.NDArray[np.bool_], words_n2: Words, part_n: PartArray
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Order and group starts within runs of equal fingerprints, each of which begins where `changes` is True."""
    differs = _unlike_before(place, words_n2, part_n)
    runs = np.cumsum(changes) - 1
    is_mixed = np.zeros(int(runs[-1]) + 1, bool)
    is_mixed[runs[differs & ~changes]] = True
    mixed = np.flatnonzero(is_mixed[runs])
    if len(mixed):  # other keys with this fingerprint, or several parts of one key
        few = place[mixed]
        order = np.lexsort((few, part_n[few], words_n2[few, 1], words_n2[few, 0], runs[mixed]))
        place[mixed] = few[order]
        differs = _unlike_before(place, words_n2, part_n)
    return place, changes | differs


def _unlike_before(place: IntArray, words_n2: Words, part_n: PartArray) -> npt.NDArray[np.bool_]:
    """Which differ in key or part from the one before them."""
    words, part = words_n2.take(place, axis=0), part_n[place]
    differs = np.ones(len(place), bool)
    differs[1:] = (words[1:, 0] != words[:-1, 0]) | (words[1:, 1] != words[:-1, 1]) | (part[1:] != part[:-1])
    return differs
