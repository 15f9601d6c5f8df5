"""Learning curves (score against labels a class) and layer curves (score against depth)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from embedpipe.report.figures import Estimate, Metric, estimate, k_label, k_order, k_words, number
from embedpipe.report.styles import Style, backbone_name, style_for
from embedpipe.report.svg import (
    DASHES,
    Frame,
    join,
    line,
    marker,
    path,
    picture,
    shorten,
    spread,
    text,
    tick_text,
)

_WIDTH, _HEIGHT = 560.0, 350.0
_MAX_LABELS = 8
_MAX_BANDS = 5


@dataclass(frozen=True)
class _Point:
    x: float
    score: Estimate
    tip: str


def learning_curve(
    raw: Sequence[Mapping[str, Any]], metric: Metric, styles: Mapping[str, Style]
) -> Markup | None:
    """Draw the arm selected within each backbone at each number of labels a class.

    Parameters
    ----------
    raw
        Rows of ``learning_curves`` of one task.

    Returns
    -------
    An `svg` element, or None where no row has a number. Positions on the horizontal axis are ranks:
    ``all`` has no place on a scale of labels a class.
    """
    known = [row for row in raw if estimate(row).value is not None]
    y_range = metric.domain([estimate(row) for row in known])
    if y_range is None:
        return None
    shots = sorted({row.get("k_shot") for row in known}, key=k_order)
    series: dict[str, list[_Point]] = {}
    for row in sorted(known, key=lambda row: k_order(row.get("k_shot"))):
        name = backbone_name(row.get("backbone"))
        score = estimate(row)
        tip = f"{name}, {k_words(row.get('k_shot'))}\n{metric.with_interval(score)}"
        series.setdefault(name, []).append(_Point(float(shots.index(row.get("k_shot"))), score, tip))
    names = sorted(series, key=lambda name: style_for(styles, name).order)
    labelled = len(names) <= _MAX_LABELS
    longest = max(min(len(name), 16) for name in names)
    right = _WIDTH - (18 + 8.8 * longest if labelled else 16)
    frame = Frame(52, right, 14, _HEIGHT - 48, (-0.35, len(shots) - 0.65), y_range)
    if len(shots) > 1:
        frame = Frame(52, right, 14, _HEIGHT - 48, (-0.12, len(shots) - 0.88), y_range)
    pieces = [frame.y_grid(percent=metric.percent)]
    for i, k_shot in enumerate(shots):
        pieces.append(text(frame.x(i), frame.bottom + 20, k_label(k_shot), "tick", "middle"))
    pieces.append(_axis_title(frame, "labels a class"))
    for place, name in enumerate(names):
        shift = (place - (len(names) - 1) / 2) * 4
        pieces.append(
            _series(
                frame, series[name], style_for(styles, name), "", band=len(names) <= _MAX_BANDS, shift=shift
            )
        )
    if labelled:
        ends = [frame.y(series[name][-1].score.value or 0.0) for name in names]
        for name, at in zip(names, spread(ends, 17, frame.top + 4, frame.bottom), strict=True):
            class_ = f"end {style_for(styles, name).class_}"
            pieces.append(text(frame.right + 12, at + 4, shorten(name, 16), class_))
    return picture(_WIDTH, _HEIGHT, f"{metric.label} against labels a class", *pieces)


@dataclass(frozen=True)
class LayerPanel:
    """One layer curve: all taps at one number of labels a class."""

    title: str
    drawing: Markup


def layer_panels(
    raw: Sequence[Mapping[str, Any]], metric: Metric, styles: Mapping[str, Style], *, few: object = None
) -> list[LayerPanel]:
    """A panel with few labels a class and one with most, on one vertical scale.

    `few` names the first panel's number of labels; where no row has it, the smallest is taken.
    A backbone with a single tap (pixels) is a level line: it is what the others must pass.
    """
    known = [row for row in raw if estimate(row).value is not None]
    shots = sorted({row.get("k_shot") for row in known}, key=k_order)
    if len(shots) > 2:
        shots = [few if few in shots[:-1] else shots[0], shots[-1]]
    known = [row for row in known if row.get("k_shot") in shots]
    y_range = metric.domain([estimate(row) for row in known])
    if y_range is None:
        return []
    reductions = reduction_names(known)
    return [
        LayerPanel(
            k_words(k_shot),
            _layer_panel(
                [row for row in known if row.get("k_shot") == k_shot], metric, styles, reductions, y_range
            ),
        )
        for k_shot in shots
    ]


def reduction_names(raw: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reductions of backbones with more than one tap, in a stable order: each gets a dash pattern."""
    taps: dict[str, set[str]] = {}
    for row in raw:
        taps.setdefault(backbone_name(row.get("backbone")), set()).add(str(row.get("tap")))
    many = {str(row.get("reduction")) for row in raw if len(taps[backbone_name(row.get("backbone"))]) > 1}
    return sorted(many)


