"""Masks: a class for every pixel of an image, held as PNG and reduced to the grid of a tap.

A pixel is a code into the classes of the task, or `IGNORED`. Only the part that a backbone sees is reduced: the square
in the middle of the image that a resize of the shorter side and a centre crop leave.
"""

# N samples, H W height and width in pixels, Y X rows and columns of a grid

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedpipe.manifest.kinds import MISSING

IGNORED = 255
"""Pixel of no class: one that nobody labelled, or that is not to count."""
MOST_CLASSES = 255

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Masks:
    """Masks of samples.

    Attributes
    ----------
    cells : sequence of bytes or None
        Each a PNG of one channel; None where a sample has none.
    """

    cells: Sequence[bytes | None]

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def digest(self) -> str:
        """blake2b-128 over all of them, in order."""
        state = hashlib.blake2b(digest_size=16)
        for cell in self.cells:
            state.update(b"-" if cell is None else len(cell).to_bytes(8) + cell)
        return state.hexdigest()

    def on_grid(self, shape: tuple[int, int], seen: float = 1.0) -> npt.NDArray[np.int64]:
        """The class that most pixels of each place have.

        Parameters
        ----------
        shape
            (Y, X).
        seen
            Share of the shorter side that the square has.

        Returns
        -------
        int64 [N, Y, X]
            -1 where a sample has no mask, or more pixels of a place are ignored than are of any class.
        """
        found = np.full((len(self.cells), *shape), MISSING, np.int64)
        for place, cell in enumerate(self.cells):
            if cell is not None:
                found[place] = majority(decode_mask(cell), shape, seen)
        return found


def encode_mask(codes_HW: Codes) -> bytes:
    """Codes as a PNG of one channel."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(codes_HW).save(out, format="PNG")
    return out.getvalue()


def decode_mask(cell: bytes) -> Codes:
    """Codes of a PNG that `encode_mask` made."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(cell)), np.uint8)


def majority(codes_HW: Codes, shape: tuple[int, int], seen: float = 1.0) -> npt.NDArray[np.int64]:
    """The class that most pixels of each place of a grid have, [Y, X]; of equal ones the first.

    Where pixels do not divide evenly among places, each place is looked at on a lattice at least as fine as the
    pixels, so that every pixel counts; where there are fewer pixels than places, a place takes the pixel at its centre.
    """
    height, width = codes_HW.shape
    side = seen * min(height, width)
    rows, columns = (
        _lattice(length, side, places) for length, places in zip((height, width), shape, strict=True)
    )
    points = codes_HW[np.ix_(rows.ravel(), columns.ravel())].astype(np.int64)
    place = np.arange(shape[0])[:, None] * shape[1] + np.arange(shape[1])
    place = np.repeat(np.repeat(place, rows.shape[1], axis=0), columns.shape[1], axis=1)
    counts = np.bincount((place * 256 + points).ravel(), minlength=shape[0] * shape[1] * 256)
    winners: npt.NDArray[np.int64] = counts.reshape(*shape, 256).argmax(axis=2)
    return np.where(winners == IGNORED, MISSING, winners)


def _lattice(length: int, side: float, places: int) -> npt.NDArray[np.int64]:
    """Pixels along one axis that are looked at, for each place, [places, points]."""
    num_points = max(1, math.ceil(side / places - 1e-9))
    at = (np.arange(places * num_points) + 0.5) / (places * num_points) * side + (length - side) / 2
    return np.minimum(at.astype(np.int64), length - 1).reshape(places, num_points)
