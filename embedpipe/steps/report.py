"""Step `report`: the page data/report/index.html, from what `compare` wrote and the cards of the stores."""

from __future__ import annotations

import json

from embedpipe.report import render_report
from embedpipe.report.options import ReportOptions
from embedpipe.steps.sections import Sections
from embedpipe.terminal import say
from embedpipe.workspace import Workspace


def write_report(workspace: Workspace) -> None:
    """Write the page."""
    options = Sections(workspace).whole("report", ReportOptions)
    cards = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(workspace.data.glob("features/*/card.json"))
    }
    render_report(
        json.loads(workspace.comparison.read_text(encoding="utf-8")),
        json.loads(workspace.leaderboard.read_text(encoding="utf-8")),
        cards,
        workspace.report,
        options=options,
    )
    say(f"report: {workspace.report.relative_to(workspace.root)}")
