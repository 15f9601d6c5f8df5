"""How long work reports how far it is: one callable, passed in, silent by default."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with units done, units in all, and what the units are, e.g. ``(320, 1797, "samples")``."""

    def __call__(self, done: int, total: int, what: str) -> None: ...


def silent(done: int, total: int, what: str) -> None:
    """Report nothing."""
