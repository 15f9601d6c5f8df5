"""Step `report`: the page data/report/index.html, from what `compare` wrote and the cards of the stores."""

from __future__ import annotations

from typing import Any

from embedpipe.evaluate.cost import read_costs
from embedpipe.evaluate.files import read_json
from embedpipe.report import render_report
from embedpipe.report.options import ReportOptions
from embedpipe.steps.sections import Sections
from embedpipe.terminal import say
from embedpipe.workspace import Workspace


def _costs(workspace: Workspace) -> dict[str, list[dict[str, Any]]]:
    """Costs of heads and of transfer arms, by task."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(workspace.data.glob("cost/*.json")):
        found.setdefault(path.stem.removesuffix(".transfer"), []).extend(read_costs(path))
    return found


def write_report(workspace: Workspace) -> None:
    """Write the page."""
    options = Sections(workspace).whole("report", ReportOptions)
    again = "run `embedpipe compare`"
    leaderboard = read_json(workspace.leaderboard, again, keys=("task", "arm", "backbone"))
    # a store may outlive its backbone's entry in params.yaml: the page is about those that were compared
    compared = {row["backbone"] for row in leaderboard}
    cards = {
        path.parent.name: read_json(
            path, f"run `embedpipe extract {path.parent.name}`", keys=("name", "taps")
        )
        for path in sorted(workspace.data.glob("features/*/card.json"))
        if path.parent.name in compared
    }
    render_report(
        read_json(workspace.comparison, again, keys=("headline", "tasks")),
        leaderboard,
        cards,
        workspace.report,
        costs=_costs(workspace),
        options=options,
    )
    say(f"report: {workspace.report.relative_to(workspace.root)}")
