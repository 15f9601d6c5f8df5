"""Printed letters in the fonts that matplotlib ships, distorted and degraded to a few pixels.

A source domain that needs no download: 52 classes (A-Z, a-z) that look as handwritten digits do at 8x8
pixels (ink bright on black, filling the frame, thick and blurred) and share no class with them.
Sample i depends on the options and on i alone, so that more samples leave the first ones as they are.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageFont, __version__
from pydantic import Field

from embedpipe.errors import DataError, UnreadableSample
from embedpipe.manifest.keys import array_key
from embedpipe.params import StrictModel
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import CONTENT, Access, Modality, Scanned, Seen, refuse_columns

GENERATOR_VERSION = 1
LETTERS = string.ascii_uppercase + string.ascii_lowercase
# text faces only: cmsy10, cmex10, STIXSiz* and STIXNonUni* hold symbols, *Display only a few letters
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSans-Oblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique", "DejaVuSansMono-Oblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic", "DejaVuSerif-Italic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "STIXGeneralItalic",
    "cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10",
)  # fmt: skip
OVERSAMPLING = 4  # a letter is distorted at 4 times the final resolution, then averaged down
FONT_PX = 64
BEND = 0.09  # standard deviation by which a grid point moves, in frames
INK_MEAN, INK_SPREAD = 0.30, 0.05  # share of the frame that ink covers: 0.305 in scikit-learn's digits


class GlyphsOptions(StrictModel):
    """Letters to generate."""

    kind: Literal["glyphs"] = Field(description="Marks this source.")
    num_samples: int = Field(
        default=12_000,
        ge=52,
        description="Letters in all, classes in turn; 12,000 train a small net in a minute.",
    )
    image_px: int = Field(
        default=8, ge=4, le=64, description="Side of an image in pixels; 8 as scikit-learn's digits have."
    )
    seed: int = Field(default=0, ge=0, description="Varies fonts and distortions; any number will do.")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has."""
        return ("image",)


