"""Features of the samples of a manifest, as arrays, dask arrays, batches or blocks.

Reads published stores; joins taps, samples and the targets of a task by sample_id and key. What is read does
not depend on the order in which a store grew.
"""

# n rows: samples in the order asked, or their parts

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embedpipe.errors import DataError
from embedpipe.features import joined, stream
from embedpipe.features.card import keys_in
from embedpipe.features.joined import Joined, Parts
from embedpipe.features.names import Names, StrArray
from embedpipe.features.rows import Index
from embedpipe.manifest.kshot import k_shot_indices
from embedpipe.manifest.table import SPLITS, Manifest
from embedpipe.manifest.targets import Targets
from embedpipe.params import did_you_mean
from embedpipe.store import FeatureStore

MEMORY_NBYTES = 4 * 2**30
BLOCK_NBYTES = 4 << 20
STREAMED_NBYTES = 32 << 20
"""Mapped pages that reading rows as they lie keeps: none is read again."""


@dataclass(frozen=True)
class Batch:
    """Some rows, aligned.

    Attributes
    ----------
    positions : int64 [b]
        Place of each row in the `Features` that it is of.
    X : [b, ...]
    y : int64 or float64 [b], or None without a task
        Class codes, -1 where the label is missing; or numbers, NaN where one is.
    labelled : bool [b]
        False where the label is missing, or there is no task.
    """

    positions: Index
    X: npt.NDArray[Any]
    y: npt.NDArray[Any] | None
    labelled: npt.NDArray[np.bool_]
    _of: Features = field(repr=False)

    @property
    def sample_ids(self) -> StrArray:
        """Made when they are asked for: few who train ask."""
        return self._of.take(self.positions).sample_ids