def _layer_panel(
    rows: Sequence[Mapping[str, Any]],
    metric: Metric,
    styles: Mapping[str, Style],
    reductions: Sequence[str],
    y_range: tuple[float, float],
) -> Markup:
    frame = Frame(52, _WIDTH - 16, 14, _HEIGHT - 48, (-0.03, 1.03), y_range)
    pieces = [frame.y_grid(percent=metric.percent)]
    depth_ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    for tick in depth_ticks:
        words = tick_text(tick, depth_ticks, percent=False)
        pieces.append(text(frame.x(tick), frame.bottom + 20, words, "tick", "middle"))
    pieces.append(_axis_title(frame, "relative depth of the tap (0 input, 1 output)"))
    series: dict[tuple[str, str], list[_Point]] = {}
    for row in rows:
        score, depth = estimate(row), number(row.get("depth"))
        name = backbone_name(row.get("backbone"))
        tip = f"{name}, {row.get('tap')}\n{metric.with_interval(score)}"
        point = _Point(min(max(depth or 0.0, 0.0), 1.0), score, tip)
        series.setdefault((name, str(row.get("reduction"))), []).append(point)
    taps_of = {
        name: sum(len(points) for (other, _), points in series.items() if other == name) for name, _ in series
    }
    lines = [key for key in series if taps_of[key[0]] > 1]
    for key in sorted(series, key=lambda key: (style_for(styles, key[0]).order, key[1])):
        name, reduction = key
        points = sorted(series[key], key=lambda point: (point.x, point.tip))
        style = style_for(styles, name)
        if taps_of[name] == 1:
            pieces.append(_level(frame, points[0], style))
        else:
            dash = DASHES[reductions.index(reduction) % len(DASHES)]
            pieces.append(_series(frame, points, style, dash, band=len(lines) <= _MAX_BANDS))
    return picture(_WIDTH, _HEIGHT, f"{metric.label} against depth", *pieces)


def _series(
    frame: Frame, points: Sequence[_Point], style: Style, dash: str, *, band: bool, shift: float = 0.0
) -> Markup:
    pieces = []
    at = [(frame.x(point.x) + shift, point) for point in points]
    bounded = [(x, point.score) for x, point in at if point.score.has_interval]
    if band and len(bounded) == len(points) > 1:
        upper = [(x, frame.y(score.high or 0.0)) for x, score in bounded]
        lower = [(x, frame.y(score.low or 0.0)) for x, score in bounded]
        pieces.append(path([*upper, *reversed(lower)], f"band {style.class_}", close=True))
    for x, score in bounded:
        low, high = frame.y(score.low or 0.0), frame.y(score.high or 0.0)
        pieces.append(line(x, high, x, low, f"whisker {style.class_}"))
    centre = [(x, frame.y(point.score.value or 0.0)) for x, point in at]
    if len(centre) > 1:
        pieces.append(path(centre, f"curve {style.class_}", dash=dash))
    for (x, y), point in zip(centre, points, strict=True):
        pieces.append(marker(x, y, style.shape, style.class_, point.tip))
    return join(pieces)


def _level(frame: Frame, point: _Point, style: Style) -> Markup:
    at = frame.y(point.score.value or 0.0)
    pieces = []
    if point.score.has_interval:
        low, high = frame.y(point.score.low or 0.0), frame.y(point.score.high or 0.0)
        corners = [(frame.left, high), (frame.right, high), (frame.right, low), (frame.left, low)]
        pieces.append(path(corners, f"band level {style.class_}", close=True))
    pieces.append(path([(frame.left, at), (frame.right, at)], f"curve level {style.class_}", dash=DASHES[2]))
    pieces.append(marker(frame.x(point.x), at, style.shape, style.class_, point.tip))
    return join(pieces)


def _axis_title(frame: Frame, words: str) -> Markup:
    return text((frame.left + frame.right) / 2, frame.bottom + 40, words, "axis", "middle")
