"""Ids, splits and groups of many samples, as Arrow holds them: little more than their letters.

A million of them as Python or NumPy strings would take more memory than the rows that are read at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedpipe.manifest.table import SPLITS, Manifest

StrArray = npt.NDArray[np.str_]
Index = npt.NDArray[np.int64]


class Names:
    """Of all samples of a manifest; strings are made for those that are asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self._ids = manifest.table["sample_id"].combine_chunks()
        self._groups = manifest.table["group"].combine_chunks()
        found = manifest.table["split"].combine_chunks().dictionary_encode()
        code_of = np.array([SPLITS.index(name) for name in found.dictionary.to_pylist()], np.int8)
        self._splits: npt.NDArray[np.int8] = code_of[found.indices.to_numpy()]

    def __len__(self) -> int:
        return len(self._splits)

    def ids(self, samples: Index) -> StrArray:
        return _strings(self._ids, samples)

    def groups(self, samples: Index) -> StrArray:
        return _strings(self._groups, samples)

    def splits(self, samples: Index) -> StrArray:
        return np.array(SPLITS)[self._splits[samples]]

    def is_of_split(self, samples: Index, splits: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of them are in one of the splits."""
        chosen: npt.NDArray[np.bool_] = np.isin(SPLITS, list(splits))[self._splits[samples]]
        return chosen


def _strings(column: pa.Array, samples: Index) -> StrArray:
    return np.array(column.take(pa.array(samples)).to_pylist(), dtype=str)
