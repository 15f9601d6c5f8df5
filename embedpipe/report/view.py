"""Turn the comparison into what the page's template shows, task by task.

All decisions are here and in the drawing modules; the template only places what it is given. Whatever
is missing from the input is left off the page or shown as a dash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from embedpipe.errors import DataError
from embedpipe.report import headline as drawings
from embedpipe.report.confusion import Confusion, read_confusion
from embedpipe.report.cost import CostView, read_cost
from embedpipe.report.curves import LayerPanel, layer_panels, learning_curve, reduction_names
from embedpipe.report.figures import (
    DASH,
    Estimate,
    Metric,
    count,
    estimate,
    get_metric,
    k_label,
    k_order,
    k_words,
    number,
    params_text,
)
from embedpipe.report.options import ReportOptions
from embedpipe.report.paired import Paired, read_paired
from embedpipe.report.rows import score
from embedpipe.report.styles import ROLE_WORDS, Style, backbone_name, role_of, style_for, swatch
from embedpipe.report.svg import DASHES
from embedpipe.report.tables import Table, Told, calibration_table, class_table, screen_table, transfer_table

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Headline:
    """The sentence, what it stands on, and its drawings (None in a report without baselines).

    `aside` is what the sentence says in brackets at its end, without them.
    """

    sentence: Markup
    aside: str
    size: str
    basis: str
    differences: Markup | None
    differences_title: str
    arms: Markup | None
    arms_title: str


@dataclass(frozen=True)
class TaskView:
    """Everything the page shows of one task."""

    name: str
    anchor: str
    index: int
    kind: str
    metric: Metric
    counts: list[tuple[str, str]]
    what: str
    selected: str | None
    selected_params: str
    selected_score: str
    selected_interval: str
    corrected: str
    learning: Markup | None
    learning_table: Table | None
    num_shots: int
    layers: list[LayerPanel]
    layer_table: Table | None
    legend: list[tuple[Markup, str, str]]
    reductions: list[tuple[str, str]]
    paired: Paired | None
    confusion: Confusion | None
    classes: Table | None
    calibration: Told | None
    screen: Told | None
    transfer: Told | None
    cost: CostView | None
    notes: list[str]
    num_rows: int = 0


@dataclass(frozen=True)
class BackboneView:
    """One card."""

    name: str
    role: str
    role_words: str
    facts: list[tuple[str, str, bool]]
    taps: list[tuple[str, str, str, str, str, str]]
    num_failed: int
    failed: list[str] = field(default_factory=list)


def task_metrics(comparison: Mapping[str, Any]) -> dict[str, Metric]:
    """The metric each task is selected by.

    Raises
    ------
    DataError
        If the comparison holds no mapping of tasks.
    """
    tasks = comparison.get("tasks")
    if not isinstance(tasks, Mapping):
        found = "none" if tasks is None else type(tasks).__name__
        raise DataError(
            f"comparison.json: expected a mapping 'tasks', found {found}; "
            "run `embedpipe compare` to write it anew"
        )
    return {str(name): get_metric(task.get("metric")) for name, task in tasks.items()}


def read_headline(raw: object, styles: Mapping[str, Style]) -> Headline:
    """The sentence and its drawings; a mapping with a sentence alone is enough.

    Raises
    ------
    DataError
        If there is no sentence.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("sentence"), str):
        raise DataError(
            "comparison.json: expected 'headline' with a 'sentence', found none; "
            "run `embedpipe compare` to write it anew"
        )
    metric = get_metric(raw.get("metric"))
    found = re.fullmatch(r"(.*\S) \(([^()]*)\)\.?", raw["sentence"], re.DOTALL)
    sentence, aside = (f"{found[1]}.", found[2]) if found else (raw["sentence"], "")
    basis = []
    if raw.get("task") is not None:
        basis.append(f"Task {raw['task']}")
    if raw.get("metric") is not None:
        basis.append(metric.label)
    if raw.get("k_shot") is not None:
        basis.append(k_words(raw["k_shot"]))
    for key, singular, plural in (
        ("draws", "draw", "draws"),
        ("num_samples", "validation sample", "validation samples"),
        ("num_classes", "class", "classes"),
        ("num_labels", "label", "labels"),
    ):
        known = number(raw.get(key))
        if known is not None:
            basis.append(f"{count(known)} {singular if known == 1 else plural}")
    unit = "points of " if metric.percent else ""
    return Headline(
        sentence=_coded(sentence),
        aside=aside[:1].upper() + aside[1:],
        size="long" if len(sentence) > 110 else "",
        basis=" · ".join(basis),
        differences=drawings.differences(raw.get("differences") or [], metric),
        differences_title=(
            f"Difference in {metric.label}, less is better"
            if metric.lower_is_better
            else f"How far ahead, in {unit}{metric.label}"
        ),
        arms=drawings.arms(raw.get("arms") or [], metric, styles),
        arms_title=metric.label[:1].upper() + metric.label[1:],
    )


