"""Write the report: one HTML file with its styles, drawings and figures inside.

Reads the comparison, the leaderboard and the cards as dicts; writes one file, the same bytes for the
same input. The page forbids itself every request by a content security policy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from embedpipe.report.figures import DASH, Estimate, Metric, get_metric, k_label, k_order, number, params_text
from embedpipe.report.options import ReportOptions
from embedpipe.report.rows import bar, bar_range, metric_names, pack, score, script_json
from embedpipe.report.styles import ROLE_WORDS, assign_styles, role_of
from embedpipe.report.tables import rank_table
from embedpipe.report.view import read_card, read_headline, read_task, task_metrics

_TEMPLATES = Path(__file__).parent / "templates"


def render_report(
    comparison: Mapping[str, Any],
    leaderboard: Sequence[Mapping[str, Any]],
    cards: Mapping[str, Mapping[str, Any]],
    out_path: Path,
    *,
    costs: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    options: ReportOptions | None = None,
) -> None:
    """Write the page.

    Parameters
    ----------
    comparison
        What `compare` wrote: ``headline``, ``tasks``, ``test_openings``, ``seed``.
    leaderboard
        Its rows, one an arm and number of labels, best first within a task.
    cards
        The backbones' cards by name.
    out_path
        The HTML file; its folder is made where needed, the file replaced in one step.
    costs
        Rows of `data/cost/<T>.json` by task, where there are any.

    Raises
    ------
    DataError
        If the comparison lacks its headline's sentence or its tasks.
    """
    page = build_page(comparison, leaderboard, cards, costs=costs or {}, options=options or ReportOptions())
    out_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = out_path.with_name(f"{out_path.name}.partial")
    # a lone surrogate from a broken file name has no UTF-8 form
    temporary.write_bytes(page.encode("utf-8", errors="replace"))
    os.replace(temporary, out_path)


def build_page(
    comparison: Mapping[str, Any],
    leaderboard: Sequence[Mapping[str, Any]],
    cards: Mapping[str, Mapping[str, Any]],
    *,
    costs: Mapping[str, Sequence[Mapping[str, Any]]],
    options: ReportOptions,
) -> str:
    """The page as text; see `render_report`."""
    import jinja2  # slow to import, and only this function needs it

    metrics = task_metrics(comparison)
    rows = _ordered(leaderboard, metrics)
    styles = assign_styles(_named_backbones(comparison, rows, cards))
    few = (comparison.get("headline") or {}).get("k_shot")
    own = {name: [row for row in rows if str(row.get("task")) == name] for name in metrics}
    tasks = [
        read_task(name, i, raw, own[name], styles, options, few_shot=few, costs=costs.get(name, ()))
        for i, (name, raw) in enumerate((str(key), value) for key, value in comparison["tasks"].items())
    ]
    headline = read_headline(comparison.get("headline"), styles)
    openings = number(comparison.get("test_openings")) or 0
    names = metric_names(rows, metrics)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html.j2").render(
        title=options.title,
        style=Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((_TEMPLATES / "page.js").read_text(encoding="utf-8")),
        headline=headline,
        tasks=tasks,
        rows=_spelt_out(rows, metrics, names, options.rows),
        num_rows=len(rows),
        num_arms=len({(str(row.get("task")), str(row.get("arm"))) for row in rows}),
        first_task=_first_task(comparison, list(metrics)),
        shots=[k_label(shot) for shot in sorted({row.get("k_shot") for row in rows}, key=k_order)],
        roles=[role for role in ROLE_WORDS if any(role_of(row.get("role")) == role for row in rows)],
        role_words=ROLE_WORDS,
        other_metrics=[get_metric(name) for name in names],
        data=script_json({**pack(rows, metrics), "show": options.rows}),
        ranks=[
            told
            for what in ("heads", "backbones")
            if (told := rank_table((comparison.get("ranks") or {}).get(what), what.removesuffix("s")))
        ],
        cards=[read_card(str(name), card) for name, card in cards.items()],
        openings=int(openings),
        test_open=comparison.get("test") == "open",
        seed=DASH if comparison.get("seed") is None else str(comparison["seed"]),
    )


def _ordered(
    leaderboard: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]
) -> list[Mapping[str, Any]]:
    """Task by task as the comparison names them, all labels first, else as they came."""
    place = {name: i for i, name in enumerate(metrics)}
    return sorted(
        leaderboard,
        key=lambda row: (
            place.get(str(row.get("task")), len(place)),
            *(-x for x in k_order(row.get("k_shot"))[:2]),
        ),
    )


def _named_backbones(
    comparison: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], cards: Mapping[str, Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    named: list[Mapping[str, Any]] = [
        {"backbone": name, "role": card.get("role")} for name, card in cards.items()
    ]
    for task in comparison["tasks"].values():
        named += [*(task.get("learning_curves") or []), *(task.get("layer_curves") or [])]
    return named + [row for row in rows if row.get("backbone") is not None]


def _first_task(comparison: Mapping[str, Any], names: Sequence[str]) -> str:
    """The task the leaderboard opens with: the headline's."""
    wanted = str((comparison.get("headline") or {}).get("task"))
    return wanted if wanted in names else (names[0] if names else "")


def _spelt_out(
    rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric], names: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    """The first rows of each task for readers without JavaScript, `limit` in all."""
    shown: list[dict[str, Any]] = []
    tasks = list(dict.fromkeys(str(row.get("task")) for row in rows))
    for task in tasks:
        metric = metrics.get(task) or get_metric(None)
        own = [row for row in rows if str(row.get("task")) == task][: max(1, limit // len(tasks))]
        low, high = bar_range(own, metric)
        for row in own:
            val, test = score(row, "val", metric), score(row, "test", metric)
            shown.append(
                {
                    "task": task,
                    "arm": str(row.get("arm")),
                    "params": params_text(row.get("params")),
                    "note": str(row.get("note") or ""),
                    "role": role_of(row.get("role")),
                    "k_shot": k_label(row.get("k_shot")),
                    "draws": DASH if number(row.get("draws")) is None else f"{row['draws']:g}",
                    "selected": bool(row.get("selected")),
                    "baseline": bool(row.get("baseline")),
                    "score": metric.text(val.value),
                    "interval": metric.interval(val),
                    "bar": bar(val, low, high),
                    "others": [_other(row, get_metric(name)) for name in names],
                    "sealed": not isinstance(row.get("test"), Mapping),
                    "test": metric.text(test.value),
                    "test_interval": metric.interval(test) if test.has_interval else "",
                }
            )
    return shown


def _breakable(name: str) -> Markup:
    """Let a long arm's name break after its separators."""
    return Markup(re.sub(r"([@/._])", r"\1<wbr>", str(escape(name))))


def _other(row: Mapping[str, Any], metric: Metric) -> str:
    item: Estimate = score(row, "val", metric)
    return metric.text(item.value)
