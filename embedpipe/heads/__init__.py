"""Heads: cheap target models over cached features, in scikit-learn's manner.

`registry` is the way in: it names the families, expands their grids, fits a whole grid in one pass and
saves and loads what came out. Each family is a module of its own, imported when it is first used.
"""

from embedpipe.heads.options import HeadOptions
from embedpipe.heads.registry import (
    FAMILIES,
    candidates,
    few_shot_candidates,
    fit_grid,
    head_options,
    load_head,
    save_head,
    supports,
)

__all__ = [
    "FAMILIES",
    "HeadOptions",
    "candidates",
    "few_shot_candidates",
    "fit_grid",
    "head_options",
    "load_head",
    "save_head",
    "supports",
]
