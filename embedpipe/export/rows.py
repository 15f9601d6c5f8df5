"""What an export is made of: the rows of one store that samples name, in the order in which they are stored.

Rows of a grown store keep their places, so that a second export can write what is new alone.
"""

# n rows that are exported, in the order of the store

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedpipe.errors import DataError
from embedpipe.features.card import keys_in
from embedpipe.features.joined import check_tap
from embedpipe.features.rows import rows_of_samples
from embedpipe.manifest.table import Manifest
from embedpipe.store import FeatureStore

BLOCK_NBYTES = 16 << 20


@dataclass(frozen=True)
class ExportRows:
    """Samples with features in every tap and part, ordered by row of the store, then by id.

    Attributes
    ----------
    taps : tuple of str
    rows : int64 [n]
        Row of the store.
    sample_ids, splits, datasets : str [n]
    parts : int32 [n]
        Part number of the row: 0 where a sample is one row.
    absent : tuple of str
        Samples left out, since a tap has no features of them, or of one of their parts.
    """

    store: FeatureStore
    taps: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    sample_ids: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    datasets: npt.NDArray[np.str_]
    parts: npt.NDArray[np.int32]
    absent: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def without(self, known: set[tuple[str, str, int]]) -> ExportRows:
        """The rows whose (data set, sample_id, part) is not among `known`."""
        triples = zip(self.datasets.tolist(), self.sample_ids.tolist(), self.parts.tolist(), strict=True)
        return self.take(np.array([i for i, triple in enumerate(triples) if triple not in known], np.int64))

    def take(self, places: npt.NDArray[np.int64]) -> ExportRows:
        """Some of the rows."""
        return ExportRows(
            self.store,
            self.taps,
            self.rows[places],
            self.sample_ids[places],
            self.splits[places],
            self.datasets[places],
            self.parts[places],
            self.absent,
        )

    def blocks(self, tap: str) -> Iterator[tuple[int, int, npt.NDArray[np.generic]]]:
        """(start, stop, values in stored dtype and shape) of a tap, one block after the other."""
        state = self.store.tap(tap)
        step = max(1, BLOCK_NBYTES // state.row_nbytes)
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            yield start, stop, self.store.read(tap, self.rows[start:stop])
            self.store.release(above_nbytes=8 * BLOCK_NBYTES)


def export_rows(
    store: FeatureStore,
    manifests: Sequence[Manifest],
    *,
    taps: Sequence[str] = (),
    splits: Sequence[str] = (),
) -> ExportRows:
    """The rows of a store that the samples of some data sets name.

    Parameters
    ----------
    taps
        Names; none for all.
    splits
        None for all.

    Raises
    ------
    ConfigError
        If the store has no such tap; did you mean.
    DataError
        If no sample has features.
    """
    for tap in taps:
        check_tap(store, tap)
    chosen = tuple(taps) or tuple(store.taps)
    ids, split, dataset, keys = [], [], [], []
    for manifest in manifests:
        some = manifest.where(split=list(splits)) if splits else manifest
        ids.append(np.asarray(some.sample_ids, dtype=str))
        split.append(np.asarray(some.splits, dtype=str))
        dataset.append(np.full(len(some), some.dataset))
        keys.append(keys_in(some, store))
    all_ids, all_keys = np.concatenate(ids), np.concatenate(keys)
    holes = np.zeros(store.num_rows, bool)
    for tap in chosen:
        holes |= store.holes(tap).mask(0, store.num_rows)
    found = rows_of_samples(store, all_keys).without(holes, whole=True)
    if not len(found.rows):
        where = f" of split {', '.join(splits)}" if splits else ""
        raise DataError(
            f"{store.path}: expected features of {len(all_ids)} samples{where} in {', '.join(chosen)}, found none; "
            "nothing to export"
        )
    sample = np.repeat(np.arange(len(all_ids)), found.counts)
    order = np.lexsort((all_ids[sample], found.rows))
    sample = sample[order]
    return ExportRows(
        store,
        chosen,
        found.rows[order],
        all_ids[sample],
        np.concatenate(split)[sample],
        np.concatenate(dataset)[sample],
        found.parts[order],
        tuple(all_ids[found.counts == 0].tolist()),
    )
