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

_SIDE = 440.0
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
    longest = max(len(name) for name in shown)
    font = min(13.0, max(7.0, _SIDE / size * 0.62))
    margin = 32 + font * 0.62 * longest
    flat_labels = longest * font * 0.62 < _SIDE / size
    head = 26 + (font if flat_labels else font * 0.62 * longest)
    cell = (560 - margin - 8) / size
    cell = min(cell, 64.0)
    width, height = margin + cell * size + 8, head + cell * size + 8
    pieces = [
        text(margin + cell * size / 2, 13, "predicted", "axis", "middle"),
        text(
            0,
            0,
            "true",
            "axis",
            "middle",
            transform=f"translate(12 {head + cell * size / 2:.1f}) rotate(-90)",
        ),
    ]
    for i, name in enumerate(shown):
        middle = head + cell * (i + 0.5)
        label = tag(
            "text",
            name,
            x=margin - 7,
            y=middle + font * 0.35,
            class_="tick",
            text_anchor="end",
            font_size=font,
        )
        pieces.append(label)
        x = margin + cell * (i + 0.5)
        if flat_labels:
            above = tag("text", name, x=x, y=head - 7, class_="tick", text_anchor="middle", font_size=font)
        else:
            turn = f"translate({x + font * 0.35:.1f} {head - 7:.1f}) rotate(-90)"
            above = tag("text", name, class_="tick", font_size=font, transform=turn)
        pieces.append(above)
    for i in range(size):
        for j in range(size):
            pieces.append(_cell(i, j, names, counts_PP, totals_P, margin, head, cell))
    drawing = picture(width, height, "confusion matrix", *pieces, class_="chart heat")
    return drawing


def _cell(
    i: int,
    j: int,
    names: Sequence[str],
    counts_PP: np.ndarray[Any, Any],
    totals_P: np.ndarray[Any, Any],
    margin: float,
    head: float,
    cell: float,
) -> Markup:
    value = counts_PP[i, j]
    share = float(value / totals_P[i]) if totals_P[i] else 0.0
    gap = 1.0 if cell > 8 else 0.0
    box = {"x": margin + cell * j, "y": head + cell * i, "width": cell - gap, "height": cell - gap}
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
    x, y = margin + cell * (j + 0.5), head + cell * (i + 0.5) + 4
    return Markup(rect + text(x, y, count(value), f"cell{strong}", "middle"))
