"""How long work reports how far it is: one callable, passed in, silent by default; and how durations read."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with units done, units in all, and what the units are, e.g. ``(320, 1797, "samples")``.

    `detail` is a few words on how it goes, shown behind.
    """

    def __call__(self, done: int, total: int, what: str, detail: str = "") -> None: ...


def silent(done: int, total: int, what: str, detail: str = "") -> None:
    """Report nothing."""


def duration_text(seconds: float) -> str:
    """``3 h 20 min``, ``45 s``, ``0.3 s``."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60:,} h {minutes % 60} min"