def _coded(sentence: str) -> Markup:
    """Escape a sentence; `names` between backticks are set as code."""
    parts = str(escape(sentence)).split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        return escape(sentence)
    return Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


def read_task(
    name: str,
    index: int,
    raw: Mapping[str, Any],
    leaderboard: Rows,
    styles: Mapping[str, Style],
    options: ReportOptions,
    *,
    few_shot: object = None,
    costs: Rows = (),
) -> TaskView:
    """Everything about one task.

    Parameters
    ----------
    leaderboard
        The rows of this task alone.
    few_shot
        The number of labels a class that the headline speaks of.
    costs
        Rows of `data/cost/<T>.json`.
    """
    metric = get_metric(raw.get("metric"))
    curves: Rows = raw.get("learning_curves") or []
    layers: Rows = raw.get("layer_curves") or []
    named = sorted(
        {
            (style_for(styles, row.get("backbone")).order, backbone_name(row.get("backbone")))
            for row in [*curves, *layers]
        }
    )
    selected = None if raw.get("selected") is None else str(raw["selected"])
    chosen = _selected_score(selected, leaderboard, metric)
    num = raw.get("num") or {}
    return TaskView(
        name=name,
        anchor=f"task-{index + 1}",
        index=index,
        kind=str(raw.get("kind") or DASH),
        metric=metric,
        counts=[(part, count(num.get(part))) for part in ("train", "val", "test", "excluded", "missing")],
        what=_what(raw),
        selected=selected,
        selected_params=params_text(raw.get("selected_params")),
        selected_score=metric.text(chosen.value),
        selected_interval=metric.interval(chosen),
        corrected=_corrected(raw.get("optimism"), metric),
        learning=learning_curve(curves, metric, styles),
        learning_table=_learning_table(curves, metric),
        num_shots=len({row.get("k_shot") for row in curves}),
        layers=layer_panels(layers, metric, styles, few=few_shot),
        layer_table=_layer_table(layers, metric),
        legend=[
            (swatch(style_for(styles, label)), label, ROLE_WORDS[style_for(styles, label).role])
            for _, label in named
        ],
        reductions=[(DASHES[i % len(DASHES)], label) for i, label in enumerate(reduction_names(layers))],
        paired=read_paired(
            raw.get("paired") or [], selected, leaderboard, metric, options.paired, ties=raw.get("ties")
        ),
        confusion=read_confusion(raw.get("confusion"), max_classes=options.confusion_classes),
        classes=class_table(raw.get("per_class")),
        calibration=calibration_table(raw.get("calibration")),
        screen=screen_table(raw.get("screen"), metric),
        transfer=transfer_table(raw.get("transfer"), metric),
        cost=read_cost(costs, leaderboard, metric, styles),
        notes=[str(note) for note in raw.get("notes") or []],
        num_rows=len(leaderboard),
    )


