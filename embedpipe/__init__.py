"""Embed once, train many heads: a feature-cache pipeline for transfer learning.

Importing this package imports no torch and no DVC; each sub-package brings what it needs.
`embedpipe.load` opens what `embedpipe bundle` wrote; it is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # put together here, since no stage depends on what it opens
        return importlib.import_module(f"{__name__}.serve.classifier").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
