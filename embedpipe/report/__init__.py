"""One self-contained page that says what was learnt, and shows the figures behind it.

Reads the comparison, the leaderboard and the backbones' cards; writes one HTML file that opens from
disk and asks the network for nothing. Knows nothing of stores, features or heads.
"""

from embedpipe.report.options import ReportOptions
from embedpipe.report.render import render_report

__all__ = ["ReportOptions", "render_report"]
