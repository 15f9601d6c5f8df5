"""The headline drawn: differences against a zero line, and the arms they are between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from embedpipe.report.figures import Metric, estimate
from embedpipe.report.styles import ROLE_WORDS, Style, backbone_name, role_of, style_for
from embedpipe.report.svg import Frame, line, marker, picture, shorten, tag, text, tick_text, ticks

_WIDTH = 560.0
_ROW, _ARM_ROW = 76.0, 60.0
_HALF = 11.0


def differences(raw: Sequence[Mapping[str, Any]], metric: Metric) -> Markup | None:
    """Each difference as a dot and its interval on one axis that holds zero; None without numbers."""
    known = [(str(row.get("name", "")), estimate(row)) for row in raw if estimate(row).value is not None]
    if not known:
        return None
    numbers = [x for _, item in known for x in item.numbers()] + [0.0]
    low, high = min(numbers), max(numbers)
    margin = (high - low) * 0.08 or 0.05
    bottom = 10 + _ROW * len(known)
    frame = Frame(14, _WIDTH - 14, 8, bottom, (low - margin, high + margin), (0.0, 1.0))
    rows_y = [10 + _ROW * i + 50 for i in range(len(known))]
    pieces = _x_axis(frame, metric, "points" if metric.percent else "", rows_y)
    pieces += [line(frame.x(0.0), y - _HALF, frame.x(0.0), y + _HALF, "zero") for y in rows_y]
    for i, (name, item) in enumerate(known):
        top = 10 + _ROW * i
        sure = item.has_interval and ((item.low or 0.0) > 0 or (item.high or 0.0) < 0)
        number = metric.difference(item.value)
        interval = f"95 % interval {metric.difference_interval(item)}" if item.has_interval else ""
        tip = f"{name}: {number} {metric.difference_unit}\n{interval}"
        head = tag(
            "text",
            tag("tspan", number, class_="big"),
            tag("tspan", f"  {_pretty(name)}", class_="name"),
            x=frame.left,
            y=top + 24,
        )
        at = rows_y[i]
        pieces += [head, text(frame.right, top + 24, interval.removeprefix("95 % interval "), "tick", "end")]
        colour = "good" if sure else "unsure"
        if item.has_interval:
            x_low, x_high = frame.x(item.low or 0.0), frame.x(item.high or 0.0)
            pieces.append(tag("line", x1=x_low, x2=x_high, y1=at, y2=at, class_=f"span {colour}"))
        pieces.append(marker(frame.x(item.value or 0.0), at, 0, colour, tip, 6))
    return picture(_WIDTH, bottom + 40, "differences with their intervals", *pieces)


def arms(raw: Sequence[Mapping[str, Any]], metric: Metric, styles: Mapping[str, Style]) -> Markup | None:
    """The scores that the differences are between, as dots with intervals; None without numbers."""
    known = [row for row in raw if estimate(row).value is not None]
    domain = metric.domain([estimate(row) for row in known])
    if domain is None:
        return None
    bottom = 10 + _ARM_ROW * len(known)
    frame = Frame(14, _WIDTH - 14, 8, bottom, domain, (0.0, 1.0))
    rows_y = [10 + _ARM_ROW * i + 40 for i in range(len(known))]
    pieces = _x_axis(frame, metric, "%" if metric.percent else "", rows_y)
    for i, row in enumerate(known):
        item = estimate(row)
        top = 10 + _ARM_ROW * i
        style = style_for(styles, row.get("backbone"))
        name = backbone_name(row.get("backbone"))
        role = ROLE_WORDS[role_of(row.get("role"))]
        words = shorten(name, 28) if name == role else f"{role}  ({shorten(name, 28)})"
        at = rows_y[i]
        pieces.append(text(frame.left, top + 20, words, "name"))
        pieces.append(text(frame.right, top + 20, metric.with_interval(item), "tick", "end"))
        if item.has_interval:
            x_low, x_high = frame.x(item.low or 0.0), frame.x(item.high or 0.0)
            pieces.append(tag("line", x1=x_low, x2=x_high, y1=at, y2=at, class_=f"span {style.class_}"))
        tip = f"{role}, {name}\n{metric.with_interval(item)}"
        pieces.append(marker(frame.x(item.value or 0.0), at, style.shape, style.class_, tip, 5.5))
    return picture(_WIDTH, bottom + 40, f"{metric.label} of the arms compared", *pieces)


def _x_axis(frame: Frame, metric: Metric, unit: str, rows_y: Sequence[float]) -> list[Markup]:
    """Tick labels below, and short rules behind each bar, so that no rule crosses words."""
    pieces = []
    shown = ticks(*frame.x_range)
    for tick in shown:
        at = frame.x(tick)
        pieces += [line(at, y - _HALF, at, y + _HALF, "rule") for y in rows_y]
        words = tick_text(tick, shown, percent=metric.percent)
        if tick == shown[-1] and unit:
            words = f"{words} {unit}"
        anchor = "end" if at > frame.right - 40 else "start" if at < frame.left + 12 else "middle"
        pieces.append(text(at, frame.bottom + 20, words, "tick", anchor))
    return pieces


def _pretty(name: str) -> str:
    return shorten(name.replace(" - ", " \u2212 "), 44)
