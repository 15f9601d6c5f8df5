"""Features of samples as rows that a head reads by blocks or gathers: nothing is held in memory.

What heads ask of rows (`shape`, `blocks`, `gather`, `take`) and no more; knows nothing of heads.
"""

# n samples, each of the tap's own shape

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.errors import DataError
from embedpipe.features import joined
from embedpipe.features.joined import Joined
from embedpipe.features.rows import Index
from embedpipe.store import FeatureStore

Cut = Callable[[tuple[int, ...]], Iterable[slice]]


@dataclass(frozen=True)
class TapRows:
    """Rows of one tap, or of several side by side, in the order of `index`.

    Attributes
    ----------
    cut : callable
        Blocks of rows of a shape, as whoever reads them wants them.
    """

    joined: Joined
    index: Index
    cut: Cut

    @classmethod
    def of(
        cls,
        taps: Sequence[tuple[FeatureStore, str]],
        keys: npt.NDArray[np.uint8],
        *,
        cut: Cut,
        memory_nbytes: int,
        mapped_nbytes: int | None = None,
    ) -> TapRows:
        """Rows of samples, float32, in the order of their keys.

        Parameters
        ----------
        keys : uint8 [n, 16]
        memory_nbytes
            A tap up to this many bytes is read once and kept; of a larger one rows are read as they are asked.
        mapped_nbytes
            Mapped pages of shards to keep; by default as many as memory.

        Raises
        ------
        DataError
            If a sample has no features.
        """
        found = joined.join_columns(
            taps,
            [keys] * len(taps),
            parts="mean",
            dtype="float32",
            memory_nbytes=memory_nbytes,
            mapped_nbytes=memory_nbytes if mapped_nbytes is None else mapped_nbytes,
        )
        if len(found) != len(keys):
            where = ", ".join(f"{store.path} ({tap})" for store, tap in taps)
            raise DataError(
                f"{where}: expected features of {len(keys)} samples, found them for {len(found)}; "
                "run `embedpipe extract`"
            )
        return cls(found, np.arange(len(keys), dtype=np.int64), cut)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.index), *self.joined.shape)

    @property
    def nbytes(self) -> int:
        """Of the rows as float32."""
        return 4 * math.prod(self.shape)

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Every row once, in order."""
        for part in self.cut(self.shape):
            yield part, self.joined.rows(self.index[part])

    def gather(self, index: Index) -> npt.NDArray[Any]:
        """Rows at these positions, in the order asked."""
        return self.joined.rows(self.index[index])

    def take(self, index: Index) -> TapRows:
        """Rows at these positions, without reading them."""
        return TapRows(self.joined, self.index[index], self.cut)
