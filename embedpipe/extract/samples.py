"""What a backbone is to embed: the samples of several data sets as one list of distinct keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedpipe.errors import DataError
from embedpipe.manifest.table import Manifest
from embedpipe.sources.base import Source


@dataclass(frozen=True)
class WantedSamples:
    """What one backbone embeds of all data sets, in manifest order: n rows, one a sample or one a part of it.

    Attributes
    ----------
    keys : uint8 array, shape (n, 16)
    parts : int32 array, shape (n,)
        Part number of each row: 0 where a sample is one row, the number of the window or crop else.
    names : str array, shape (n,)
        ``<data set>/<sample_id>``, for messages.
    sources : tuple of Source
    locators, source_index : object array, int64 array, shape (n,)
        Where each is read, and by which source.
    """

    keys: np.ndarray
    parts: np.ndarray
    names: np.ndarray
    sources: tuple[Source, ...]
    locators: np.ndarray
    source_index: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def gather(datasets: Sequence[tuple[Manifest, Source]], backbone: str, modality: str) -> WantedSamples:
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
    if not any(len(m) for m, _ in fitting):
        raise DataError(f"params.yaml: backbones.{backbone}: expected samples to embed, found none")
    keys = np.concatenate([m.keys for m, _ in fitting])
    return WantedSamples(
        keys=keys,
        parts=np.zeros(len(keys), np.int32),
        names=np.concatenate([np.char.add(f"{m.dataset}/", m.sample_ids.astype(str)) for m, _ in fitting]),
        sources=tuple(s for _, s in fitting),
        locators=np.concatenate([m.locators.astype(object) for m, _ in fitting]),
        source_index=np.repeat(np.arange(len(fitting)), [len(m) for m, _ in fitting]),
    )
