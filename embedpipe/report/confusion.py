"""A confusion matrix as a heat map, and in words where most errors go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from embedpipe.report.figures import count, number
from embedpipe.report.svg import picture, shorten, tag, text

# K classes, P classes drawn

_WIDTH, _SIDE = 560.0, 440.0
_MAX_COUNTS = 16
_MAX_LABEL = 14


@dataclass(frozen=True)
class Mistake:
    """Samples of one class taken for another."""

    true: str
    predicted: str
    count: str
    share: str


@dataclass(frozen=True)
class Confusion:
    """The drawing, the most frequent mistakes, and how many classes of how many are drawn."""

    drawing: Markup
    mistakes: list[Mistake]
    num_classes: int
    num_drawn: int


def read_confusion(raw: object, *, max_classes: int, max_mistakes: int = 6) -> Confusion | None:
    """Turn ``{"classes", "counts"}`` into a drawing.

    Parameters
    ----------
    raw
        ``counts[i][j]`` samples of class i that were taken for class j.
    max_classes
        Beyond it only the classes with most errors (made or attracted) are drawn.

    Returns
    -------
    None where there is no matrix, or one that is not square.
    """
    if not isinstance(raw, Mapping):
        return None
    classes = [str(name) for name in raw.get("classes") or []]
    rows = raw.get("counts") or []
    if not classes or len(rows) != len(classes) or any(len(row) != len(classes) for row in rows):
        return None
    counts_KK = np.array([[number(cell) or 0.0 for cell in row] for row in rows])
    errors_KK = counts_KK - np.diag(np.diag(counts_KK))
    drawn = np.arange(len(classes))
    if len(classes) > max_classes:
        weight_K = errors_KK.sum(axis=0) + errors_KK.sum(axis=1)
        drawn = np.sort(np.argsort(-weight_K, kind="stable")[:max_classes])
    totals_K = counts_KK.sum(axis=1)
    order = np.argsort(-errors_KK, axis=None, kind="stable")[:max_mistakes]
    mistakes = []
    for flat in order:
        i, j = divmod(int(flat), len(classes))
        if errors_KK[i, j] > 0:
            share = f"{errors_KK[i, j] / totals_K[i]:.0%}".replace("%", "\u202f%")
            mistakes.append(Mistake(classes[i], classes[j], count(errors_KK[i, j]), share))
    drawing = _draw([classes[i] for i in drawn], counts_KK[np.ix_(drawn, drawn)], totals_K[drawn])
    return Confusion(drawing, mistakes, len(classes), len(drawn))


def _draw(names: Sequence[str], counts_PP: np.ndarray[Any, Any], totals_P: np.ndarray[Any, Any]) -> Markup:
    size = len(names)
    shown = [shorten(name, _MAX_LABEL) for name in names]
    font = min(13.0, max(7.0, _SIDE / size * 0.8))
    reach = font * 0.66 * max(len(name) for name in shown)
    flat_labels = reach < _SIDE / size
    head = 26 + (font if flat_labels else reach)
    cell = min((_WIDTH - reach - 40) / size, 64.0)
    left = (_WIDTH - cell * size - reach - 40) / 2 + reach + 32  # few classes stay small and in the middle
    style = f"font-size:{font:.1f}px"
    turn = f"translate({left - reach - 20:.1f} {head + cell * size / 2:.1f}) rotate(-90)"
    pieces = [
        text(left + cell * size / 2, 13, "predicted", "axis", "middle"),
        text(0, 0, "true", "axis", "middle", transform=turn),
    ]
    for i, name in enumerate(shown):
        y = head + cell * (i + 0.5) + font * 0.35
        pieces.append(text(left - 7, y, name, "tick", "end", style=style))
        x = left + cell * (i + 0.5)
        if flat_labels:
            pieces.append(text(x, head - 7, name, "tick", "middle", style=style))
        else:
            turn = f"translate({x + font * 0.35:.1f} {head - 7:.1f}) rotate(-90)"
            pieces.append(text(0, 0, name, "tick", transform=turn, style=style))
    for i in range(size):
        for j in range(size):
            pieces.append(_cell(i, j, names, counts_PP, totals_P, left, head, cell))
    return picture(_WIDTH, head + cell * size + 8, "confusion matrix", *pieces, class_="chart heat")


def _cell(
    i: int,
    j: int,
    names: Sequence[str],
    counts_PP: np.ndarray[Any, Any],
    totals_P: np.ndarray[Any, Any],
    left: float,
    head: float,
    cell: float,
) -> Markup:
    value = counts_PP[i, j]
    share = float(value / totals_P[i]) if totals_P[i] else 0.0
    gap = 1.0 if cell > 8 else 0.0
    box = {"x": left + cell * j, "y": head + cell * i, "width": cell - gap, "height": cell - gap}
    if not value:
        return tag("rect", **box, class_="none")
    kind = "right" if i == j else "wrong"
    # a square root, since a class that is wrong one time in twenty must still be seen
    rect = tag(
        "rect",
        tag(
            "title", f"{names[i]} taken for {names[j]}\n{count(value)} of {count(totals_P[i])} ({share:.0%})"
        ),
        **box,
        class_=kind,
        fill_opacity=f"{0.1 + 0.9 * share**0.5:.2f}",
    )
    if len(names) > _MAX_COUNTS:
        return rect
    strong = " strong" if share**0.5 > 0.6 else ""
    x, y = left + cell * (j + 0.5), head + cell * (i + 0.5) + 4
    return Markup(rect + text(x, y, count(value), f"cell{strong}", "middle"))
