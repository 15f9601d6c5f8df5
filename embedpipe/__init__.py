"""Embed once, train many heads: a feature-cache pipeline for transfer learning.

Importing this package imports no torch and no DVC; each sub-package brings what it needs.
`embedpipe.load` opens what `embedpipe bundle` wrote; it is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedpipe.serve.classifier import load

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from embedpipe.serve.classifier import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
