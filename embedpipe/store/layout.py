"""The shape of a tap on disk: how many rows a shard, an inner chunk and a block hold.

Pure arithmetic over `TapState`; reads and writes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedpipe.errors import StoreError
from embedpipe.spec import TapSpec
from embedpipe.store.holes import NOT_WANTED, Holes

SHARD_NBYTES = 64 * 2**20
CHUNK_NBYTES = 4 * 2**20
MAX_CHUNK_ROWS = 2**12  # a last shard is padded to whole inner chunks: small rows would make that megabytes
BLOCK_NBYTES = 2 * 2**30
COMMIT_NBYTES = (
    2**27
)  # a commit costs what a tenth of a shard does: wide rows are committed two shards at a time
COMMIT_ROWS = 2**15  # but no more rows than this: a block is the unit of workers, and of `stop_after`
MAX_SHARD_ROWS = 2**20  # 64-byte rows reach it: pixels of 8 x 4; beyond, a block is too many samples to redo
TABLE_SHARD_ROWS = 2**18  # keys: 4 MB a shard, since the last one is rewritten at each commit
TABLE_CHUNK_ROWS = 2**12

KEYS, PART = "keys", "part"
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class TapState:
    """One array of a group as it stands.

    Attributes
    ----------
    row_shape : tuple of int
        Shape of one row.
    shard_rows, chunk_rows : int
        Powers of two, fixed when the tap is created.
    num_rows : int
        Length of the array; rows beyond it were never computed.
    holes : Holes
        Rows below `num_rows` without features, with reasons.
    """

    spec: TapSpec
    row_shape: tuple[int, ...]
    shard_rows: int
    chunk_rows: int
    num_rows: int = 0
    holes: Holes = field(default_factory=Holes.empty)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.spec.dtype)

    @property
    def row_nbytes(self) -> int:
        return row_nbytes(self.spec, self.row_shape)

    def to_dict(self) -> dict[str, Any]:
        """All but the holes, for JSON."""
        return {
            "spec": self.spec.to_dict(),
            "row_shape": list(self.row_shape),
            "shard_rows": self.shard_rows,
            "chunk_rows": self.chunk_rows,
            "num_rows": self.num_rows,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any], holes: Holes) -> TapState:
        return cls(
            TapSpec.from_dict(raw["spec"]),
            tuple(raw["row_shape"]),
            raw["shard_rows"],
            raw["chunk_rows"],
            raw["num_rows"],
            holes,
        )


def row_nbytes(spec: TapSpec, row_shape: tuple[int, ...]) -> int:
    """Bytes of one row of a tap."""
    return max(1, math.prod(row_shape)) * np.dtype(spec.dtype).itemsize


def new_taps(
    wanted: dict[TapSpec, tuple[int, ...]],
    existing: Iterable[TapState],
    *,
    shard_nbytes: int = SHARD_NBYTES,
    block_nbytes: int = BLOCK_NBYTES,
) -> dict[str, TapState]:
    """States of the taps in `wanted` that do not exist yet.

    A shard is the largest 2^k rows within `shard_nbytes`, and no more than lets one block of all
    `wanted` taps stay within `block_nbytes`; an inner chunk the largest 2^j rows within 4 MB, at most 4,096.

    Raises
    ------
    StoreError
        If a tap exists with another row shape, or cannot be stored under its name or dtype.
    """
    known = {tap.name: tap for tap in existing}
    cap = _floor_power(
        block_nbytes // max(1, sum(row_nbytes(s, tuple(shape)) for s, shape in wanted.items()))
    )
    made: dict[str, TapState] = {}
    for spec, raw_shape in wanted.items():
        row_shape = tuple(int(n) for n in raw_shape)
        _check_name(spec)
        if spec.name in known:
            if known[spec.name].row_shape != row_shape:
                raise StoreError(
                    f"tap {spec.name}: expected rows of shape {known[spec.name].row_shape} as stored, "
                    f"found {row_shape}; a backbone that computes another shape needs a group of its own"
                )
            continue
        nbytes = row_nbytes(spec, row_shape)
        shard_rows = min(_floor_power(shard_nbytes // nbytes), cap, MAX_SHARD_ROWS)
        chunk_rows = min(_floor_power(CHUNK_NBYTES // nbytes), MAX_CHUNK_ROWS, shard_rows)
        made[spec.name] = TapState(spec, row_shape, shard_rows, chunk_rows)
    return made


def block_rows(taps: Iterable[TapState], *, block_nbytes: int = BLOCK_NBYTES) -> int:
    """Rows of a block that fills `taps`: their largest shard, halved while the block is too large.

    Two of them, where rows are wide and the block is then still of 2^15 rows and 128 MB at most. Halving happens
    only where a tap of large rows joins a group of small ones; a shard of the small tap is then rewritten once a
    block until it is full.
    """
    taps = list(taps)
    rows = max((tap.shard_rows for tap in taps), default=1)
    row_total = sum(tap.row_nbytes for tap in taps)
    if 2 * rows <= COMMIT_ROWS and COMMIT_NBYTES // 4 < rows * row_total <= COMMIT_NBYTES // 2:
        rows *= 2
    return min(rows, _floor_power(block_nbytes // max(1, row_total)))


def padded(tap: TapState, num_rows: int) -> TapState:
    """The tap at the length of its group: rows that it lacks at the end become holes."""
    if tap.num_rows >= num_rows:
        return tap
    beyond = Holes.from_ranges([(tap.num_rows, num_rows, NOT_WANTED)])
    holes = tap.holes.replaced(tap.num_rows, num_rows, beyond)
    return dataclasses.replace(tap, num_rows=num_rows, holes=holes)


def _floor_power(n: int) -> int:
    return 1 << max(0, int(n).bit_length() - 1)


def _check_name(spec: TapSpec) -> None:
    if spec.dtype not in DTYPES:
        raise StoreError(f"tap {spec.name}: expected dtype float16 or float32, found {spec.dtype}")
    if "/" in spec.name or "\\" in spec.name or spec.name.startswith((".", "__")):
        raise StoreError(f"tap {spec.name!r}: the name cannot be a folder; name the node without slashes")
