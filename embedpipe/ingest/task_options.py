"""Options of `tasks:` in params.yaml. Apart from those of data sets, since training reads these alone."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from embedpipe.manifest.kinds import BoxFormat, TaskKind
from embedpipe.params import StrictModel


class TaskOptions(StrictModel):
    """One task: what heads learn to tell from the features of a data set."""

    on: str = Field(min_length=1, description="Name of the data set.")
    labels: str | list[str] = Field(
        description="A label column of the data set, several as a list, or a table of its own (.csv, .tsv, .parquet, "
        ".jsonl) with ids. For dense: a column of paths to masks, such a table, or a folder of masks whose paths are "
        "those of the images, written with a slash (masks/), or its address.",
    )
    column: str | list[str] | None = Field(
        default=None,
        description="Column of that table, or several as a list; by default the task's name, or the only column beside "
        "the ids.",
    )
    id: str | None = Field(
        default=None, description="Column of that table with sample ids; by default sample_id or id."
    )
    weight: str | None = Field(
        default=None,
        min_length=1,
        description="Column with what each training sample counts in learning, 0 or more: of the table of labels, or "
        "of the data set where labels lie there. knn and sklearn families take none, nor do transfer arms; all "
        "samples are judged alike.",
    )
    kind: TaskKind = Field(
        default="classes",
        description="One of several classes; multilabel: any number of labels a sample, from a list column or several "
        "columns of 0 and 1; one or several numbers to regress; dense: a class at each place, from a mask a sample.",
    )
    separator: str | None = Field(
        default=None,
        min_length=1,
        description="What stands between labels in one text, for multilabel in tables that hold no lists (.csv, .tsv). "
        "An empty text is unknown; the separator alone means no label at all.",
    )
    box: BoxFormat | None = Field(
        default=None,
        description="How four numbers are a box, so that its overlap (mean IoU) is reported: xyxy two corners, xywh a "
        "corner and the size, cxcywh the centre and the size.",
    )
    classes: dict[str, int | list[int]] | None = Field(
        default=None,
        description="For dense: the value of each class in the masks, or several that are one class; by default every "
        "value that occurs is a class named by its number.",
    )
    ignore: list[int] = Field(
        default=[255],
        description="For dense: values of pixels that are of no class; 255 as in Pascal VOC and Cityscapes.",
    )
    masks: str | None = Field(
        default=None,
        description="For dense: folder that relative paths of masks start at; by default that of the table, or of the "
        "data set.",
    )
    grid: int = Field(
        default=16,
        ge=2,
        le=512,
        description="For dense: places a side at which all heads are judged, whatever the grid of their tap; 16 is the "
        "finest of the usual backbones.",
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

    @property
    def table(self) -> str | None:
        """Path of the table of labels, where they lie in one of their own."""
        from embedpipe.sources.rows import is_table

        return self.labels if isinstance(self.labels, str) and is_table(self.labels) else None

    @property
    def folder(self) -> str | None:
        """Folder of masks, where they lie beside the images."""
        is_folder = self.kind == "dense" and isinstance(self.labels, str) and "/" in self.labels
        return str(self.labels) if is_folder and self.table is None else None

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns of the data set."""
        return (self.labels,) if isinstance(self.labels, str) else tuple(self.labels)

    @property
    def table_columns(self) -> tuple[str, ...] | None:
        """Columns of the table of labels, where they are named."""
        if self.column is None:
            return None
        return (self.column,) if isinstance(self.column, str) else tuple(self.column)

    @property
    def values_of_classes(self) -> dict[str, list[int]]:
        """Values in the masks of each class that is named."""
        named = self.classes or {}
        return {name: [one] if isinstance(one, int) else list(one) for name, one in named.items()}

    @field_validator("labels", "column")
    @classmethod
    def _some_and_once(cls, value: str | list[str] | None) -> str | list[str] | None:
        names = [value] if isinstance(value, str) else value
        if names is not None and (not names or "" in names):
            raise ValueError("expected a name or a list of names, found an empty one")
        if names is not None and len(set(names)) < len(names):
            raise ValueError("a column is named twice; name each once")
        return value

    @model_validator(mode="after")
    def _column_needs_a_table(self) -> Self:
        if self.table is None:
            for name in ("column", "id"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} names a column of a table of labels, but labels {self.labels!r} is a "
                        "column of the "
                        "data set; drop it, or give labels a .csv, .tsv, .parquet or .jsonl path"
                    )
        return self

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        of_kind = {"separator": "multilabel", "box": "number"}
        of_kind |= dict.fromkeys(("classes", "ignore", "masks", "grid"), "dense")
        for name, kind in of_kind.items():
            if name in self.model_fields_set and getattr(self, name) is not None and self.kind != kind:
                raise ValueError(f"{name} is for tasks of kind {kind}, found kind {self.kind}; drop it")
        columns = self.label_columns if self.table is None else self.table_columns or ()
        if len(columns) > 1 and self.kind in ("classes", "dense"):
            raise ValueError(f"expected one column for kind {self.kind}, found {len(columns)}")
        if len(columns) > 1 and self.separator is not None:
            raise ValueError("separator parts the labels of one column, found several columns; drop it")
        if self.box is not None and len(columns) not in (1, 4):
            raise ValueError(f"box: expected four columns of numbers, found {len(columns)}")
        if self.kind == "dense":
            self._check_dense()
        return self

    def _check_dense(self) -> None:
        if self.folder is not None and self.masks is not None:
            raise ValueError("masks is where paths in a column start, but labels is a folder; drop masks")
        if self.classes is not None:
            if len(self.classes) < 2:
                raise ValueError(f"classes: expected two classes or more, found {len(self.classes)}")
            values = [value for of_class in self.values_of_classes.values() for value in of_class]
            if len(set(values)) < len(values):
                raise ValueError("classes: a value is of two classes; give it to one")
            both = sorted(set(values) & set(self.ignore)) if "ignore" in self.model_fields_set else []
            if both:
                raise ValueError(f"value {both[0]} is both a class and ignored; drop it from one of them")
