"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, shipped with the library.

Labels: `digit` (0 to 9), `parity` (even, odd) and `slant` (a number, by how much the strokes lean).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from embedpipe.errors import UnreadableSample
from embedpipe.manifest.keys import array_key
from embedpipe.params import StrictModel
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import CONTENT, Access, Modality, Scanned, Seen, refuse_columns


class SklearnOptions(StrictModel):
    """A data set that scikit-learn ships."""

    kind: Literal["sklearn"] = Field(description="Marks this source.")
    name: Literal["digits"] = Field(
        default="digits", description="Which one; digits are the only images that need no download."
    )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has."""
        return ("image",)


class SklearnSource:
    """Digits as 8x8 uint8 images, ink bright on black; a locator is the row number."""

    modalities: tuple[Modality, ...] = ("image",)

    def __init__(self, options: SklearnOptions, access: Access) -> None:
        refuse_columns("sklearn", access, "index", [CONTENT])
        self.options = options
        self._images: npt.NDArray[np.uint8] | None = None
        self._digits: npt.NDArray[np.int64] | None = None

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List all digits; they are in memory, so nothing is remembered."""
        images, digits = self._load()
        for i, (image, digit) in enumerate(zip(images, digits, strict=True)):
            name = f"{i:04d}"
            labels = {
                "digit": str(digit),
                "parity": "odd" if digit % 2 else "even",
                "slant": slant(image),
            }
            yield Scanned(name, name, array_key(image), labels=labels)

    def read(self, locator: str) -> Image.Image:
        """One digit, mode L, 8x8 pixels."""
        images, _ = self._load()
        if not locator.isdecimal() or int(locator) >= len(images):
            raise UnreadableSample(f"expected a row of 0 to {len(images) - 1}, found {locator!r}")
        return Image.fromarray(images[int(locator)])

    def notes(self) -> list[str]:
        return []

    def _load(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        if self._images is None or self._digits is None:
            from sklearn.datasets import load_digits  # costs a second: only who reads digits pays it

            loaded = load_digits()
            self._digits = loaded.target.astype(np.int64)
            # 17 grey levels, 0 to 16, spread over 0 to 255
            self._images = np.rint(loaded.images * 255.0 / 16.0).astype(np.uint8)
        return self._images, self._digits


def slant(image: npt.NDArray[np.generic]) -> float:
    """How much ink leans: columns gained per row downwards, the shear that deskewing undoes.

    With central moments weighted by ink, mu11 / mu02 (rows in the denominator): the slope of the
    least-squares line of column on row. Negative where the top leans right, as in most handwriting.

    Parameters
    ----------
    image : array, shape (H, W)
        Ink bright on black.

    Returns
    -------
    float
        Dimensionless, rounded to 6 digits; 0.0 for an image whose ink fills one row or none.

    References
    ----------
    Teague 1980, "Image analysis via the general theory of moments", section 2.
    """
    ink_HW = image.astype(np.float64)
    total = ink_HW.sum()
    if total == 0:
        return 0.0
    rows_HW, columns_HW = np.indices(ink_HW.shape)
    rows_HW = rows_HW - (rows_HW * ink_HW).sum() / total
    columns_HW = columns_HW - (columns_HW * ink_HW).sum() / total
    mu02 = float((rows_HW**2 * ink_HW).sum())
    mu11 = float((rows_HW * columns_HW * ink_HW).sum())
    return round(mu11 / mu02, 6) if mu02 > 1e-9 * float(total) else 0.0
