"""What may enter a store: finite values within their dtype. And what is worth a word: constants, drift.

Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embedpipe.errors import FeatureValueError

NUM_NAMED = 3  # samples named in an error: enough to find the cause, few enough to read
NUM_SAMPLED = 1024  # rows of a block that statistics are taken over, evenly spaced
NUM_NORMS = 256  # of those, rows whose norms are taken: float16 is slow to compute with
MIN_ROWS = 8  # below it every block looks constant or drifting
_INFINITY = {  # the bits of +Inf: NaN lies above, and so do -Inf and -NaN with the sign bit before them
    np.dtype(np.float16): 0x7C00,
    np.dtype(np.float32): 0x7F800000,
}
DRIFT_SPREADS = 3.0  # standard deviations of row norms between block means before it is reported


def to_storage(
    values: npt.NDArray[Any],
    dtype: npt.DTypeLike,
    tap: str,
    names: Sequence[str] | None = None,
) -> npt.NDArray[Any]:
    """Cast features to their storage dtype, refusing what it cannot hold.

    Parameters
    ----------
    values : float array, shape (n, ...)
    names
        Name of each sample, for the errors; by default its position.

    Returns
    -------
    array of `dtype`, shape (n, ...), C-contiguous

    Raises
    ------
    FeatureValueError
        If a value is NaN or Inf, or beyond the range of `dtype`; names samples and tap.
    """
    target = np.dtype(dtype)
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values, dtype=target)
    if not _all_finite(stored):
        _refuse(np.asarray(values), stored, tap, names)
    return stored


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if values.dtype == np.float16:  # by the exponent's bits: float16 arithmetic is emulated and slow
        bits: npt.NDArray[np.bool_] = (values.view(np.uint16) & 0x7C00) != 0x7C00
        return bits
    finite: npt.NDArray[np.bool_] = np.isfinite(values)
    return finite


def _all_finite(values: npt.NDArray[Any]) -> bool:
    """By the largest bit patterns: needs no memory, and no float16 arithmetic, which is emulated and slow."""
    if not values.size or values.dtype not in _INFINITY:
        return bool(_finite(values).all())
    infinity = _INFINITY[values.dtype]
    width = values.itemsize
    negative = 1 << (8 * width - 1)
    # as unsigned numbers the largest is the largest of the negative, as signed ones of the positive
    largest, positive = int(values.view(f"u{width}").max()), int(values.view(f"i{width}").max())
    return largest < negative + infinity and positive < infinity


def _refuse(
    values: npt.NDArray[Any], stored: npt.NDArray[Any], tap: str, names: Sequence[str] | None
) -> None:
    axes = tuple(range(1, values.ndim))
    for word, bad in (("NaN", np.isnan(values)), ("Inf", np.isinf(values))):
        which = np.flatnonzero(bad.any(axis=axes))
        if len(which):
            raise FeatureValueError(
                f"tap {tap}: expected finite features, found {word} for {len(which)} of {len(values)} "
                f"samples: {_named(which, names)}; look at these samples, or run with precision: float32"
            )
    which = np.flatnonzero((~_finite(stored)).any(axis=axes))
    largest = float(np.abs(values[which]).max())
    raise FeatureValueError(
        f"tap {tap}: expected values within {stored.dtype} (up to {np.finfo(stored.dtype).max:g}), found "
        f"{largest:g} in sample {_named(which, names)}; set dtype: float32"
    )


def _named(which: npt.NDArray[Any], names: Sequence[str] | None) -> str:
    some = [str(i) if names is None else str(names[i]) for i in which[:NUM_NAMED].tolist()]
    return ", ".join(some) + (f" and {len(which) - NUM_NAMED} more" if len(which) > NUM_NAMED else "")


@dataclass(frozen=True)
class BlockStatistics:
    """Of one tap in one block, over at most 1,024 evenly spaced rows (the caller picks them).

    Attributes
    ----------
    norm_mean, norm_std : float
        Of the Euclidean norms of at most 256 of them, evenly spaced.
    num_constant, num_columns : int
        Columns that have one value in all rows, of how many.
    """

    num_rows: int
    norm_mean: float
    norm_std: float
    num_constant: int
    num_columns: int

    @classmethod
    def of(cls, rows: npt.NDArray[Any]) -> Self:
        """From stored rows, shape (n, ...), n > 0."""
        flat = rows.reshape(len(rows), -1)
        wide = np.float32 if flat.dtype == np.float16 else np.float64  # wide enough for squares
        normed = flat[:: -(-len(flat) // NUM_NORMS)]
        pieces = (normed[i : i + 64].astype(wide) for i in range(0, len(normed), 64))
        norms = np.sqrt(np.concatenate([np.square(one).sum(axis=1, dtype=np.float64) for one in pieces]))
        constant = np.arange(flat.shape[1])
        step = 8  # nearly every column is out after a few rows
        for i in range(0, len(flat), step):
            some = flat[i : i + step] if len(constant) == flat.shape[1] else flat[i : i + step, constant]
            constant = constant[(some == flat[0, constant]).all(axis=0)]
            if not len(constant):
                break
        return cls(len(flat), float(norms.mean()), float(norms.std()), len(constant), flat.shape[1])

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_rows": self.num_rows,
            "norm_mean": self.norm_mean,
            "norm_std": self.norm_std,
            "num_constant": self.num_constant,
            "num_columns": self.num_columns,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        return cls(**raw)


def remarks(tap: str, new: BlockStatistics, earlier: Sequence[BlockStatistics]) -> list[str]:
    """Sentences on constant columns, and on norms that left the range of the blocks before."""
    said = []
    if new.num_rows >= MIN_ROWS and new.num_constant:
        said.append(
            f"tap {tap}: {new.num_constant} of {new.num_columns} columns are constant over "
            f"{new.num_rows} rows of the block"
        )
    before = [s for s in earlier if s.num_rows >= MIN_ROWS]
    if before and new.num_rows >= MIN_ROWS:
        weights = np.array([s.num_rows for s in before], np.float64)
        mean = float(np.average([s.norm_mean for s in before], weights=weights))
        spread = float(np.average([s.norm_std for s in before], weights=weights))
        if abs(new.norm_mean - mean) > DRIFT_SPREADS * max(spread, 1e-6 * abs(mean)):
            said.append(
                f"tap {tap}: the mean norm of the block is {new.norm_mean:.4g}, of the blocks before "
                f"{mean:.4g} ± {spread:.2g}: other data, or another model?"
            )
    return said
