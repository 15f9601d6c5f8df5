"""A table whose rows are samples: texts in a column, or paths of image files in one.

Reads CSV, TSV, Parquet and JSON lines. All other columns are label columns. In a TSV quotes are
literal; in a CSV they enclose fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

from PIL import Image
from pydantic import Field, model_validator

from embedpipe.errors import DataError, UnreadableSample
from embedpipe.manifest.keys import text_key
from embedpipe.params import StrictModel
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import Label, Modality, Scanned, Seen
from embedpipe.sources.files import Check, look_at_all, read_image
from embedpipe.sources.rows import Rows, read_rows


class TableOptions(StrictModel):
    """A table of texts or of paths to images."""

    kind: Literal["table"] = Field(description="Marks this source.")
    path: str = Field(
        min_length=1,
        description="The table (.csv, .tsv, .parquet, .jsonl); a relative path starts at the folder of "
        "params.yaml.",
    )
    text: str | None = Field(default=None, description="Column that holds the texts.")
    image: str | None = Field(default=None, description="Column that holds paths of image files.")
    images: str | None = Field(
        default=None,
        description="Folder that relative paths in the `image` column start at; by default the table's own.",
    )
    check: Check = Field(
        default="header",
        description="How ingest looks at an image file: its header (fast) or all of it (decode: 3 ms a "
        "photograph).",
    )

    @model_validator(mode="after")
    def _one_of_text_and_image(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError(
                "expected one of `text:` and `image:`, the column that holds the samples, "
                f"found {'neither' if self.text is None else 'both'}"
            )
        if self.images is not None and self.image is None:
            raise ValueError("`images:` is the folder of the files in an `image:` column; there is none")
        return self


class TableSource:
    """Rows of one table. Locators: the row number of a text, the path of an image as the table has it.

    Without an id column a text is named by its key (32 hex digits; a repeated text gets ``-2``, ``-3`` …)
    and an image by its path, so that rows may be inserted and reordered.
    """

    modality: Modality

    def __init__(self, options: TableOptions, root: Path, id_column: str | None = None) -> None:
        self.options = options
        self.path = (root / Path(options.path).expanduser()).resolve()
        self.images = (
            self.path.parent
            if options.images is None
            else (root / Path(options.images).expanduser()).resolve()
        )
        self.id_column = id_column
        self.modality = "text" if options.text is not None else "image"
        self._rows: Rows | None = None

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List every row, in the order of the table."""
        rows = self._load()
        content = self._content()
        names = [name for name in rows.names if name not in (self._content_column(), self.id_column)]
        labels = ({name: rows.columns[name][i] for name in names} for i in range(len(rows)))
        given = None if self.id_column is None else self._ids(rows)
        if self.modality == "text":
            yield from self._scan_texts(content, given, labels, progress)
        else:
            yield from self._scan_images(content, given, labels, known, progress)

    def read(self, locator: str) -> Image.Image | str:
        """One text, or one image in mode RGB or L."""
        if self.modality == "image":
            return read_image(self.images / locator)
        content = self._content()
        if not locator.isdecimal() or int(locator) >= len(content):
            raise UnreadableSample(f"expected a row of 0 to {len(content) - 1}, found {locator!r}")
        text = content[int(locator)]
        if not isinstance(text, str) or not text.strip():
            raise UnreadableSample("empty text")
        return text

    def notes(self) -> list[str]:
        return []

    def _scan_texts(
        self,
        content: list[Label],
        given: list[str] | None,
        labels: Iterator[dict[str, Label]],
        progress: Progress,
    ) -> Iterator[Scanned]:
        repeats: Counter[bytes] = Counter()
        for i, (text, row_labels) in enumerate(zip(content, labels, strict=True)):
            text = "" if text is None else str(text)
            key = text_key(text)
            repeats[key] += 1
            suffix = f"-{repeats[key]}" if repeats[key] > 1 else ""
            sample_id = given[i] if given is not None else key.hex() + suffix
            if text.strip():
                yield Scanned(sample_id, str(i), key, labels=row_labels)
            else:
                yield Scanned(sample_id, str(i), None, "empty text", row_labels)
            if i % 1000 == 999 or i + 1 == len(content):
                progress(i + 1, len(content), "texts")

    def _scan_images(
        self,
        content: list[Label],
        given: list[str] | None,
        labels: Iterator[dict[str, Label]],
        known: Mapping[str, Seen],
        progress: Progress,
    ) -> Iterator[Scanned]:
        locators = ["" if value is None else str(value) for value in content]
        ids = given if given is not None else self._ids_from_paths(locators)
        paths = [self.images / locator for locator in locators]
        looks = look_at_all(paths, locators, self.options.check, known, progress)
        for i, (locator, row_labels, seen) in enumerate(zip(locators, labels, looks, strict=True)):
            reason = seen.reason if locator else "no path"
            key = seen.key if locator else None
            yield Scanned(ids[i], locator, key, reason, row_labels, stamp=seen.stamp or None)

    def _load(self) -> Rows:
        if self._rows is None:
            rows = read_rows(self.path)
            if not len(rows):
                raise DataError(f"{self.path}: expected rows, found a header alone")
            self._rows = rows
        return self._rows

    def _content_column(self) -> str:
        column = self.options.text if self.options.text is not None else self.options.image
        assert column is not None
        return column

    def _content(self) -> list[Label]:
        key = "text" if self.modality == "text" else "image"
        return self._load().column(self._content_column(), f"source.{key}")

    def _ids(self, rows: Rows) -> list[str]:
        assert self.id_column is not None
        values = rows.column(self.id_column, "id")
        empty = [i for i, value in enumerate(values) if value is None or str(value) == ""]
        if empty:
            raise DataError(
                f"{self.path}: expected an id in each row, found {len(empty):,} rows without one in column "
                f"{self.id_column!r} (first: row {empty[0] + 1})"
            )
        return [str(value) for value in values]

    def _ids_from_paths(self, locators: list[str]) -> list[str]:
        repeated = [name for name, count in Counter(locators).items() if count > 1]
        if repeated:
            raise DataError(
                f"{self.path}: expected one row a file, found {len(repeated):,} paths in several rows "
                f"({', '.join(map(repr, repeated[:3]))}); name a column of unique ids with `id:`"
            )
        return [locator.replace("\\", "/") for locator in locators]
