"""What each arm costs beside its score, and the arms that nothing cheaper beats.

Seconds differ from run to run, so these rows go to a plot's file and to the page, never to the leaderboard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from embedpipe.evaluate.arms import ALL
from embedpipe.evaluate.cost import costs_at_all, frontier
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import sign_of

COLUMNS = (
    "task",
    "metric",
    "arm",
    "head",
    "backbone",
    "tap",
    "seconds",
    "nbytes",
    "num_parameters",
    "value",
    "ci_low",
    "ci_high",
    "frontier",
)


def cost_rows(evidence: Evidence, costs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row an arm at all labels, cheapest first; `frontier` is 1 where no arm is cheaper and better.

    Parameters
    ----------
    costs
        Rows of `data/cost/<T>.json`.
    """
    known = costs_at_all(costs)
    sign = sign_of(evidence.metric)
    rows = []
    for row in evidence.rows(ALL):
        cost = known.get(row["arm"])
        value = evidence.value(row["arm"])
        if cost is None or cost["seconds"] is None or not math.isfinite(value):
            continue
        rows.append(
            {
                "task": evidence.task,
                "metric": evidence.metric,
                **{name: row[name] for name in ("arm", "head", "backbone", "tap")},
                **{name: cost[name] for name in ("seconds", "nbytes", "num_parameters")},
                **evidence.judged(row["arm"]).interval(evidence.metric).to_dict(),
            }
        )
    ahead = set(frontier({row["arm"]: (row["seconds"], sign * row["value"]) for row in rows}))
    rows = [{**row, "frontier": int(row["arm"] in ahead)} for row in rows]
    return sorted(rows, key=lambda row: (row["seconds"], row["arm"]))
