"""Options of `datasets:` in params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from embedpipe.params import StrictModel
from embedpipe.sources.base import WindowOptions
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
    rows: WindowOptions | None = Field(
        default=None,
        description="Long texts as windows, several rows a sample; null: a text longer than the backbone takes is cut, "
        "and counted.",
    )
    max_failed: float = Field(
        default=0.01,
        ge=0.0,
        le=1.0,
        description="Share of samples that may be unreadable before ingest stops; more is a fault, not "
        "bad luck.",
    )
