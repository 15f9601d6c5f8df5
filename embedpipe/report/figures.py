"""Numbers as a reader should see them.

Knows how each metric is written (percent or plain, which way is better) and turns whatever stands in a
JSON file into a finite number or a dash. Knows nothing of HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DASH = "–"
MINUS = "\u2212"
NARROW_SPACE = "\u202f"

_PERCENT = frozenset({"accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "auroc", "map", "mean_iou"})
_LOWER_IS_BETTER = frozenset({"nll", "brier", "ece", "mae"})
_LABELS = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "map": "mAP",
    "mean_iou": "mean IoU",
    "auroc": "AUROC",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "r2": "R²",
    "mae": "MAE",
}
_FLOOR = {"r2": -0.5}


def number(value: object) -> float | None:
    """A finite float, or None for anything else (NaN, infinities, text, missing)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


@dataclass(frozen=True)
class Estimate:
    """A value and its interval, in the metric's own unit; each may be missing."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        return self.low is not None and self.high is not None

    def numbers(self) -> list[float]:
        return [x for x in (self.low, self.value, self.high) if x is not None]


MISSING = Estimate(None)


def estimate(raw: object) -> Estimate:
    """Read ``{"value", "ci_low", "ci_high"}``; half an interval counts as none."""
    if not isinstance(raw, Mapping):
        return MISSING
    low, high = number(raw.get("ci_low")), number(raw.get("ci_high"))
    if low is None or high is None:
        low = high = None
    return Estimate(number(raw.get("value")), low, high)


@dataclass(frozen=True)
class Metric:
    """How one metric is written.

    Attributes
    ----------
    percent : bool
        Shares are shown as percent and their differences as points.
    lower_is_better : bool
        True for losses.
    """

    name: str
    label: str
    percent: bool
    lower_is_better: bool

    @property
    def floor(self) -> float | None:
        """Below it an axis need not reach: one wild arm would flatten everything else."""
        return _FLOOR.get(self.name)

    @property
    def axis_label(self) -> str:
        unit = " (%)" if self.percent else ""
        return f"{self.label}{unit}{', lower is better' if self.lower_is_better else ''}"

    @property
    def difference_unit(self) -> str:
        return "points" if self.percent else self.label

    def text(self, value: float | None, *, unit: bool = True) -> str:
        """`0.921` of an accuracy is ``92.1 %``."""
        if value is None:
            return DASH
        if self.percent:
            return _sign(f"{value * 100:.1f}") + (f"{NARROW_SPACE}%" if unit else "")
        return plain(value)

    def interval(self, item: Estimate) -> str:
        """``89.0 to 94.2 %``, or a dash."""
        if not item.has_interval:
            return DASH
        return f"{self.text(item.low, unit=False)} to {self.text(item.high)}"

    def with_interval(self, item: Estimate) -> str:
        text = self.text(item.value)
        return f"{text} ({self.interval(item)})" if item.has_interval else text

    def difference(self, value: float | None) -> str:
        """A difference with its sign and without its unit: ``+10.1`` points, ``−0.032``."""
        if value is None:
            return DASH
        text = f"{value * 100:.1f}" if self.percent else plain(value)
        shown = _sign(text)
        return shown if shown.startswith(MINUS) or not shown.strip("0.") else f"+{shown}"

    def difference_interval(self, item: Estimate) -> str:
        if not item.has_interval:
            return DASH
        return f"{self.difference(item.low)} to {self.difference(item.high)}"

    def domain(self, items: Iterable[Estimate]) -> tuple[float, float] | None:
        """Range of an axis that shows all of `items`, or None where no number is known."""
        numbers = [x for item in items for x in item.numbers()]
        if not numbers:
            return None
        low, high = min(numbers), max(numbers)
        if self.floor is not None and low < self.floor < high:
            low = self.floor
        margin = (high - low) * 0.06 or abs(high) * 0.05 or 0.05
        low, high = low - margin, high + margin
        if self.percent:
            low, high = max(low, 0.0), min(high, 1.0)
        return (low, high) if high > low else (low - 0.05, low + 0.05)


def get_metric(name: object) -> Metric:
    """The metric of that name; one never heard of is written plainly, higher taken as better."""
    text = str(name) if name else "score"
    return Metric(
        name=text,
        label=_LABELS.get(text, text.replace("_", " ")),
        percent=text in _PERCENT,
        lower_is_better=text in _LOWER_IS_BETTER,
    )


def plain(value: float) -> str:
    """Three decimals, or three significant digits where those would say too much or nothing."""
    size = abs(value)
    if size == 0:
        return "0.000"
    return _sign(f"{value:.3f}" if 0.0005 <= size < 1000 else f"{value:.3g}")


def count(value: object) -> str:
    """``12 345`` with narrow spaces, or a dash."""
    known = number(value)
    return DASH if known is None else f"{known:,.0f}".replace(",", NARROW_SPACE)


def k_label(k_shot: object) -> str:
    return DASH if k_shot is None else str(k_shot)


def k_words(k_shot: object) -> str:
    """``5 labels a class``, ``all labels``."""
    if k_shot == "all":
        return "all labels"
    return f"{k_label(k_shot)} label{'' if k_shot == 1 else 's'} a class"


def k_order(k_shot: object) -> tuple[int, float, str]:
    """Few labels first, then ``"all"``, then whatever else."""
    known = number(k_shot)
    if known is not None:
        return (0, known, "")
    return (1 if k_shot == "all" else 2, 0.0, str(k_shot))


def params_text(params: object) -> str:
    """``C = 0.1, gamma = scale``."""
    if not isinstance(params, Mapping):
        return ""
    return ", ".join(f"{key} = {_param(value)}" for key, value in params.items())


def _param(value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, float):
        known = number(value)
        return DASH if known is None else _sign(f"{known:.4g}")
    return str(value)


def _sign(text: str) -> str:
    if text.startswith("-"):
        return text[1:] if not text.strip("-0.") else MINUS + text[1:]
    return text
