"""Features as a dask array. The only module that imports dask, and only when it is asked for."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from embedpipe.features.features import Features


class Sliced:
    """What dask cuts blocks from: reads when it is indexed."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self.shape = features.shape
        self.dtype = features.dtype
        self.ndim = len(features.shape)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        at = np.arange(len(self._features))[rows]
        some = self._features.take(at).numpy()
        found: npt.NDArray[Any] = some[(slice(None) if at.ndim else 0, *rest)]
        return found


def lazy_array(features: Features, rows: int) -> Any:
    """Blocks of `rows` whole rows."""
    chunks = (rows, *features.shape[1:])
    name = f"features-{uuid.uuid4().hex}"
    empty = np.empty((0,) * len(features.shape), features.dtype)
    make: Any = dask.array.from_array
    return make(Sliced(features), chunks=chunks, name=name, asarray=False, meta=empty)
