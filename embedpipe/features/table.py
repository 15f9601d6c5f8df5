"""Read the features of a manifest's samples out of a published store.

Rows come in the order asked for, whatever the order in which the store grew, so what heads learn does
not depend on history. Samples without features, and recorded holes, are masked, never filled.
"""

# n samples; X has the tap's own shape behind them: [n, D] pooled, [n, C, H, W] maps

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ConfigError
from embedpipe.features.card import BackboneCard, read_card
from embedpipe.features.rows import rows_of_samples
from embedpipe.features.taprows import Cut, TapRows
from embedpipe.params import did_you_mean
from embedpipe.store import FeatureStore

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float32]
MAPPED_NBYTES = 1 << 30


@dataclass(frozen=True)
class PublishedFeatures:
    """A published store with its card, open for reading."""

    store_dir: Path
    card: BackboneCard
    store: FeatureStore

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the taps, from the input of the backbone to its end."""
        return tuple(sorted(self.card.taps, key=lambda name: (self.card.taps[name].depth, name)))

    def present(self, keys: npt.NDArray[np.uint8]) -> Bool:
        """Which samples have features in every tap, in all of their rows.

        Parameters
        ----------
        keys : uint8 [n, 16]
        """
        holes = np.zeros(self.store.num_rows, bool)
        for tap in self.taps:
            holes |= self.store.holes(tap).mask(0, self.store.num_rows)
        found: Bool = rows_of_samples(self.store, keys).without(holes, whole=True).counts > 0
        return found

    def row_nbytes(self, tap: str) -> int:
        """Bytes that one row of a tap takes as it is stored."""
        state = self.store.tap(tap)
        return math.prod(state.row_shape) * np.dtype(state.spec.dtype).itemsize

    def read(self, tap: str, keys: npt.NDArray[np.uint8]) -> Float:
        """Features of the samples, float32 [n, ...]; each must be present. Of several rows a sample, the mean.

        Raises
        ------
        ConfigError
            If the store has no such tap; did you mean.
        DataError
            If a sample has no features.
        """
        rows = self.rows(tap, keys, cut=lambda shape: [slice(0, shape[0])], mapped_nbytes=MAPPED_NBYTES)
        return np.asarray(rows.gather(rows.index), dtype=np.float32)

    def rows(self, tap: str, keys: npt.NDArray[np.uint8], *, cut: Cut, mapped_nbytes: int) -> TapRows:
        """Features of the samples, read as they are asked for; see `TapRows.of`. Of several rows a sample, the mean.

        Raises
        ------
        ConfigError
            If the store has no such tap; did you mean.
        DataError
            If a sample has no features.
        """
        self._check(tap)
        return TapRows.of([(self.store, tap)], keys, cut=cut, memory_nbytes=0, mapped_nbytes=mapped_nbytes)

    def _check(self, tap: str) -> None:
        if tap not in self.card.taps:
            raise ConfigError(
                f"{self.store_dir}: no tap {tap!r}{did_you_mean(tap, self.taps)}; "
                f"it holds {', '.join(self.taps)}"
            )


def open_features(store_dir: Path) -> PublishedFeatures:
    """Open a published store.

    Raises
    ------
    DataError
        If it has no card.
    SpecMismatch
        If store and card are not of the same run; names the field.
    """
    card = read_card(store_dir)
    store = FeatureStore.open(store_dir)
    card.check(store.spec, store_dir)
    return PublishedFeatures(store_dir, card, store)