class GlyphsSource:
    """Letters, generated when asked for and kept in memory; a locator is the index."""

    modalities: tuple[Modality, ...] = ("image",)

    def __init__(self, options: GlyphsOptions, access: Access) -> None:
        refuse_columns("glyphs", access, "index", [CONTENT])
        self.options = options
        self._made: dict[int, npt.NDArray[np.uint8]] = {}
        self._masks: dict[tuple[str, str], Image.Image] = {}

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List all letters; those made before with the same settings are not made again."""
        stamp = self._stamp()
        num_samples = self.options.num_samples
        for i in range(num_samples):
            name = f"{i:07d}"
            seen = known.get(name)
            key = seen.key if seen is not None and seen.stamp == stamp else array_key(self._image(i))
            labels = {"letter": LETTERS[i % len(LETTERS)]}
            yield Scanned(name, name, key, labels=labels, stamp=stamp)
            if i % 100 == 99 or i + 1 == num_samples:
                progress(i + 1, num_samples, "letters")

    def read(self, locator: str) -> Image.Image:
        """One letter, mode L, `image_px` pixels a side."""
        if not locator.isdecimal() or int(locator) >= self.options.num_samples:
            raise UnreadableSample(f"expected an index below {self.options.num_samples}, found {locator!r}")
        return Image.fromarray(self._image(int(locator)))

    def notes(self) -> list[str]:
        return []

    def _stamp(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for font in FONTS:
            digest.update(_font_path(font).read_bytes())
        return (
            f"glyphs {GENERATOR_VERSION} seed {self.options.seed} px {self.options.image_px} "
            f"pillow {__version__} fonts {digest.hexdigest()}"
        )

    def _image(self, i: int) -> npt.NDArray[np.uint8]:
        if i not in self._made:
            self._made[i] = self._draw(i)
        return self._made[i]

    def _draw(self, i: int) -> npt.NDArray[np.uint8]:
        """Image of letter i, uint8, shape (image_px, image_px)."""
        rng = np.random.Generator(np.random.Philox(key=[self.options.seed, i]))
        mask = self._mask(FONTS[rng.integers(len(FONTS))], LETTERS[i % len(LETTERS)])
        frame_px = self.options.image_px * OVERSAMPLING
        mesh = _mesh(rng, mask.size, frame_px)
        drawn = mask.transform((frame_px, frame_px), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
        drawn = _with_pen(drawn, rng.normal(INK_MEAN, INK_SPREAD))
        drawn = drawn.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))
        small = np.asarray(drawn.reduce(OVERSAMPLING), dtype=np.float32)
        small = small * rng.uniform(1.0, 1.25)  # digits saturate where the stroke fills a pixel
        # strokes waver, the empty paper does not: noise only where there is ink
        small += rng.normal(0.0, 14.0, small.shape).astype(np.float32) * (small > 8.0)
        return np.clip(np.rint(small), 0, 255).astype(np.uint8)

    def _mask(self, font: str, letter: str) -> Image.Image:
        """The letter cropped to its ink, mode L."""
        if (font, letter) not in self._masks:
            face = ImageFont.truetype(str(_font_path(font)), FONT_PX)
            canvas = Image.new("L", (3 * FONT_PX, 3 * FONT_PX))
            ink = face.getmask(letter, mode="L")
            canvas = Image.frombytes("L", ink.size, bytes(ink))
            box = canvas.getbbox()
            assert box is not None, (font, letter)
            self._masks[font, letter] = canvas.crop(box)
        return self._masks[font, letter]


Mesh = list[tuple[tuple[int, int, int, int], tuple[float, ...]]]


def _mesh(rng: np.random.Generator, ink_size: tuple[int, int], frame_px: int) -> Mesh:
    """Quarters of the frame, each with the corners in the letter that it shows, as Pillow wants them.

    An affine map (turn, lean, size, place) whose nine grid points are then moved each on its own: strokes
    bend as a hand bends them.
    """
    width, height = ink_size
    angle = rng.normal(0.0, 0.10)
    shear = rng.normal(-0.05, 0.18)
    forward = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = forward @ np.array([[1.0, shear], [0.0, 1.0]])
    # once bent, the letter fills the frame's height and, as digits do, about two thirds of its width
    spread = np.abs(forward) @ np.array([width, height], dtype=float)
    fit_height = frame_px * rng.uniform(0.92, 1.06) / spread[1]
    fit_width = min(frame_px * rng.uniform(0.55, 0.85) / spread[0], 1.3 * fit_height)
    forward = np.diag([fit_width, fit_height]) @ forward
    shift = np.array([rng.uniform(-0.06, 0.06), rng.uniform(-0.03, 0.03)]) * frame_px
    half = frame_px // 2
    grid = np.array([[[x, y] for x in (0, half, frame_px)] for y in (0, half, frame_px)], dtype=float)
    bent = grid + rng.normal(0.0, BEND * frame_px, size=grid.shape)
    corners = (bent - frame_px / 2 - shift) @ np.linalg.inv(forward).T + np.array([width, height]) / 2
    return [
        (
            (column * half, row * half, column * half + half, row * half + half),
            tuple(
                float(v) for r, c in ((0, 0), (1, 0), (1, 1), (0, 1)) for v in corners[row + r, column + c]
            ),
        )
        for row in (0, 1)
        for column in (0, 1)
    ]


def _with_pen(drawn: Image.Image, ink: float) -> Image.Image:
    """Strokes thinned or thickened to the share of ink nearest to `ink`: one pen writes all letters."""
    thinner, thicker = ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3)
    pens = [drawn.filter(thinner), drawn, drawn.filter(thicker)]
    pens.append(pens[-1].filter(thicker))
    return min(pens, key=lambda image: abs(float(np.asarray(image).mean()) / 255.0 - ink))


def _font_path(font: str) -> Path:
    import matplotlib  # only for its data folder; its import is not free

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    if not path.is_file():
        raise DataError(f"{path}: expected a font that matplotlib ships, found none; reinstall matplotlib")
    return path
