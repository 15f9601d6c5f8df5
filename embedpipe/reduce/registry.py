"""Names of reductions, what each fits, and the shape it gives.

Reads a name as params.yaml has it (``gap``, ``grid:2``). Imports torch only when a reduction is applied, so
that a configuration can be checked in no time.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from embedpipe.errors import ConfigError, ShapeError
from embedpipe.params import did_you_mean

if TYPE_CHECKING:
    import torch

# N samples, C channels, H W height and width, T tokens, L tokens of a text with its padding, D features
Layout = Literal["NCHW", "NHWC", "NTD", "NLD", "ND", "other"]
"""Order of a node's axes: maps of a CNN, maps of Swin, tokens of an image, tokens of a text of any length, vectors;
``other`` when it cannot be told."""

MAPS: tuple[Layout, ...] = ("NCHW", "NHWC")
PLACES: tuple[Layout, ...] = ("NCHW", "NHWC", "NTD")
ANY: tuple[Layout, ...] = ("NCHW", "NHWC", "NTD", "ND", "other")
TOKENS: tuple[Layout, ...] = ("NTD", "NHWC", "NLD")

FITS: dict[str, tuple[Layout, ...]] = {
    "gap": PLACES,
    "gmp": PLACES,
    "gem": PLACES,
    "mean_std": (*PLACES, "NLD"),
    "grid": PLACES,
    "cls": ("NTD", "NLD"),
    "mean_tokens": TOKENS,
    "max_tokens": TOKENS,
    "last_token": ("NLD",),
    "length": ("NLD",),
    "flatten": ANY,
    "none": (*ANY, "NLD"),
}
_WORDS = {
    "NCHW": "a map (channels first)",
    "NHWC": "a map (channels last)",
    "NTD": "a sequence of tokens",
    "NLD": "the tokens of a text",
    "ND": "a vector a sample",
    "other": "neither a map nor tokens nor a vector",
}


@dataclass(frozen=True)
class Reduction:
    """One reduction, ready to be applied.

    Attributes
    ----------
    name : str
        As in params.yaml, e.g. ``grid:2``.
    family : str
        Name without its argument, e.g. ``grid``.
    k : int
        Side of the grid; 0 where the family takes no argument.
    """

    name: str
    family: str
    k: int = 0

    def fits(self, layout: Layout) -> bool:
        """Whether this reduction has a meaning for nodes of that layout."""
        return layout in FITS[self.family]

    def shape(self, in_shape: tuple[int, ...], layout: Layout, *, num_prefix: int = 0) -> tuple[int, ...]:
        """Shape of one sample's features.

        Parameters
        ----------
        in_shape : tuple of int
            Shape of one sample at the node, without N.
        layout : Layout
            Order of the node's axes.
        num_prefix : int
            Tokens before the patch tokens (the class token); tokens only.

        Raises
        ------
        ShapeError
            If the reduction does not fit the layout, or the grid is finer than the map.
        """
        self._check(in_shape, layout, num_prefix)
        channels = in_shape[0] if layout == "NCHW" else in_shape[-1]
        match self.family:
            case "gap" | "gmp" | "gem" | "cls" | "mean_tokens" | "max_tokens" | "last_token":
                return (channels,)
            case "length":
                return (1,)
            case "mean_std":
                return (2 * channels,)
            case "grid":
                return (channels * self.k * self.k,)
            case "flatten":
                return (math.prod(in_shape),)
            case _:
                return (in_shape[2], in_shape[0], in_shape[1]) if layout == "NHWC" else in_shape

    def apply(
        self, x: torch.Tensor, layout: Layout, *, num_prefix: int = 0, mask_NL: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Reduce a batch.

        Parameters
        ----------
        x : float tensor, shape (N, ...)
            Output of a node, in any floating dtype.
        layout : Layout
            Order of its axes.
        num_prefix : int
            Tokens before the patch tokens. `cls` reads the first of them; every other reduction of
            tokens leaves them out, except `flatten` and `none`, which keep all. Of a text nothing is left out:
            `cls` reads the first token, and `num_prefix` says whether that stands for the whole.
        mask_NL : bool tensor, shape (N, L), optional
            Which tokens of a text are its own and no padding; layout ``NLD`` only, and needed there.

        Returns
        -------
        float32 tensor, shape (N, \\*shape), that shares no memory with `x`

        Raises
        ------
        ShapeError
            If the reduction does not fit; names the shape it got.
        """
        from embedpipe.reduce import ops

        self._check(tuple(x.shape[1:]), layout, num_prefix)
        if layout == "NLD":
            assert mask_NL is not None
            return ops.reduce_text(self.family, x, mask_NL)
        return ops.reduce(self.family, x, layout, k=self.k, num_prefix=num_prefix)

    def _check(self, in_shape: tuple[int, ...], layout: Layout, num_prefix: int) -> None:
        ndim = {"NCHW": 3, "NHWC": 3, "NTD": 2, "NLD": 2, "ND": 1}.get(layout, len(in_shape))
        if len(in_shape) != ndim:
            raise ShapeError(
                f"{self.name}: layout {layout} has {ndim} axes besides N, "
                f"found shape (N, {_commas(in_shape)})"
            )
        if not self.fits(layout):
            usable = ", ".join(_written(name) for name, fits in FITS.items() if layout in fits)
            raise ShapeError(
                f"{self.name}: does not fit {_WORDS[layout]}, shape (N, {_commas(in_shape)}); "
                f"reductions that do: {usable}"
            )
        if self.family == "cls" and num_prefix < 1:
            raise ShapeError(
                f"cls: these {in_shape[0]} tokens have no class token; use mean_tokens or another reduction"
                if layout == "NTD"
                else "cls: this tokenizer puts no class token before a text; use mean_tokens or last_token"
            )
        if self.family == "grid":
            height, width = places(in_shape, layout, num_prefix)
            if self.k > min(height, width):
                raise ShapeError(
                    f"{self.name}: finer than the map, which has {height}×{width} places; "
                    f"use grid:{min(height, width)} or less"
                )


def places(in_shape: tuple[int, ...], layout: Layout, num_prefix: int = 0) -> tuple[int, int]:
    """Height and width of a map, or of the square that patch tokens come from.

    Raises
    ------
    ShapeError
        If the number of patch tokens is no square.
    """
    if layout == "NCHW":
        return in_shape[1], in_shape[2]
    if layout == "NHWC":
        return in_shape[0], in_shape[1]
    num_patches = in_shape[0] - num_prefix
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ShapeError(
            f"grid: {num_patches} patch tokens are not a square grid; use mean_tokens, or square images"
        )
    return side, side


def get_reduction(name: str) -> Reduction:
    """Look up a reduction by its name.

    Raises
    ------
    ConfigError
        If there is none of that name, or its argument is missing or wrong.
    """
    family, colon, argument = name.partition(":")
    if family not in FITS:
        known = [_written(key) for key in FITS]
        near = did_you_mean(family, list(FITS))
        raise ConfigError(f"unknown reduction {name!r}{near}; known: {', '.join(known)}")
    if family == "grid":
        if not re.fullmatch(r"[1-9][0-9]{0,2}", argument):
            raise ConfigError(f"reduction {name!r}: expected grid:k with k from 1 to 999, for example grid:2")
        return Reduction(name, family, int(argument))
    if colon:
        raise ConfigError(f"reduction {name!r}: {family} takes no argument; write {family}")
    return Reduction(name, family)


def _written(family: str) -> str:
    return "grid:k" if family == "grid" else family


def _commas(shape: tuple[int, ...]) -> str:
    return ", ".join(str(size) for size in shape)
