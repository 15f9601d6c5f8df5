"""What scores cost: the files that training writes beside them, and the arms that nothing cheaper beats."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from embedpipe.evaluate.files import read_json

Name = TypeVar("Name", bound=Hashable)


def read_costs(path: Path) -> list[dict[str, Any]]:
    """Rows of `data/cost/<T>.json`; none where training has not written it yet.

    Each holds ``arm``, ``k_shot``, ``seconds``, ``nbytes`` and ``num_parameters``; null where it is not known.
    """
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = read_json(path, "run `embedpipe train`")["arms"]
    return rows


def costs_at_all(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows of the arms trained on every label, by arm."""
    return {row["arm"]: row for row in rows if row["k_shot"] == "all"}


def frontier(points: Mapping[Name, tuple[float, float]]) -> list[Name]:
    """Those that no other beats in cost and score at once, cheapest first.

    Parameters
    ----------
    points
        Cost (less is better) and score (more is better) by name.
    """
    best = -float("inf")
    kept = []
    for name in sorted(points, key=lambda one: (points[one][0], -points[one][1])):
        if points[name][1] > best:
            best = points[name][1]
            kept.append(name)
    return kept
