"""Score against cost: every arm as a mark, and a line through those that nothing cheaper beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from embedpipe.evaluate.cost import costs_at_all, frontier
from embedpipe.report.figures import DASH, Estimate, Metric, count, number
from embedpipe.report.rows import score
from embedpipe.report.styles import Style, style_for
from embedpipe.report.svg import Frame, join, line, marker, path, picture, text
from embedpipe.report.tables import Table

Rows = Sequence[Mapping[str, Any]]
_WIDTH, _HEIGHT = 560.0, 300.0


@dataclass(frozen=True)
class CostView:
    """The drawing and its figures."""

    drawing: Markup
    table: Table


@dataclass(frozen=True)
class _Point:
    arm: str
    backbone: object
    seconds: float
    score: Estimate
    cost: Mapping[str, Any]


def read_cost(costs: Rows, leaderboard: Rows, metric: Metric, styles: Mapping[str, Style]) -> CostView | None:
    """The arms of one task at all labels that have both a cost and a score; None without two of them.

    Parameters
    ----------
    costs
        Rows of `data/cost/<T>.json`.
    leaderboard
        The rows of the task.
    """
    known = costs_at_all(costs)
    points = []
    for row in leaderboard:
        cost = known.get(str(row.get("arm")))
        if row.get("k_shot") != "all" or cost is None:
            continue
        seconds, reached = number(cost.get("seconds")), score(row, "val", metric)
        if seconds is not None and seconds > 0 and reached.value is not None:
            points.append(_Point(str(row["arm"]), row.get("backbone"), seconds, reached, cost))
    if len(points) < 2:
        return None
    sign = -1 if metric.lower_is_better else 1
    ahead = frontier({one.arm: (one.seconds, sign * (one.score.value or 0.0)) for one in points})
    by_arm = {one.arm: one for one in points}
    return CostView(
        _draw(points, [by_arm[arm] for arm in ahead], metric, styles), _table(by_arm, ahead, metric)
    )


def seconds_text(seconds: float) -> str:
    """``0.3 s``, ``12 ms``, ``4 min``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 99.5 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _draw(
    points: Sequence[_Point], ahead: Sequence[_Point], metric: Metric, styles: Mapping[str, Style]
) -> Markup:
    logs = [math.log10(one.seconds) for one in points]
    low, high = min(logs), max(logs)
    margin = (high - low) * 0.05 or 0.2
    domain = metric.domain([Estimate(one.score.value) for one in points]) or (0.0, 1.0)
    frame = Frame(48, _WIDTH - 14, 12, _HEIGHT - 44, (low - margin, high + margin), domain)
    pieces = [frame.y_grid(percent=metric.percent)]
    for power in range(math.floor(low - margin), math.ceil(high + margin) + 1):
        if low - margin <= power <= high + margin:
            at = frame.x(float(power))
            pieces.append(line(at, frame.bottom, at, frame.bottom + 5, "rule"))
            pieces.append(text(at, frame.bottom + 20, seconds_text(10.0**power), "tick", "middle"))
    pieces.append(text(frame.right, _HEIGHT - 6, "seconds to fit the whole grid", "tick", "end"))
    steps: list[tuple[float, float]] = []
    for one in ahead:  # a staircase: between two arms the cheaper one's score is what that cost buys
        x, y = frame.x(math.log10(one.seconds)), frame.y(one.score.value or 0.0)
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
    steps.append((frame.right, steps[-1][1]))
    pieces.append(path(steps, "curve plain", dash="2 4"))
    on_line = {one.arm for one in ahead}
    for one in points:
        style = style_for(styles, one.backbone)
        tip = f"{one.arm}\n{metric.with_interval(one.score)}\n{seconds_text(one.seconds)}"
        x, y = frame.x(math.log10(one.seconds)), frame.y(one.score.value or 0.0)
        size = 6.0 if one.arm in on_line else 3.5
        pieces.append(marker(x, y, style.shape, style.class_, tip, size))
    return picture(_WIDTH, _HEIGHT, "score against seconds to fit", join(pieces))


def _table(by_arm: Mapping[str, _Point], ahead: Sequence[str], metric: Metric) -> Table:
    rows = []
    for arm in ahead:
        one = by_arm[arm]
        nbytes = number(one.cost.get("nbytes"))
        rows.append(
            [
                arm,
                metric.with_interval(one.score),
                seconds_text(one.seconds),
                DASH if nbytes is None else f"{nbytes / 1e6:.3g} MB",
                count(one.cost.get("num_parameters")),
            ]
        )
    return Table(["arm on the frontier", metric.label, "to fit", "features read", "parameters"], rows)