def read_card(name: str, raw: Mapping[str, Any]) -> BackboneView:
    """One backbone's card, whatever of it is known."""
    spec = raw.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    facts: list[tuple[str, str, bool]] = []
    for label, value, mono in (
        ("model", raw.get("model"), True),
        ("weights", raw.get("weights"), True),
        ("weights digest", spec.get("weights_digest"), True),
        ("preprocessing", _steps(spec.get("preprocessing")), False),
        ("precision", spec.get("precision"), False),
        ("decoder", spec.get("decoder"), False),
        ("device", spec.get("device_kind"), False),
    ):
        facts.append((label, DASH if value is None else str(value), mono))
    taps = []
    for tap, facts_of in (raw.get("taps") or {}).items():
        known = facts_of if isinstance(facts_of, Mapping) else {}
        depth = number(known.get("depth"))
        shape = known.get("shape")
        words = " × ".join(str(size) for size in shape) if isinstance(shape, (list, tuple)) else _text(shape)
        taps.append(
            (
                str(tap),
                _text(known.get("node")),
                _text(known.get("reduction")),
                words,
                _text(known.get("dtype")),
                DASH if depth is None else f"{depth:.2f}",
            )
        )
    failed = [_failed(item) for item in raw.get("failed") or []]
    role = role_of(raw.get("role"))
    return BackboneView(
        name=str(raw.get("name") or name),
        role=role,
        role_words=ROLE_WORDS[role],
        facts=facts,
        taps=taps,
        num_failed=len(failed),
        failed=failed[:20],
    )


def _what(raw: Mapping[str, Any]) -> str:
    """What is told of a sample: `10 classes`, `a number`, `6 labels`."""
    kind, classes, outputs = raw.get("kind"), raw.get("classes") or [], raw.get("outputs") or []
    if kind == "number":
        return f"{count(len(outputs))} numbers" if outputs else "a number"
    if not classes:
        return str(kind or DASH)
    words = {"multilabel": "labels", "dense": "classes at each place"}
    return f"{count(len(classes))} {words.get(str(kind), 'classes')}"


def _selected_score(selected: str | None, leaderboard: Rows, metric: Metric) -> Estimate:
    """The selected arm's score with all labels, or with as many as it was selected at."""
    rows = [row for row in leaderboard if selected is not None and str(row.get("arm")) == selected]
    if not rows:
        return estimate(None)
    best = max(rows, key=lambda row: (bool(row.get("selected")), k_order(row.get("k_shot"))))
    return score(best, "val", metric)


def _corrected(raw: object, metric: Metric) -> str:
    """The selected figure without what selecting it added; empty where nobody estimated that."""
    if not isinstance(raw, Mapping) or number(raw.get("value")) is None:
        return ""
    many = count(raw.get("num_candidates"))
    return f"{metric.text(number(raw['value']))} without what choosing among {many} candidates adds"


def _learning_table(raw: Rows, metric: Metric) -> Table | None:
    if not raw:
        return None
    shots = sorted({row.get("k_shot") for row in raw}, key=k_order)
    cells = {
        (backbone_name(row.get("backbone")), row.get("k_shot")): metric.with_interval(estimate(row))
        for row in raw
    }
    names = dict.fromkeys(name for name, _ in cells)
    return Table(
        head=["labels a class", *map(k_label, shots)],
        rows=[[name, *(cells.get((name, k_shot), DASH) for k_shot in shots)] for name in names],
    )


def _layer_table(raw: Rows, metric: Metric) -> Table | None:
    if not raw:
        return None
    shots = sorted({row.get("k_shot") for row in raw}, key=k_order)
    rows: dict[tuple[str, str], dict[object, Mapping[str, Any]]] = {}
    for row in raw:
        rows.setdefault((backbone_name(row.get("backbone")), str(row.get("tap"))), {})[row.get("k_shot")] = (
            row
        )
    body = []
    for (name, tap), cells in rows.items():
        depth = number(next(iter(cells.values())).get("depth"))
        scores = [metric.with_interval(estimate(cells.get(k_shot))) for k_shot in shots]
        body.append([name, tap, DASH if depth is None else f"{depth:.2f}", *scores])
    return Table(head=["backbone", "tap", "depth", *map(k_label, shots)], rows=body)


def _steps(raw: object) -> object:
    """Preprocessing as words: canonical JSON of one step or several, or whatever else as it stands."""
    if not isinstance(raw, str):
        return raw
    try:
        parsed = json.loads(raw)
    except ValueError:
        return raw
    steps = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(step, Mapping) for step in steps):
        return raw
    return (
        " → ".join(", ".join(f"{key} {_inline(value)}" for key, value in step.items()) for step in steps)
        or raw
    )


def _inline(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _failed(item: object) -> str:
    if isinstance(item, Mapping):
        return ": ".join(str(value) for value in item.values())
    return ": ".join(map(str, item)) if isinstance(item, (list, tuple)) else str(item)


def _text(value: object) -> str:
    return DASH if value is None else str(value)
