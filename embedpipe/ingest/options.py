"""Options of `datasets:` in params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from embedpipe.params import StrictModel
from embedpipe.sources.arrays import ArraysOptions
from embedpipe.sources.base import WindowOptions, expanded
from embedpipe.sources.folder import FolderOptions
from embedpipe.sources.glyphs import GlyphsOptions
from embedpipe.sources.hdf5 import Hdf5Options
from embedpipe.sources.python import PythonOptions
from embedpipe.sources.several import SeveralOptions
from embedpipe.sources.sklearn import SklearnOptions
from embedpipe.sources.table import TableOptions
from embedpipe.sources.tar import TarOptions
from embedpipe.sources.torchvision import TorchvisionOptions

SourceOptions = Annotated[
    FolderOptions
    | TableOptions
    | Hdf5Options
    | ArraysOptions
    | TarOptions
    | TorchvisionOptions
    | PythonOptions
    | SklearnOptions
    | GlyphsOptions
    | SeveralOptions,
    Field(discriminator="kind"),
    BeforeValidator(expanded),
]


class DomainOptions(StrictModel):
    """Samples of two domains in one data set."""

    column: str = Field(
        min_length=1,
        description="Label column that tells them apart; `source` names the sources of `several`.",
    )
    source: list[str | int] = Field(
        min_length=1, description="Its values that are the source domain; all others are the target domain."
    )


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
    by: Literal["hash", "domain"] = Field(
        default="hash",
        description="Shares by hash, or train and val on the source domain and test on the target domain; then `test` "
        "is not used.",
    )

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.val + self.test >= 1.0:
            raise ValueError(f"val {self.val} and test {self.test} leave no train; their sum must be below 1")
        if self.column is not None and self.stratify is not False:
            raise ValueError("column and stratify exclude each other: splits are given, or they are made")
        if self.by == "domain" and (self.column is not None or self.stratify is not False):
            raise ValueError(
                "by: domain excludes column and stratify: the domain alone decides about the test"
            )
        return self


class DatasetOptions(StrictModel):
    """One data set."""

    source: SourceOptions = Field(description="Where its samples are.")
    domain: Literal["target", "source"] | DomainOptions = Field(
        default="target",
        description="Whether heads are trained on it (target) or source models are (source); or which of its samples "
        "are of which domain, all of them embedded.",
    )
    id: str | None = Field(
        default=None,
        description="Column with a stable name for each sample; by default a file's path or a text's own "
        "key.",
    )
    version: str = Field(
        default="content",
        min_length=1,
        description="What a sample is identified by, and so how a change is seen: content (what it holds, read by "
        "ingest and again by extract), etag (what the file system says of a file; size and time of change on a disk), "
        "or a column. With etag or a column ingest does not read it.",
    )
    spool: bool = Field(
        default=False,
        description="Whether ingest keeps a copy of what it reads at an address in the working folder, for extract to "
        "read: as much local disk as the data, and each sample is fetched once.",
    )
    feed: str | None = Field(
        default=None,
        description="Table of changes with columns id and op (add, update, delete): ingest looks at the samples that "
        "it names and lists nothing, once it has listed all.",
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

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each of its samples has."""
        return self.source.modalities

    @property
    def is_embedded(self) -> bool:
        """Whether backbones embed it and tasks may be on it."""
        return self.domain != "source"

    @model_validator(mode="after")
    def _has_two_domains(self) -> Self:
        if self.split.by == "domain" and not isinstance(self.domain, DomainOptions):
            raise ValueError(
                "split.by: domain needs to know which samples are of which domain, such as "
                "domain: {column: camera, source: [webcam]}"
            )
        return self
