"""Options of `datasets:` and `tasks:` in params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from embedpipe.params import StrictModel
from embedpipe.sources.folder import FolderOptions
from embedpipe.sources.glyphs import GlyphsOptions
from embedpipe.sources.sklearn import SklearnOptions
from embedpipe.sources.table import TableOptions

SourceOptions = Annotated[
    FolderOptions | TableOptions | SklearnOptions | GlyphsOptions, Field(discriminator="kind")
]


class SplitOptions(StrictModel):
    """How samples are divided into train, val and test."""

    val: float = Field(
        default=0.15,
        ge=0.0,
        lt=1.0,
        description="Share of the groups that select models; where val is given with the data, it is not "
        "used.",
    )
    test: float = Field(
        default=0.15,
        ge=0.0,
        lt=1.0,
        description="Share of the groups that only the test reads; where test is given with the data, it "
        "is not used.",
    )
    stratify: Literal[False] | str = Field(
        default=False,
        description="Label column whose classes get exact shares; off, since samples then move as the "
        "data grow.",
    )
    column: str | None = Field(
        default=None, description="Label column that holds train, val and test, for data that come split."
    )

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.val + self.test >= 1.0:
            raise ValueError(f"val {self.val} and test {self.test} leave no train; their sum must be below 1")
        if self.column is not None and self.stratify is not False:
            raise ValueError("column and stratify exclude each other: splits are given, or they are made")
        return self


class DatasetOptions(StrictModel):
    """One data set."""

    source: SourceOptions = Field(description="Where its samples are.")
    domain: Literal["target", "source"] = Field(
        default="target",
        description="Whether heads are trained on it (target) or source models are (source).",
    )
    id: str | None = Field(
        default=None,
        description="Column with a stable name for each sample; by default a file's path or a text's own "
        "key.",
    )
    group: str | None = Field(
        default=None,
        description="Label column whose equal values never straddle splits, e.g. a patient or a product.",
    )
    split: SplitOptions = Field(default_factory=SplitOptions, description="Train, val and test.")
    max_failed: float = Field(
        default=0.01,
        ge=0.0,
        le=1.0,
        description="Share of samples that may be unreadable before ingest stops; more is a fault, not "
        "bad luck.",
    )


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
    heads: list[str] | None = Field(default=None, description="Heads to train; all by default.")
    backbones: list[str] | None = Field(default=None, description="Backbones to read; all by default.")

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
