"""Features that a head learns from: one tap, or several side by side, in the shape that its family sees."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from embedpipe.features.table import PublishedFeatures
from embedpipe.heads.beside import BesideRows, ShapedRows
from embedpipe.heads.rows import ArrayRows, Rows
from embedpipe.train.memory import rows_of, within
from embedpipe.train.plan import Part, Unit


def read_parts(
    stores: Mapping[str, PublishedFeatures],
    parts: tuple[Part, ...],
    keys: Mapping[str, npt.NDArray[np.uint8]],
    limit_nbytes: int,
) -> Rows:
    """Features of samples in the order of their keys: read at once where they fit `limit_nbytes`, else by blocks.

    Parameters
    ----------
    stores
        Open, by name of the backbone.
    parts
        One tap, in the shape stored; or several, laid out flat side by side.
    keys : dict of modality -> uint8 [n, 16]
    """

    def of(part: Part, most_nbytes: int) -> Rows:
        store = stores[part.backbone]
        return rows_of(store, part.tap.name, keys[store.card.modality], most_nbytes)

    if len(parts) == 1:
        return of(parts[0], limit_nbytes)
    return within(BesideRows(tuple(of(part, 0) for part in parts)), limit_nbytes)


def seen_by(unit: Unit, rows: Rows) -> Rows:
    """The rows of its taps as a unit's family sees them."""
    shape = unit.row_shape
    if shape is None or shape == rows.shape[1:]:
        return rows
    if isinstance(rows, ArrayRows):
        return ArrayRows(rows.X.reshape(len(rows.X), *shape))
    return ShapedRows(rows, shape)
