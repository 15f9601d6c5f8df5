"""Taps of one or several stores joined by sample: which rows make up each sample, and reading them.

Reads stores; knows nothing of tasks or of the order in which samples are wanted.
"""

# n samples or, where parts are kept, n rows of samples; D columns of all taps side by side

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ConfigError, DataError
from embedpipe.features.rows import Index, RowsOfSamples, mean_of_parts, ragged, rows_of_samples
from embedpipe.params import did_you_mean
from embedpipe.store import FeatureStore
from embedpipe.store.arrays import FAULT_NBYTES

Parts = Literal["mean", "max", "all"]
PIECE_NBYTES = 4 << 20
"""Bytes read at a time: a buffer that stays in the cache is filled several times as fast as fresh memory."""


@dataclass(frozen=True)
class Column:
    """One tap of one store.

    Attributes
    ----------
    rows : RowsOfSamples
    is_single : bool
        Whether each sample is exactly one row: then nothing is aggregated.
    parts
        ``max`` or ``mean``: how rows of one sample become one.
    """

    store: FeatureStore
    tap: str
    rows: RowsOfSamples
    is_single: bool
    parts: Parts

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.store.tap(self.tap).row_shape

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        return self.store.tap(self.tap).dtype

    @property
    def width(self) -> int:
        return math.prod(self.row_shape)

    def read(self, samples: Index) -> npt.NDArray[Any]:
        """Features of `samples`, one row each, in stored dtype and shape."""
        return self.store.read(self.tap, self.rows.rows[samples])

    def read_into(self, samples: Index, out_nD: npt.NDArray[Any], mapped_nbytes: int) -> None:
        """Features of `samples`, laid out flat, into `out_nD`; a mean of parts is taken in float64."""
        step = max(1, PIECE_NBYTES // max(1, self.width * self.stored_dtype.itemsize))
        is_run = as_run(samples) is not None
        if not is_run:
            step = min(step, max(16, mapped_nbytes // FAULT_NBYTES))
        step = max(1, step * len(self.rows.counts) // max(1, len(self.rows.rows)))
        for i in range(0, len(samples), step):
            some, out = samples[i : i + step], out_nD[i : i + step]
            self.store.release(above_nbytes=mapped_nbytes, num_more=0 if is_run else len(some))
            if not self.is_single:
                places, starts = ragged(self.rows.starts, some)
                values = self.store.read(self.tap, self.rows.rows[places]).reshape(len(places), -1)
                if self.parts == "max":
                    out[...] = np.maximum.reduceat(values, starts[:-1], axis=0)
                else:
                    out[...] = mean_of_parts(values, starts)
                continue
            rows = self.rows.rows[some]
            if out.dtype == self.stored_dtype and out.flags.c_contiguous:
                self.store.read(self.tap, rows, out.reshape(len(some), *self.row_shape))
            else:
                out[...] = self.store.read(self.tap, rows).reshape(len(some), -1)


class Joined:
    """Columns joined by sample, and their matrix once it was read whole.

    Attributes
    ----------
    samples : int64 [n]
        Which of the keys each row is of; repeated where parts are kept.
    parts : int32 [n]
        Part number of each row where parts are kept, else 0.
    shape : tuple of int
        Of one row: the tap's own, or (D,) of several taps side by side.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        samples: Index,
        parts: npt.NDArray[np.int32],
        *,
        dtype: np.dtype[Any],
        memory_nbytes: int,
        mapped_nbytes: int,
    ) -> None:
        self.columns = tuple(columns)
        self.samples = samples
        self.parts = parts
        self.dtype = dtype
        self.memory_nbytes = memory_nbytes
        self.mapped_nbytes = mapped_nbytes
        single = self.columns[0].row_shape if len(columns) == 1 else None
        self.shape = single if single is not None else (sum(column.width for column in columns),)
        self._matrix: npt.NDArray[Any] | None = None
        self._lock = threading.Lock()
        _alive.add(self)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_lock"]
        return {**state, "_matrix": None}  # another process reads it again, or maps the shards itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        _alive.add(self)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lie_in_order(self) -> bool:
        """Whether most rows lie behind the one before, so that reading in order touches each page once."""
        steps = np.diff(self.columns[0].rows.rows)
        return not len(steps) or float((steps == 1).mean()) > 0.9

    @property
    def row_nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def fits(self) -> bool:
        """Whether the whole matrix is kept in memory."""
        return len(self) * self.row_nbytes <= self.memory_nbytes

    def matrix(self) -> npt.NDArray[Any]:
        """Every row, read once and shared by all who ask: not writeable."""
        with self._lock:
            if self._matrix is None:
                matrix = self.read(np.arange(len(self)))
                matrix.flags.writeable = False
                self._matrix = matrix
            return self._matrix

    def rows(self, index: Index, mapped_nbytes: int | None = None) -> npt.NDArray[Any]:
        """Rows in the order asked, [len(index), ...]: out of memory where the matrix fits there.

        Parameters
        ----------
        mapped_nbytes
            Bytes of mapped pages above which they are given back; by default `mapped_nbytes`.
        """
        if self.fits:
            matrix = self.matrix()
            run = as_run(index)
            return matrix[run] if run is not None else matrix[index]
        return self.read(index, mapped_nbytes)

    def read(self, index: Index, mapped_nbytes: int | None = None) -> npt.NDArray[Any]:
        """Rows in the order asked, read from the stores."""
        limit = self.mapped_nbytes if mapped_nbytes is None else mapped_nbytes
        (only, *more) = self.columns
        if (
            not more
            and only.is_single
            and only.stored_dtype == self.dtype
            and ((is_run := as_run(index) is not None) or len(index) * FAULT_NBYTES <= limit)
        ):
            only.store.release(above_nbytes=limit, num_more=0 if is_run else len(index))
            return only.read(index)
        out_nD = np.empty((len(index), sum(column.width for column in self.columns)), self.dtype)
        start = 0
        for column in self.columns:
            column.read_into(index, out_nD[:, start : start + column.width], limit)
            start += column.width
        return out_nD.reshape(len(index), *self.shape)


def _new_locks() -> None:
    """A forked child starts with locks that no thread of its parent holds."""
    for joined in list(_alive):
        joined._lock = threading.Lock()


_alive: weakref.WeakSet[Joined] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_locks)


def as_run(index: Index) -> slice | None:
    """The slice that `index` is, if it is one of step 1."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return None


def join_columns(
    chosen: Sequence[tuple[FeatureStore, str]],
    keys: Sequence[npt.NDArray[np.uint8]],
    *,
    parts: Parts,
    dtype: str | None,
    memory_nbytes: int,
    mapped_nbytes: int,
) -> Joined:
    """Join taps by sample; samples that one of them lacks have no rows.

    Parameters
    ----------
    keys : sequence of uint8 [n, 16]
        By which the store of each tap names the samples.
    parts
        ``mean`` or ``max``: one row a sample, over its parts, element by element; a sample of which a part has
        no features has none. ``all``: one row a part that every tap has.
    dtype
        Of what is read; None for the dtype stored.
    """
    found = []
    for (store, tap), its_keys in zip(chosen, keys, strict=True):
        holes = store.holes(tap).mask(0, store.num_rows)
        found.append(rows_of_samples(store, its_keys).without(holes, whole=parts != "all"))
        store.release()  # the keys are not read again
    samples, numbers, rows = _kept(found) if parts == "all" else _aggregated(found)
    columns = [
        Column(store, tap, of, is_single=bool((of.counts == 1).all()), parts=parts)
        for (store, tap), of in zip(chosen, rows, strict=True)
    ]
    stored = {column.stored_dtype for column in columns}
    resolved = np.dtype(dtype) if dtype is not None else max(stored, key=lambda one: one.itemsize)
    return Joined(
        columns, samples, numbers, dtype=resolved, memory_nbytes=memory_nbytes, mapped_nbytes=mapped_nbytes
    )


def check_tap(store: FeatureStore, tap: str) -> None:
    """Raise unless the store has the tap.

    Raises
    ------
    ConfigError
        Did you mean.
    """
    if tap not in store.taps:
        raise ConfigError(
            f"{store.path}: no tap {tap!r}{did_you_mean(tap, list(store.taps))}; it holds {', '.join(store.taps)}"
        )


def open_store(store: FeatureStore | Path | str) -> FeatureStore:
    """The store itself, or the one at a path or an address."""
    return store if isinstance(store, FeatureStore) else FeatureStore.open(store)


def absent_error(joined: Joined, names: Sequence[str], total: int) -> DataError:
    """That features are wanted of samples which a store has none of."""
    where = ", ".join(f"{column.store.path} ({column.tap})" for column in joined.columns)
    more = ", …" if len(names) > 3 else ""
    return DataError(
        f"{where}: expected features of {total} samples, found none for {len(names)} "
        f"({', '.join(names[:3])}{more}); run `embedpipe extract`, or leave them out with absent='drop'"
    )


def _aggregated(found: Sequence[RowsOfSamples]) -> tuple[Index, npt.NDArray[np.int32], list[RowsOfSamples]]:
    present = np.logical_and.reduce([of.counts > 0 for of in found])
    if present.all():  # by far the most frequent; millions of rows are copied only where they must be
        return np.arange(len(present)), np.zeros(len(present), np.int32), list(found)
    samples = np.flatnonzero(present).astype(np.int64)
    return samples, np.zeros(len(samples), np.int32), [of.take(samples) for of in found]


def _kept(found: Sequence[RowsOfSamples]) -> tuple[Index, npt.NDArray[np.int32], list[RowsOfSamples]]:
    num_parts = max(int(of.parts.max(initial=0)) for of in found) + 1
    sample_of = [np.repeat(np.arange(len(of.counts)), of.counts) for of in found]
    codes = [s * num_parts + of.parts for s, of in zip(sample_of, found, strict=True)]
    common = codes[0]
    for other in codes[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    rows = []
    for code, of in zip(codes, found, strict=True):
        places = np.searchsorted(code, common)
        starts = np.arange(len(common) + 1, dtype=np.int64)
        rows.append(RowsOfSamples(of.rows[places], starts, of.parts[places]))
    return (common // num_parts).astype(np.int64), (common % num_parts).astype(np.int32), rows
