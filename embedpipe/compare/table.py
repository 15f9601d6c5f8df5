"""The leaderboard in the terminal: the headline, and for each task its leading arms and its baselines."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from embedpipe.evaluate.metrics import PERCENT
from embedpipe.evaluate.words import METRIC_WORDS

TOP = 5
TOLD = ("left out", "learnt from them")
"""Words of the notes that change what the table says; the page has all of them."""


def leaderboard_table(
    leaderboard: Sequence[Mapping[str, Any]], comparison: Mapping[str, Any], *, top: int = TOP
) -> RenderableType:
    """What `compare` found, for people.

    Parameters
    ----------
    top
        Arms shown for each task and k_shot; selected arms and the best arm of each backbone and baseline
        are shown besides.
    """
    parts: list[RenderableType] = [Text(comparison["headline"]["sentence"], style="bold"), Text("")]
    for task, about in comparison["tasks"].items():
        parts.append(_task_table(task, about, [row for row in leaderboard if row["task"] == task], top))
        ties = len(about.get("ties", []))
        if ties:
            parts.append(
                Text(
                    f"  {ties} other arm{'s' * (ties != 1)} cannot be told from the selected one on validation",
                    style="dim",
                )
            )
        parts += [Text(f"  {line}", style="dim") for line in _asides(about)]
        parts += [
            Text(f"  {note}", style="dim")
            for note in about.get("notes", ())
            if any(words in note for words in TOLD)
        ]
        parts.append(Text(""))
    parts.append(Text(_test_state(leaderboard, comparison), style="dim"))
    return Group(*parts)


def _test_state(leaderboard: Sequence[Mapping[str, Any]], comparison: Mapping[str, Any]) -> str:
    """How often the test was read, in one sentence."""
    if comparison.get("test") == "open":
        return "The test is open (`compare.test: open`): every comparison reads it."
    openings = comparison["test_openings"]
    if not openings:
        return "The test is sealed: `embedpipe test` opens it."
    times = f"The test was opened {openings} time{'s' * (openings != 1)}"
    if any(row["test"] for row in leaderboard):
        return f"{times}."
    return f"{times}, but not for these predictions and targets: `embedpipe test` opens it for them."


def _asides(about: Mapping[str, Any]) -> list[str]:
    """What the choice among arms adds to the selected figure, and whether the screens would have been right."""
    lines = []
    metric, optimism = about["metric"], about.get("optimism") or {}
    if optimism.get("value") is not None:
        lines.append(
            f"{_number(optimism['value'], metric)} without what choosing among "
            f"{optimism['num_candidates']} candidates adds"
        )
    screens = (about.get("screen") or {}).get("screens") or {}
    taus = [f"{name} {one['kendall']:.2f}" for name, one in screens.items() if one["kendall"] is not None]
    if taus:
        lines.append(f"screens of taps against trained heads, Kendall's tau: {', '.join(taus)}")
    return lines


def render(
    leaderboard: Sequence[Mapping[str, Any]],
    comparison: Mapping[str, Any],
    *,
    top: int = TOP,
    width: int = 110,
) -> str:
    """The same as plain text."""
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, highlight=False).print(
        leaderboard_table(leaderboard, comparison, top=top)
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _task_table(task: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], top: int) -> Table:
    metric = about["metric"]
    num = about["num"]
    unit = " %" if metric in PERCENT else ""
    table = Table(
        title=f"{task}: {METRIC_WORDS[metric]}{unit} on {num['val']} validation samples, "
        f"{num['train']} to train on",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("labels", justify="right")
    table.add_column("arm", overflow="fold")
    table.add_column("validation", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    tested = any(row["test"] for row in rows)
    if tested:
        table.add_column("test", justify="right", no_wrap=True)
    table.add_column("")
    for row in _shown(rows, top):
        cells = [
            "all" if row["k_shot"] == "all" else f"{row['k_shot']} a class",
            row["arm"],
            _number(row["val"][metric]["value"], metric),
            _interval(row["val"][metric], metric),
        ]
        if tested:
            cells.append(_number(row["test"][metric]["value"], metric) if row["test"] else "")
        marks = ["selected"] * row["selected"] + ["baseline"] * row["baseline"]
        marks += [row["note"]] if row["note"] and not row["baseline"] else []
        table.add_row(*cells, ", ".join(marks), style="bold" if row["selected"] else None)
    return table


def _shown(rows: Sequence[Mapping[str, Any]], top: int) -> list[Mapping[str, Any]]:
    """The leading arms of each k_shot, the selected ones, and the best of each backbone and baseline."""
    shown = []
    counts: dict[Any, int] = {}
    seen: set[tuple[Any, str]] = set()
    for row in rows:
        counts[row["k_shot"]] = counts.get(row["k_shot"], 0) + 1
        # at a numeric k_shot an honest figure is the arm chosen with the draw's own labels
        stands = row["role"] == "none" or row["k_shot"] == "all" or row["arm"].startswith("selected@")
        key = (row["k_shot"], row["arm"] if row["role"] == "none" else row["backbone"])
        first = stands and key not in seen
        if first:
            seen.add(key)
        leads = row["k_shot"] == "all" and counts[row["k_shot"]] <= top
        if leads or row["selected"] or first:
            shown.append(row)
    return shown


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    text = f"{100 * value:.1f}" if metric in PERCENT else f"{value:.3f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def _interval(one: Mapping[str, Any], metric: str) -> str:
    return f"{_number(one['ci_low'], metric)} to {_number(one['ci_high'], metric)}"
