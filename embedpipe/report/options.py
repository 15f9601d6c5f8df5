"""The `report:` section of params.yaml."""

from __future__ import annotations

from pydantic import Field

from embedpipe.params import StrictModel


class ReportOptions(StrictModel):
    """What the page is called and how much of a long list it shows at once."""

    title: str = Field(
        default="Transfer report",
        min_length=1,
        description="Title of the page and of its browser tab; the default says what it is about.",
    )
    rows: int = Field(
        default=50,
        ge=1,
        le=5000,
        description="Leaderboard rows shown before 'show more', a count; 50 fill about two screens.",
    )
    paired: int = Field(
        default=12,
        ge=1,
        le=500,
        description="Arms compared with the selected arm, nearest first, a count; baselines are added.",
    )
    confusion_classes: int = Field(
        default=40,
        ge=2,
        le=100,
        description=(
            "Classes drawn in a confusion matrix, a count; of more, those with most errors are, "
            "since 40 × 40 cells are what can still be told apart."
        ),
    )
