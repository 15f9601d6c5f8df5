"""Options of `tasks:` in params.yaml. Apart from those of data sets, since training reads these alone."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from embedpipe.params import StrictModel


class TaskOptions(StrictModel):
    """One task: what heads learn to tell from the features of a data set."""

    on: str = Field(min_length=1, description="Name of the data set.")
    labels: str = Field(
        min_length=1,
        description="A label column of the data set, or a table of its own (.csv, .tsv, .parquet, "
        ".jsonl) with ids.",
    )
    column: str | None = Field(
        default=None,
        description="Column of that table; by default the task's name, or the only column beside the ids.",
    )
    id: str | None = Field(
        default=None, description="Column of that table with sample ids; by default sample_id or id."
    )
    kind: Literal["classes", "number"] = Field(
        default="classes", description="One of several classes, or a number to regress."
    )
    max_missing: float = Field(
        default=0.4,
        ge=0.0,
        le=1.0,
        description="Share of samples that may lack a label; a half-empty column is more often a mistake "
        "than meant.",
    )
    unknown_ids: Literal["refuse", "ignore"] = Field(
        default="refuse",
        description="What to do about labels for ids that the data set lacks; refused, since ids that do not "
        "match are how labels get lost.",
    )
    heads: list[str] | None = Field(default=None, min_length=1, description="Heads to train; all by default.")
    backbones: list[str] | None = Field(
        default=None, min_length=1, description="Backbones to read; all by default."
    )

    @model_validator(mode="after")
    def _column_needs_a_table(self) -> Self:
        from embedpipe.sources.rows import is_table

        if not is_table(self.labels):
            for name in ("column", "id"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} names a column of a table of labels, but labels {self.labels!r} is a "
                        "column of the "
                        "data set; drop it, or give labels a .csv, .tsv, .parquet or .jsonl path"
                    )
        return self
