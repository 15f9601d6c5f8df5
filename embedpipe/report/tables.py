"""Tables of the page: rates of each class, calibration, screens of taps, ranks across tasks.

Each reads one part of the comparison and returns text alone; what is missing is left out or shown as a dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedpipe.report.figures import DASH, Metric, count, estimate, get_metric, k_words, number, plain

Rows = Sequence[Mapping[str, Any]]
_SCREENS = {"knn": "kNN", "ridge": "ridge", "logme": "LogME"}


@dataclass(frozen=True)
class Table:
    """Figures behind a drawing, or in place of one."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Told:
    """A table and the sentences over it."""

    table: Table
    lead: list[str]


_RATES = {
    "ap": "average precision",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "r2": "R²",
    "mae": "MAE",
}


def class_table(raw: object) -> Table | None:
    """What is reached on each class, label or number, with intervals: the rates that the rows have."""
    if not isinstance(raw, (list, tuple)) or not raw:
        return None
    first = raw[0]
    what = "number" if "output" in first else "label" if "known" in first else "class"
    counted = {"support": "places" if "iou" in first else "samples", "known": "known of"}
    counts = [name for name in counted if name in first]
    rates = [name for name in _RATES if name in first]
    return Table(
        head=[what, *(counted[name] for name in counts), *(_RATES[rate] for rate in rates)],
        rows=[
            [
                str(row.get("output") if what == "number" else row.get("class")),
                *(count(row.get(name)) for name in counts),
                *(_rate_metric(rate).with_interval(estimate(row.get(rate))) for rate in rates),
            ]
            for row in raw
        ],
    )


def _rate_metric(rate: str) -> Metric:
    return get_metric(rate if rate in ("r2", "mae") else "accuracy")


def calibration_table(raw: object) -> Told | None:
    """Log loss and calibration error before and after a temperature fitted on validation."""
    if not isinstance(raw, (list, tuple)) or not raw:
        return None
    rows = []
    for row in raw:
        before, after = row.get("before") or {}, row.get("after") or {}
        cells = [f"{_plain(before.get(name))} → {_plain(after.get(name))}" for name in ("nll", "ece")]
        temperature = number(row.get("temperature"))
        rows.append([str(row.get("arm")), DASH if temperature is None else f"{temperature:.2f}", *cells])
    first = number(raw[0].get("temperature"))
    lead = []
    if first is not None:
        sure = (
            "too sure"
            if first > 1.05
            else "not sure enough"
            if first < 0.95
            else "about as sure as it should be"
        )
        lead.append(f"The selected arm is {sure}: its temperature is {first:.2f}.")
    return Told(Table(["arm", "temperature", "NLL", "ECE"], rows), lead)


def screen_table(raw: object, metric: Metric) -> Told | None:
    """Every tap with its screens and what trained heads then got, and how well the screens ranked."""
    if not isinstance(raw, Mapping) or not raw.get("taps"):
        return None
    taps = sorted(raw["taps"], key=lambda tap: -(number(tap.get("ridge")) or 0.0))
    screened = get_metric(taps[0].get("metric"))
    rows = []
    for tap in taps:
        trained = number(tap.get("trained"))
        best = DASH if trained is None else f"{metric.text(trained)} ({tap.get('head')})"
        cells = [
            screened.text(number(tap.get("knn"))),
            screened.text(number(tap.get("ridge"))),
            _plain(tap.get("logme")),
        ]
        rows.append([f"{tap.get('backbone')}/{tap.get('tap')}", *cells, best])
    lead = []
    for name, label in _SCREENS.items():
        of_screen = (raw.get("screens") or {}).get(name)
        if not isinstance(of_screen, Mapping):
            continue
        tau, rho = number(of_screen.get("kendall")), number(of_screen.get("spearman"))
        regret = number(of_screen.get("regret"))
        agreed = (
            "too few taps to correlate"
            if tau is None
            else f"Kendall τ {tau:.2f}, Spearman ρ {rho or 0.0:.2f}"
        )
        lost = "" if regret is None else f"; its first tap loses {_regret(regret, metric)} on the best"
        lead.append(f"{label}: {agreed}{lost}.")
    return Told(Table(["tap", "kNN", "ridge", "LogME", f"best head, {metric.label}"], rows), lead)


def transfer_table(raw: object, metric: Metric) -> Told | None:
    """Arms that adapt the source model, and the head they start from, at each number of labels; who wins where."""
    if not isinstance(raw, Mapping) or not raw.get("arms"):
        return None
    rows = raw["arms"]
    shots = list(dict.fromkeys(row.get("k_shot") for row in rows))
    winners = {row.get("k_shot"): row for row in raw.get("winners") or []}
    cells: dict[tuple[str, str], dict[object, str]] = {}
    for row in rows:
        winner = winners.get(row.get("k_shot")) or {}
        mark = " ★" if row.get("arm") == winner.get("arm") else ""
        mark = " ≈" if row.get("arm") in (winner.get("ties") or ()) else mark
        key = (str(row.get("name")), str(row.get("backbone")))
        cells.setdefault(key, {})[row.get("k_shot")] = metric.with_interval(estimate(row)) + mark
    body = [
        [name, backbone, *(of_arm.get(k_shot, DASH) for k_shot in shots)]
        for (name, backbone), of_arm in cells.items()
    ]
    names = {str(row.get("arm")): str(row.get("name")) for row in rows}
    lead = []
    for k_shot, winner in winners.items():
        ties = [names.get(str(arm), str(arm)) for arm in winner.get("ties") or ()]
        lead.append(
            f"With {k_words(k_shot)} {winner.get('name')} is best"
            + (f", and cannot be told from {', '.join(ties)}." if ties else ", ahead of all others.")
        )
    return Told(Table(["arm", "backbone", *(k_words(k_shot) for k_shot in shots)], body), lead)


def rank_table(raw: object, what: str) -> Told | None:
    """Mean ranks over tasks, and whether there are tasks enough to tell."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("mean_ranks"), Mapping):
        return None
    rows = [[str(name), f"{rank:.2f}"] for name, rank in raw["mean_ranks"].items()]
    lead = [f"Over {', '.join(map(str, raw.get('tasks') or []))}."]
    p, apart = number(raw.get("friedman_p")), number(raw.get("critical_difference"))
    if p is not None:
        lead.append(f"Friedman's test: p = {p:.3g}.")
    if apart is not None:
        lead.append(f"Mean ranks {apart:.2f} apart differ at 5 % (Nemenyi).")
    if raw.get("note"):
        lead.append(f"{str(raw['note'])[:1].upper()}{str(raw['note'])[1:]}.")
    if raw.get("left_out"):
        lead.append(f"Not in every task, and left out: {', '.join(map(str, raw['left_out']))}.")
    return Told(Table([what, "mean rank"], rows), lead)


def p_text(raw: object) -> str:
    """A p-value as people read it."""
    p = number(raw)
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.995 else "1"


def _plain(raw: object) -> str:
    value = number(raw)
    return DASH if value is None else plain(value)


def _regret(value: float, metric: Metric) -> str:
    return f"{value * 100:.1f} points" if metric.percent else plain(value)
