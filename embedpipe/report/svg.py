"""A few SVG pieces: escaped elements, a framed chart, ticks, markers.

Colours are CSS classes (`c0` to `c7`), so that one drawing serves light and dark pages. Nothing here is
random and coordinates have one decimal, so the same input gives the same bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

NUM_COLOURS = 8
DASHES = ("", "7 4", "2 4", "9 3 2 3")
_SHAPES = 5


def tag(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """One element; text and attribute values are escaped, `class_` and `text_anchor` spell as in SVG."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value == "":
            continue
        shown = f"{value:.1f}" if isinstance(value, float) else value
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    if not children:
        return Markup("".join(parts) + "/>")
    return Markup("".join(parts) + ">" + "".join(escape(child) for child in children) + f"</{name}>")


def join(pieces: Sequence[Markup]) -> Markup:
    return Markup("").join(pieces)


def picture(width: float, height: float, label: str, *children: Markup, class_: str = "chart") -> Markup:
    """The outer `svg` element with an accessible name."""
    return tag(
        "svg",
        *children,
        class_=class_,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
    )


def text(x: float, y: float, words: str, class_: str = "", anchor: str = "start", **more: object) -> Markup:
    return tag("text", words, x=x, y=y, class_=class_, text_anchor=anchor, **more)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(
    points: Sequence[tuple[float, float]], class_: str, *, close: bool = False, dash: str = ""
) -> Markup:
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=f"M{steps}{'Z' if close else ''}", class_=class_, stroke_dasharray=dash)


def marker(x: float, y: float, shape: int, class_: str, tip: str, size: float = 4.5) -> Markup:
    """Circle, square, triangle, diamond or downward triangle, with a tooltip and a wider target."""
    title = tag("title", tip)
    s = size
    kind = shape % _SHAPES
    if kind == 0:
        drawn = tag("circle", cx=x, cy=y, r=s)
    elif kind == 1:
        drawn = tag("rect", x=x - s * 0.9, y=y - s * 0.9, width=s * 1.8, height=s * 1.8)
    else:
        corners = {
            2: [(0.0, -1.2), (1.15, 0.85), (-1.15, 0.85)],
            3: [(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
            4: [(0.0, 1.2), (1.15, -0.85), (-1.15, -0.85)],
        }[kind]
        drawn = path([(x + dx * s, y + dy * s) for dx, dy in corners], "", close=True)
    target = tag("circle", cx=x, cy=y, r=s + 7, class_="target")
    return tag("g", title, target, drawn, class_=f"mark {class_}")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers within [low, high], about `wanted` of them."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float, all_ticks: Sequence[float], *, percent: bool) -> str:
    """A tick's label with as many decimals as the ticks need to differ."""
    scale = 100.0 if percent else 1.0
    shown = [tick * scale for tick in all_ticks]
    step = min((b - a for a, b in itertools.pairwise(shown)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if step > 0 and round(step * 10**decimals, 6) % 1:
        decimals += 1
    words = f"{value * scale:.{decimals}f}"
    return words.replace("-", "\u2212") if words.strip("-0.") else words.lstrip("-")


def shorten(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart until neighbours are `gap` away, keeping their order.

    Returns positions in the order given; where there is no room they shrink evenly into [low, high].
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    if not order:
        return []
    gap = min(gap, (high - low) / max(len(order) - 1, 1))
    places = [min(max(wanted[i], low), high) for i in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    if places[-1] > high:
        places[-1] = high
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - gap)
    result = [0.0] * len(places)
    for place, i in zip(places, order, strict=True):
        result[i] = place
    return result


@dataclass(frozen=True)
class Frame:
    """The plotting area inside a picture and the scales that map data onto it."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (self.right - self.left) * (value - low) / ((high - low) or 1.0)

    def y(self, value: float) -> float:
        """Pixels from the top; what lies outside the range stays on its edge."""
        low, high = self.y_range
        inside = min(max(value, low), high)
        return self.bottom - (self.bottom - self.top) * (inside - low) / ((high - low) or 1.0)

    def y_grid(self, *, percent: bool) -> Markup:
        shown = ticks(*self.y_range)
        pieces = []
        for tick in shown:
            at = self.y(tick)
            pieces.append(line(self.left, at, self.right, at, "rule"))
            words = tick_text(tick, shown, percent=percent)
            pieces.append(text(self.left - 8, at + 4, words, "tick", "end"))
        return join(pieces)
