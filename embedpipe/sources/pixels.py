"""Rows of an array to the 8-bit pixels that an image is, whatever layout and dtype the array has.

Two containers that hold the same pixels, channels first or last, give the same key.
"""

# N samples, C channels, H W height and width

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedpipe.errors import DataError, UnreadableSample
from embedpipe.manifest.keys import array_key
from embedpipe.sources.decode import flattened

Layout = Literal["auto", "NHW", "NHWC", "NCHW"]
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class PixelFormat:
    """How the rows of one array become pixels.

    Attributes
    ----------
    layout : str
        ``NHW``, ``NHWC`` or ``NCHW``.
    low, high : float
        Values that are black and white.
    """

    layout: str
    low: float
    high: float

    @classmethod
    def of(
        cls,
        where: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        layout: Layout,
        bounds: tuple[float, float] | None,
    ) -> PixelFormat:
        """The format of an array, once it is known to hold images.

        Raises
        ------
        DataError
            If its shape or dtype is not that of images, or the layout could be either.
        """
        low, high = bounds if bounds is not None else _bounds(where, dtype)
        return cls(_layout(where, shape, layout), low, high)

    def pixels(self, row: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """uint8 (H, W) of one channel, else (H, W, 3).

        Raises
        ------
        UnreadableSample
            If values lie outside the bounds, or are not finite.
        """
        image = np.moveaxis(row, 0, -1) if self.layout == "NCHW" else row
        if image.ndim == 3 and image.shape[-1] == 1:
            image = image[..., 0]
        if image.dtype != np.uint8 or (self.low, self.high) != (0, 255):
            image = self._to_8_bits(image)
        if image.ndim == 3 and image.shape[-1] == 4:
            return np.asarray(flattened(Image.fromarray(np.ascontiguousarray(image))))
        return np.ascontiguousarray(image)

    def image(self, row: npt.NDArray[Any]) -> Image.Image:
        """Mode L or RGB. Errors as `pixels`."""
        return Image.fromarray(self.pixels(row))

    def key(self, row: npt.NDArray[Any]) -> bytes:
        """Key of the pixels, 16 bytes. Errors as `pixels`."""
        return array_key(self.pixels(row))

    def _to_8_bits(self, image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        values = image.astype(np.float64)
        low, high = float(values.min(initial=self.high)), float(values.max(initial=self.low))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UnreadableSample("holds NaN or infinite values")
        if low < self.low or high > self.high:
            raise UnreadableSample(
                f"values from {low:g} to {high:g}, expected {self.low:g} to {self.high:g}; set source.range to what "
                "is black and what is white"
            )
        return np.rint((values - self.low) * (255.0 / (self.high - self.low))).astype(np.uint8)


def _layout(where: str, shape: tuple[int, ...], layout: Layout) -> str:
    if len(shape) not in (3, 4) or 0 in shape[1:]:
        raise DataError(
            f"{where}: expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W), found {shape}"
        )
    fitting = ["NHW"] if len(shape) == 3 else []
    if len(shape) == 4:
        fitting = [name for name, axis in (("NHWC", 3), ("NCHW", 1)) if shape[axis] in _CHANNELS]
    if layout != "auto":
        if layout not in fitting:
            raise DataError(
                f"{where}: expected images of layout {layout} with 1, 3 or 4 channels, found shape {shape}"
            )
        return layout
    if len(fitting) != 1:
        raise DataError(
            f"{where}: expected 1, 3 or 4 channels first or last, found {'both' if fitting else 'neither'} in shape "
            f"{shape}; set source.layout to NHWC or NCHW"
        )
    return fitting[0]


def _bounds(where: str, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Black and white of a dtype: floats from 0 to 1, integers that are unsigned over their whole range."""
    if dtype == np.uint8:
        return 0.0, 255.0
    if dtype == np.uint16:
        return 0.0, 65535.0
    if dtype.kind == "f":
        return 0.0, 1.0
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind in "iu":
        raise DataError(
            f"{where}: expected uint8, uint16 or floats of 0 to 1, found {dtype}; set source.range to what is black "
            "and what is white, such as [0, 255]"
        )
    raise DataError(f"{where}: expected an array of numbers, found {dtype}")
