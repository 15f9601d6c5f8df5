"""The leaderboard, packed for the page's script and spelt out for those who read without one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from embedpipe.report.figures import Estimate, Metric, estimate, get_metric, k_label, number, params_text
from embedpipe.report.styles import ROLES, role_of

_SELECTED, _BASELINE = 1, 2
_DIGITS = 5


def pack(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Everything the page's script needs, small enough for thousands of rows.

    Parameters
    ----------
    rows
        The leaderboard, in the order it is to be shown.
    metrics
        The metric that each task is selected by.

    Returns
    -------
    dict
        ``tasks`` (name, metric index), ``metrics``, ``roles``, ``texts``
        (parameters and notes, each once) and ``rows``: ``[task, k_shot, role, arm, draws, flags, params,
        note, val, test]``, where scores are ``[value, low, high]`` a metric or null, and text is an index.
    """
    names = metric_names(rows, metrics)
    tasks = list(dict.fromkeys([*metrics, *(str(row.get("task")) for row in rows)]))
    texts: dict[str, int] = {"": 0}
    packed = []
    for row in rows:
        flags = _SELECTED * bool(row.get("selected")) + _BASELINE * bool(row.get("baseline"))
        params = params_text(row.get("params"))
        note = str(row.get("note") or "")
        packed.append(
            [
                tasks.index(str(row.get("task"))),
                k_label(row.get("k_shot")),
                ROLES.index(role_of(row.get("role"))),
                str(row.get("arm")),
                number(row.get("draws")),
                flags,
                texts.setdefault(params, len(texts)),
                texts.setdefault(note, len(texts)),
                _scores(row.get("val"), names),
                _scores(row.get("test"), names),
            ]
        )
    selection = {task: metrics.get(task) or get_metric(None) for task in tasks}
    return {
        "tasks": [
            {
                "name": task,
                "metric": names.index(selection[task].name) if selection[task].name in names else -1,
            }
            for task in tasks
        ],
        "metrics": [
            {
                "name": metric.name,
                "label": metric.label,
                "percent": metric.percent,
                "lower": metric.lower_is_better,
                "floor": metric.floor,
            }
            for metric in map(get_metric, names)
        ],
        "roles": list(ROLES),
        "texts": list(texts),
        "rows": packed,
    }


def metric_names(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]) -> list[str]:
    """Metrics in the table: those that select first, then the others as the rows name them."""
    found: dict[str, None] = {}
    for row in rows:
        for scores in (row.get("val"), row.get("test")):
            if isinstance(scores, Mapping):
                found.update(dict.fromkeys(str(name) for name in scores))
    first = [metric.name for metric in metrics.values() if metric.name in found]
    return list(dict.fromkeys([*first, *found]))


def bar_range(rows: Sequence[Mapping[str, Any]], metric: Metric) -> tuple[float, float]:
    """Ends of the interval bars of `rows`, made for the arms; baselines far off are cut at the edge."""
    arms = [row for row in rows if not row.get("baseline")] or rows
    return metric.domain([score(row, "val", metric) for row in arms]) or (0.0, 1.0)


def score(row: Mapping[str, Any], part: str, metric: Metric) -> Estimate:
    scores = row.get(part)
    return estimate(scores.get(metric.name)) if isinstance(scores, Mapping) else estimate(None)


def bar(item: Estimate, low: float, high: float) -> Markup:
    """An interval as a bar with a mark at the value, both in percent of the cell's width."""
    if item.value is None:
        return Markup("")
    place = [_percent(x, low, high) for x in (item.low, item.value, item.high) if x is not None]
    start, end = min(place), max(place)
    at = _percent(item.value, low, high)
    return Markup(
        '<i class="bar"><i style="left:{:.1f}%;width:{:.1f}%"></i><b style="left:{:.1f}%"></b></i>'
    ).format(start, end - start, at)


def script_json(value: object) -> Markup:
    """JSON that is safe inside a script element: no `<`, `>` or `&`, ASCII only, no NaN."""
    plain = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(plain)


def _scores(raw: object, names: Sequence[str]) -> list[list[float | None] | None] | None:
    if not isinstance(raw, Mapping):
        return None
    scores: list[list[float | None] | None] = []
    for name in names:
        item = estimate(raw.get(name))
        whole = [_round(item.value), _round(item.low), _round(item.high)]
        scores.append(None if item.value is None else whole if item.has_interval else whole[:1])
    return scores


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _percent(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0) * 100
