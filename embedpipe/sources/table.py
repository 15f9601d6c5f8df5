"""A table whose rows are samples: texts in a column, paths of image files in one, or both.

Reads CSV, TSV, Parquet and JSON lines. All other columns are label columns. In a TSV quotes are
literal; in a CSV they enclose fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
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
    """A table of texts, of paths to images, or of both."""

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
    def _text_or_image(self) -> Self:
        if self.text is None and self.image is None:
            raise ValueError(
                "expected `text:`, `image:` or both, the columns that hold the samples, found neither"
            )
        if self.images is not None and self.image is None:
            raise ValueError("`images:` is the folder of the files in an `image:` column; there is none")
        return self


class TableSource:
    """Rows of one table. Locators: the row number of a text, the path of an image as the table has it.

    Without an id column a text is named by its key (32 hex digits; a repeated text gets ``-2``, ``-3`` …)
    and an image by its path, so that rows may be inserted and reordered. A row with both is named by its image, and
    its locators start with ``image:`` and ``text:``.
    """

    modalities: tuple[Modality, ...]

    def __init__(self, options: TableOptions, root: Path, id_column: str | None = None) -> None:
        self.options = options
        self.path = (root / Path(options.path).expanduser()).resolve()
        self.images = (
            self.path.parent
            if options.images is None
            else (root / Path(options.images).expanduser()).resolve()
        )
        self.id_column = id_column
        columns: dict[Modality, str | None] = {"image": options.image, "text": options.text}
        self.columns = {modality: column for modality, column in columns.items() if column is not None}
        self.modalities = tuple(self.columns)
        self._rows: Rows | None = None

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List every row, in the order of the table."""
        rows = self._load()
        names = [name for name in rows.names if name not in (*self.columns.values(), self.id_column)]
        labels = ({name: rows.columns[name][i] for name in names} for i in range(len(rows)))
        given = None if self.id_column is None else self._ids(rows)
        if self.modalities == ("text",):
            yield from self._scan_texts(given, labels, progress)
        elif self.modalities == ("image",):
            yield from self._scan_images(given, labels, known, progress)
        else:
            texts = self._content("text")
            for i, sample in enumerate(self._scan_images(given, labels, known, progress)):
                yield _with_text(sample, str(i), texts[i])

    def read(self, locator: str) -> Image.Image | str:
        """One text, or one image in mode RGB or L."""
        modality: str = self.modalities[0]
        if len(self.modalities) > 1:
            modality, _, locator = locator.partition(":")
        return read_image(self.images / locator) if modality == "image" else self._read_text(locator)

    def _read_text(self, locator: str) -> str:
        content = self._content("text")
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
        given: list[str] | None,
        labels: Iterator[dict[str, Label]],
        progress: Progress,
    ) -> Iterator[Scanned]:
        content = self._content("text")
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
        given: list[str] | None,
        labels: Iterator[dict[str, Label]],
        known: Mapping[str, Seen],
        progress: Progress,
    ) -> Iterator[Scanned]:
        names = ["" if value is None else str(value) for value in self._content("image")]
        ids = given if given is not None else self._ids_from_paths(names)
        paths = [self.images / name for name in names]
        locators = names if len(self.modalities) == 1 else [f"image:{name}" for name in names]
        looks = look_at_all(paths, locators, self.options.check, known, progress)
        for i, (name, row_labels, seen) in enumerate(zip(names, labels, looks, strict=True)):
            reason = seen.reason if name else "no path"
            key = seen.key if name else None
            yield Scanned(ids[i], locators[i], key, reason, row_labels, stamp=seen.stamp or None)

    def _load(self) -> Rows:
        if self._rows is None:
            rows = read_rows(self.path)
            if not len(rows):
                raise DataError(f"{self.path}: expected rows, found a header alone")
            self._rows = rows
        return self._rows

    def _content(self, modality: Modality) -> list[Label]:
        return self._load().column(self.columns[modality], f"source.{modality}")

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


def _with_text(sample: Scanned, row: str, value: Label) -> Scanned:
    """A sample of an image with its text; unreadable where either is."""
    text = "" if value is None else str(value)
    if sample.key is None:
        return sample
    if not text.strip():
        return replace(sample, key=None, reason="empty text", stamp=None)
    return replace(sample, also={"text": (text_key(text), f"text:{row}")})
