"""The screen of a task beside what trained heads then got."""

from __future__ import annotations

import math
from typing import Any

from embedpipe.evaluate.arms import ALL
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import sign_of
from embedpipe.screen.audit import audit


def screened(evidence: Evidence) -> dict[str, Any] | None:
    """Every tap with its screens and the best trained head on it, and how well the screens ranked.

    Returns
    -------
    dict
        ``taps``: what training wrote of each, with ``trained`` (best validation figure of a head on it) and
        ``head``; and what `audit` found. None where nothing was screened.
    """
    rows = evidence.about.get("screen")
    if not rows:
        return None
    sign = sign_of(evidence.metric)
    best: dict[tuple[str, str], tuple[float, str]] = {}
    for row in evidence.head_rows(ALL):
        value = evidence.value(row["arm"])
        place = (row["backbone"], row["tap"])
        if row["role"] == "none" or not math.isfinite(value):
            continue
        if place not in best or sign * value > sign * best[place][0]:
            best[place] = (value, row["head"])
    trained = {place: value for place, (value, _) in best.items()}
    taps = [
        {
            **row,
            "trained": trained.get((row["backbone"], row["tap"])),
            "head": best.get((row["backbone"], row["tap"]), (None, None))[1],
        }
        for row in rows
    ]
    return {"taps": taps, **audit(rows, trained, evidence.metric)}
