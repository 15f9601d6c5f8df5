"""What a backbone is to embed: the samples of several data sets as one list of distinct keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedpipe.errors import DataError
from embedpipe.manifest.listed import ListedSamples
from embedpipe.sources.base import Source

Indices = np.ndarray[Any, np.dtype[np.integer[Any]]]


@dataclass(frozen=True)
class WantedSamples:
    """What one backbone embeds of all data sets, in manifest order: n rows, one a sample or one a part of it.

    Keys are in memory; names and locators are read for those that are asked for.

    Attributes
    ----------
    keys : uint8 array, shape (n, 16)
    parts : int32 array, shape (n,)
        Part number of each row: 0 where a sample is one row, the number of the window or crop else.
    sources : tuple of Source
        One a data set.
    listed : tuple of ListedSamples
    samples : int64 array, shape (n,), or None
        Which of the samples listed each row is of; None where each is one row.
    starts : int64 array, shape (number of data sets + 1,)
        Of each data set among the samples.
    """

    keys: np.ndarray
    parts: np.ndarray
    sources: tuple[Source, ...]
    listed: tuple[ListedSamples, ...]
    starts: np.ndarray
    samples: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def source_index(self, rows: Indices) -> np.ndarray:
        """Which source reads each. int64, shape of `rows`."""
        return np.searchsorted(self.starts, self._samples_of(rows), side="right") - 1

    def locators(self, rows: Indices) -> list[str]:
        """Where each is read, by its source."""
        return self._each(rows, lambda listed, local: listed.take("locator", local))

    def names(self, rows: Indices) -> list[str]:
        """``<data set>/<sample_id>`` of each, for messages."""
        return self._each(
            rows,
            lambda listed, local: [f"{listed.dataset}/{one}" for one in listed.take("sample_id", local)],
        )

    def _samples_of(self, rows: Indices) -> np.ndarray:
        return rows if self.samples is None else self.samples[rows]

    def _each(self, rows: Indices, take: Callable[[ListedSamples, Indices], list[str]]) -> list[str]:
        of, samples = self.source_index(rows), self._samples_of(rows)
        out = np.empty(len(samples), object)
        for number in np.unique(of).tolist():
            here = np.flatnonzero(of == number)
            out[here] = take(self.listed[number], samples[here] - self.starts[number])
        texts: list[str] = out.tolist()
        return texts


def gather(datasets: Sequence[tuple[ListedSamples, Source]], backbone: str, modality: str) -> WantedSamples:
    """Join the data sets whose modality is the backbone's.

    Raises
    ------
    DataError
        If none of them fits, or they hold no sample.
    """
    fitting = [(m.of(modality), s) for m, s in datasets if modality in m.modalities]
    if not fitting:
        found = (
            ", ".join(f"{m.dataset} ({' and '.join(m.modalities)})" for m, _ in datasets)
            or "no data set of domain target"
        )
        raise DataError(
            f"params.yaml: backbones.{backbone}: expected a data set of {modality}s to embed, found {found}"
        )
    starts = np.concatenate([[0], np.cumsum([len(m) for m, _ in fitting])]).astype(np.int64)
    if not starts[-1]:
        raise DataError(f"params.yaml: backbones.{backbone}: expected samples to embed, found none")
    keys = np.empty((int(starts[-1]), 16), np.uint8)
    for (listed, _), start, stop in zip(fitting, starts[:-1], starts[1:], strict=True):
        listed.read_keys(keys[start:stop])
    return WantedSamples(
        keys=keys,
        parts=np.broadcast_to(np.int32(0), len(keys)),  # takes no memory
        sources=tuple(s for _, s in fitting),
        listed=tuple(m for m, _ in fitting),
        starts=starts,
    )