@dataclass(frozen=True)
class Features:
    """Features of samples, in the order of the manifest until another is asked for. Made by `of`.

    Selecting (`where`, `k_shot`, `take`) reads nothing, and what is selected shares the matrix of the whole.

    Attributes
    ----------
    y : int64 or float64 [n], or None
    labelled : bool [n]
    classes : tuple of str
        Of the task, in the order of the codes.
    absent : tuple of str
        Samples of the manifest that are left out, since a store lacks them.
    """

    y: npt.NDArray[Any] | None
    labelled: npt.NDArray[np.bool_]
    classes: tuple[str, ...]
    absent: tuple[str, ...]
    _names: Names = field(repr=False)
    _joined: Joined
    _index: Index

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        taps: Sequence[tuple[FeatureStore | Path | str, str]],
        *,
        targets: Targets | None = None,
        parts: Parts = "mean",
        absent: str = "error",
        dtype: str | None = "float32",
        memory_nbytes: int = MEMORY_NBYTES,
        mapped_nbytes: int = MEMORY_NBYTES,
    ) -> Self:
        """Join the samples of a manifest with taps of stores and with the targets of a task.

        Parameters
        ----------
        taps : sequence of (store, tap name)
            Stores open, or by path or address. Several are laid out flat, side by side.
        targets
            Labels by sample_id; samples without one are masked by `labelled`.
        parts
            A sample of several rows (windows, crops): ``mean`` and ``max`` make one of them, element by element,
            ``all`` keeps a row each, in order of part number. A mean or a maximum needs every part: a sample of
            which one has no features counts as absent.
        absent
            What to do with samples that a store has no features of: ``error``, or ``drop``.
        dtype
            Of what is read; None for the dtype stored.
        memory_nbytes
            A matrix up to this many bytes is read once and kept; a larger one is read again and again.
        mapped_nbytes
            Mapped pages of shards that a process keeps while it reads at random. They are a cache that the
            system takes back when it must; less makes a process look smaller, and read more slowly.

        Raises
        ------
        ConfigError
            If a store has no such tap.
        DataError
            If samples have no features and `absent` is ``error``.
        StoreError
            If a store is damaged.
        """
        if parts not in ("mean", "max", "all") or absent not in ("error", "drop"):
            raise ValueError(
                f"expected parts mean, max or all and absent error or drop, found {parts}, {absent}"
            )
        if not taps:
            raise ValueError("taps: expected one or more pairs of store and tap, found none")
        chosen = [(joined.open_store(store), tap) for store, tap in taps]
        for store, tap in chosen:
            joined.check_tap(store, tap)
        rows = joined.join_columns(
            chosen,
            [keys_in(manifest, store) for store, _ in chosen],
            parts=parts,
            dtype=dtype,
            memory_nbytes=memory_nbytes,
            mapped_nbytes=mapped_nbytes,
        )
        names = Names(manifest)
        lacks = np.ones(len(names), bool)
        lacks[rows.samples] = False
        lacking = tuple(names.ids(np.flatnonzero(lacks)).tolist())
        if lacking and absent == "error":
            raise joined.absent_error(rows, lacking, len(names))
        y, labelled = _truth(targets, names, rows.samples)
        return cls(
            y,
            labelled,
            () if targets is None else targets.classes,
            lacking,
            names,
            rows,
            rows.samples if len(rows) == len(names) and not lacking else np.arange(len(rows)),
        )

    def __len__(self) -> int:
        return len(self._index)

    @property
    def sample_ids(self) -> StrArray:
        """Str [n], made anew each time."""
        return self._names.ids(self._joined.samples[self._index])

    @property
    def splits(self) -> StrArray:
        """Str [n], made anew each time."""
        return self._names.splits(self._joined.samples[self._index])

    @property
    def groups(self) -> StrArray:
        """Str [n], made anew each time."""
        return self._names.groups(self._joined.samples[self._index])

    @property
    def parts(self) -> npt.NDArray[np.int32]:
        """Part number of each row where the parts of a sample are kept, else 0; int32 [n]."""
        return self._joined.parts[self._index]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._joined.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._joined.dtype

    @property
    def nbytes(self) -> int:
        return len(self) * self._joined.row_nbytes

    @property
    def in_memory(self) -> bool:
        """Whether rows come out of a matrix that is kept, and not from disk each time."""
        return self._joined.fits

    def take(self, positions: npt.ArrayLike) -> Self:
        """Rows at these positions, in the order asked, repeats allowed."""
        at = np.asarray(positions, np.int64).reshape(-1)
        return replace(
            self,
            y=None if self.y is None else self.y[at],
            labelled=self.labelled[at],
            _index=self._index[at],
        )

    def where(
        self,
        *,
        split: str | Sequence[str] | None = None,
        labelled: bool | None = None,
        sample_ids: Sequence[str] | None = None,
    ) -> Self:
        """Rows of a split, or of several; with a label or without; of these samples, in the order asked.

        Raises
        ------
        DataError
            If a sample is not among them; names the first.
        """
        chosen = self if sample_ids is None else self.take(self._positions_of(sample_ids))
        mask = np.ones(len(chosen), bool)
        if split is not None:
            wanted = [split] if isinstance(split, str) else list(split)
            if not set(wanted) <= set(SPLITS):
                raise ValueError(f"split: expected some of {', '.join(SPLITS)}, found {', '.join(wanted)}")
            mask &= chosen._is_of_split(wanted)
        if labelled is not None:
            mask &= chosen.labelled == labelled
        return chosen.take(np.flatnonzero(mask))

    def k_shot(self, k: int, *, draw: int = 0, seed: int = 0) -> Self:
        """k labelled train samples a class, those that training at this `k_shot` and draw sees.

        Raises
        ------
        DataError
            If there is no task of classes, or a class has fewer than k.
        """
        if self.y is None or not self.classes or self.y.ndim > 1:
            raise DataError("k_shot: expected the targets of a task of classes, found none")
        train = np.flatnonzero(self._is_of_split(["train"]) & self.labelled)
        names = self.take(train).sample_ids
        ids, first = np.unique(names, return_index=True)
        chosen = k_shot_indices(
            ids.tolist(), self.y[train][first], k, draw=draw, seed=seed, classes=self.classes
        )
        # every part of a sample that was drawn, in the order they have here
        return self.take(train[np.isin(names, ids[chosen])])

    def numpy(self) -> npt.NDArray[Any]:
        """All rows, [n, ...]. Where they are shared with others, the array is not writeable.

        Raises
        ------
        DataError
            If they are more than `memory_nbytes`.
        """
        if not self.in_memory and self.nbytes > self._joined.memory_nbytes:
            raise DataError(
                f"expected at most {self._joined.memory_nbytes / 1e9:.3g} GB to read into memory, found "
                f"{self.nbytes / 1e9:.3g} GB; use batches(), block_iter() or dask(), or raise memory_nbytes"
            )
        return self._joined.rows(self._index)

    def dask(self, rows: int | None = None) -> Any:
        """All rows as a dask array, in blocks of `rows` that are read when they are needed."""
        from embedpipe.features.lazy import lazy_array

        return lazy_array(self, rows or self._block_rows())

    def batches(
        self,
        batch: int,
        *,
        shuffle: stream.Shuffle = False,
        seed: int = 0,
        drop_last: bool = False,
        read_ahead: bool | None = None,
    ) -> Iterator[Batch]:
        """Every row once, `batch` at a time.

        Parameters
        ----------
        shuffle
            ``global`` or True: in an order that depends on the number of rows and `seed` alone, in memory or
            not. ``chunks``: pieces of shards in random order, mixed 16 at a time: little is read twice from a
            slow disk, but the order depends on how the store grew.
        read_ahead
            Whether a thread reads what comes next, where rows do not come out of memory: by default for
            ``chunks``. It hides a slow disk; where the system's cache holds the shards it costs a little.
        """
        if batch < 1:
            raise ValueError(f"batch: expected at least 1, found {batch}")
        orders: Iterator[Index]
        if shuffle is False:
            orders = stream.in_order(len(self), batch, drop_last=drop_last)
        elif shuffle is True or shuffle == "global":
            orders = stream.shuffled(len(self), batch, seed=seed, drop_last=drop_last)
        elif shuffle == "chunks":
            column = self._joined.columns[0]
            first = column.rows.rows[column.rows.starts[self._index]]
            chunk = column.store.tap(column.tap).chunk_rows
            orders = stream.chunk_shuffled(first, batch, chunk_rows=chunk, seed=seed, drop_last=drop_last)
        else:
            raise ValueError(f"shuffle: expected global, chunks, True or False, found {shuffle!r}")
        ahead = shuffle == "chunks" if read_ahead is None else read_ahead
        return self._batches(orders, read_ahead=ahead)

    def block_iter(self, rows: int | None = None, *, read_ahead: bool = False) -> Iterator[Batch]:
        """Every row once, in order, in blocks of about 4 MB or of `rows`: takes no more memory for more rows."""
        lying = self._joined.lie_in_order
        limit = STREAMED_NBYTES if lying else None
        return self._batches(stream.in_order(len(self), rows or self._block_rows()), limit, read_ahead)

    def _batches(
        self, orders: Iterator[Index], mapped_nbytes: int | None = None, read_ahead: bool = False
    ) -> Iterator[Batch]:
        read = partial(self._batch, mapped_nbytes=mapped_nbytes)
        return stream.read_ahead(orders, read) if read_ahead and not self.in_memory else map(read, orders)

    def _batch(self, positions: Index, mapped_nbytes: int | None = None) -> Batch:
        return Batch(
            positions,
            self._joined.rows(self._index[positions], mapped_nbytes),
            None if self.y is None else self.y[positions],
            self.labelled[positions],
            self,
        )

    def _is_of_split(self, splits: Sequence[str]) -> npt.NDArray[np.bool_]:
        return self._names.is_of_split(self._joined.samples[self._index], splits)

    def _block_rows(self) -> int:
        return max(1, BLOCK_NBYTES // max(1, self._joined.row_nbytes))

    def _positions_of(self, wanted: Sequence[str]) -> Index:
        names = self.sample_ids
        order = np.argsort(names, kind="stable")
        known = names[order]
        asked = np.asarray(wanted, dtype=str).reshape(-1)
        low = np.searchsorted(known, asked, side="left")
        high = np.searchsorted(known, asked, side="right")
        if (low == high).any():
            name = str(asked[low == high][0])
            raise DataError(
                f"no features of sample {name!r}{did_you_mean(name, known.tolist())}; "
                f"{int((low == high).sum())} of the {len(asked)} samples asked for are not among these"
            )
        counts = high - low
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found: Index = order[np.repeat(low, counts) + within].astype(np.int64)
        return found


def _truth(
    targets: Targets | None, names: Names, samples: Index
) -> tuple[npt.NDArray[Any] | None, npt.NDArray[np.bool_]]:
    """Targets in the order of `samples`, missing where the table has no row, and which are there."""
    if targets is None:
        return None, np.zeros(len(samples), bool)
    y = targets.truth_of(names.ids(samples))
    return y, targets.spec.labelled(y)
