"""Whether a screen would have been right: how its ranking of taps agrees with what trained heads then got.

References
----------
Kendall 1938, "A New Measure of Rank Correlation" (tau-b here, which counts ties). Spearman 1904.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import kendalltau, spearmanr

from embedpipe.evaluate.metrics import sign_of
from embedpipe.screen import SCREENS

FEWEST_TAPS = 3
"""Two taps are ranked right by a coin in half of all cases."""


def audit(
    screened: Sequence[Mapping[str, Any]], trained: Mapping[tuple[str, str], float], metric: str
) -> dict[str, Any]:
    """Compare each screen with trained heads.

    Parameters
    ----------
    screened
        Rows with ``backbone``, ``tap`` and the value of each screen; ``metric`` is that of kNN and ridge.
    trained
        Best validation score of a trained head by (backbone, tap), in the metric that selected.

    Returns
    -------
    dict
        ``num_taps``; ``screens``: for each its ``kendall`` and ``spearman`` correlation (null below three taps,
        or where all are equal), the tap it ranks ``first``, and its ``regret``: what the best head of that tap
        lacks on the best head of all, in the metric's own unit, 0 or more.
    """
    sign = sign_of(metric)
    both = [row for row in screened if math.isfinite(trained.get((row["backbone"], row["tap"]), math.nan))]
    reached = [sign * trained[row["backbone"], row["tap"]] for row in both]
    found: dict[str, Any] = {}
    for name in SCREENS:
        of_screen = 1 if name == "logme" or not both else sign_of(both[0]["metric"])
        pairs = [
            (of_screen * row[name], value, row)
            for row, value in zip(both, reached, strict=True)
            if row[name] is not None
        ]
        if not pairs:
            continue
        first = max(pairs, key=lambda pair: pair[0])
        values, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        found[name] = {
            "kendall": _correlation(kendalltau, values, scores),
            "spearman": _correlation(spearmanr, values, scores),
            "first": {"backbone": first[2]["backbone"], "tap": first[2]["tap"]},
            "regret": max(reached) - first[1],
        }
    return {"num_taps": len(both), "screens": found}


def _correlation(measure: Any, values: Sequence[float], scores: Sequence[float]) -> float | None:
    if len(values) < FEWEST_TAPS or len(set(values)) < 2 or len(set(scores)) < 2:
        return None
    return float(measure(values, scores).statistic)
