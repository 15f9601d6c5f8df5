"""The other arms of a task against its selected one, on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from embedpipe.report.figures import Estimate, Metric, estimate
from embedpipe.report.styles import role_of
from embedpipe.report.tables import p_text

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PairedRow:
    """One arm against the selected one."""

    arm: str
    role: str
    baseline: bool
    difference: str
    interval: str
    tied: bool
    tests: str
    bar: Markup


@dataclass(frozen=True)
class Paired:
    """The nearest arms, and how many there are in all."""

    rows: list[PairedRow]
    num_arms: int
    num_tied: int
    num_intervals: int
    zero: str
    unit: str


def read_paired(
    raw: Rows, selected: str | None, leaderboard: Rows, metric: Metric, limit: int, *, ties: object = None
) -> Paired | None:
    """Differences to the selected arm, nearest first, then the baselines.

    Parameters
    ----------
    raw
        Rows of ``paired`` of one task: an arm minus the selected one.
    limit
        Arms, and baselines, to list; all are counted.
    ties
        Names of the arms that cannot be told from the selected one; without such a list, those whose
        interval holds zero.

    Returns
    -------
    None where no other arm has a number.
    """
    tests = {str(row.get("arm")): _tests(row) for row in raw}
    by_arm = {str(row.get("arm")): row for row in leaderboard}
    others = [(str(row.get("arm")), estimate(row)) for row in raw if str(row.get("arm")) != selected]
    known = [(arm, item) for arm, item in others if item.value is not None]
    if not known:
        return None
    named = {str(arm) for arm in ties} if isinstance(ties, (list, tuple)) else None

    def tied(arm: str, item: Estimate) -> bool:
        return _holds_zero(item) if named is None else arm in named

    sign = 1 if metric.lower_is_better else -1
    known.sort(key=lambda pair: (sign * (pair[1].value or 0.0), pair[0]))
    arms = [pair for pair in known if not by_arm.get(pair[0], {}).get("baseline")][:limit]
    shown = arms + [pair for pair in known if by_arm.get(pair[0], {}).get("baseline")][:limit]
    # baselines lie far off: the bars are scaled to the others, and cut where they leave the cell
    numbers = [x for _, item in arms or shown for x in item.numbers()] + [0.0]
    low, high = min(numbers), max(numbers)
    margin = (high - low) * 0.06 or 0.05
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return min(max((value - low) / (high - low), 0.0), 1.0) * 100

    rows = []
    for arm, item in shown:
        start, end, at = (place(x or 0.0) for x in (item.low, item.high, item.value))
        if not item.has_interval:
            start = end = at
        outside = not low <= (item.value or 0.0) <= high
        drawn = Markup(
            '<i class="bar{}"><i style="left:{:.1f}%;width:{:.1f}%"></i><b style="left:{:.1f}%"></b></i>'
        )
        row = by_arm.get(arm, {})
        rows.append(
            PairedRow(
                arm=arm,
                role=role_of(row.get("role")),
                baseline=bool(row.get("baseline")),
                difference=metric.difference(item.value),
                interval=metric.difference_interval(item),
                tied=tied(arm, item),
                tests=tests.get(arm, ""),
                bar=drawn.format(" cut" if outside else "", start, end - start, at),
            )
        )
    return Paired(
        rows=rows,
        num_arms=len(known),
        num_tied=sum(tied(arm, item) for arm, item in known),
        num_intervals=sum(item.has_interval for _, item in known),
        zero=f"{place(0.0):.1f}",
        unit=metric.difference_unit,
    )


def _tests(row: Mapping[str, Any]) -> str:
    """Corrected p-values of both tests; empty where there are none."""
    if row.get("p_holm") is None:
        return ""
    words = f"p {p_text(row['p_holm'])}"
    counts = row.get("mcnemar")
    if isinstance(counts, Mapping):
        words += f" · McNemar {p_text(counts.get('p_holm'))}"
    return words


def _holds_zero(item: Estimate) -> bool:
    return item.low is not None and item.high is not None and item.low <= 0 <= item.high
