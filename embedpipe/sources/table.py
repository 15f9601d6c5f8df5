"""A table whose rows are samples: texts in a column, paths of image files in one, or both.

Reads CSV, TSV, Parquet and JSON lines, here or at an address. All other columns are label columns. In a TSV quotes
are literal; in a CSV they enclose fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, Self

from PIL import Image
from pydantic import Field, model_validator

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.manifest.keys import text_key, version_key
from embedpipe.params import StrictModel
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import CONTENT, ETAG, Access, Label, Modality, Scanned, Seen
from embedpipe.sources.files import Check, look_at_all, read_image
from embedpipe.sources.places import STORAGE, base_of, join, locate, parent_of
from embedpipe.sources.rows import Rows, read_rows, stacked


class TableOptions(StrictModel):
    """A table of texts, of paths to images, or of both."""

    kind: Literal["table"] = Field(description="Marks this source.")
    path: str = Field(
        min_length=1,
        description="The table (.csv, .tsv, .parquet, .jsonl) or its address, or a pattern that names several, such "
        "as s3://lake/docs/*.parquet; a relative path starts at the folder of params.yaml.",
    )
    storage: dict[str, Any] | None = Field(default=None, description=STORAGE)
    text: str | None = Field(default=None, description="Column that holds the texts.")
    image: str | None = Field(
        default=None, description="Column that holds paths or addresses of image files."
    )
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

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has."""
        given = {"image": self.image, "text": self.text}
        return tuple(modality for modality, place in given.items() if place is not None)


class TableSource:
    """Rows of one table, or of several. Locators: the row of a text, the path of an image as the table has it.

    Without an id column a text is named by its key (32 hex digits; a repeated text gets ``-2``, ``-3`` …)
    and an image by its path, so that rows may be inserted and reordered. A row with both is named by its image, and
    its locators start with ``image:`` and ``text:``.
    """

    modalities: tuple[Modality, ...]

    def __init__(self, options: TableOptions, access: Access) -> None:
        self.options = options
        self.path = locate(access.root, options.path)
        self.images = parent_of(self.path) if options.images is None else locate(access.root, options.images)
        self.files = access.files(options.storage)
        self.id_column, self.version = access.id_column, access.version
        columns: dict[Modality, str | None] = {"image": options.image, "text": options.text}
        self.columns = {modality: column for modality, column in columns.items() if column is not None}
        self.modalities = tuple(self.columns)
        if options.image is None and self.version == ETAG:
            raise ConfigError(
                "version: expected content or a column, found 'etag', which a text in a table lacks"
            )
        if self.version not in (CONTENT, ETAG) and options.image is None and self.id_column is None:
            raise ConfigError(
                f"version: expected `id:` beside the column {self.version!r}, found none; without it a text is named "
                "by its content"
            )
        self._rows: Rows | None = None
        self._tables: dict[str, Rows] = {}
        self._places: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_rows": None,
            "_tables": {},
            "_places": [],
        }  # another process reads them again

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List every row, in the order of the table."""
        rows = self._rows = self._load()
        names = [name for name in rows.names if name not in (*self.columns.values(), self.id_column)]
        labels = ({name: rows.columns[name][i] for name in names} for i in range(len(rows)))
        given = None if self.id_column is None else self._ids(rows)
        if self.modalities == ("text",):
            yield from self._scan_texts(given, labels, progress)
        elif self.modalities == ("image",):
            yield from self._scan_images(given, labels, known, progress)
        else:
            texts, keys, places = self._content("text"), self._text_keys(given), self._places
            for i, sample in enumerate(self._scan_images(given, labels, known, progress)):
                yield _with_text(sample, f"text:{places[i]}", texts[i], keys[i])
        self.files.sweep()

    def read(self, locator: str) -> Image.Image | str:
        """One text, or one image in mode RGB or L."""
        modality, locator = self._parsed(locator)
        if modality == "image":
            return read_image(self.files, join(self.images, locator))
        return self._read_text(locator)

    def read_encoded(self, locator: str) -> bytes | None:
        """The file of one image; None for a text."""
        modality, locator = self._parsed(locator)
        return self.files.read(join(self.images, locator)) if modality == "image" else None

    def _parsed(self, locator: str) -> tuple[str, str]:
        """Modality, and where it lies."""
        if len(self.modalities) == 1:
            return self.modalities[0], locator
        modality, _, at = locator.partition(":")
        return modality, at

    def _read_text(self, locator: str) -> str:
        name, _, row = locator.rpartition("#")
        address = join(base_of(self.path), name) if name else self.path
        rows = self._tables.get(address)
        if rows is None:
            rows = self._tables[address] = read_rows(address, self.files, fresh=False)
        content = rows.column(self.columns["text"], "source.text")
        if not row.isdecimal() or int(row) >= len(content):
            raise UnreadableSample(f"expected a row of 0 to {len(content) - 1}, found {row!r}")
        text = "" if content[int(row)] is None else str(content[int(row)])
        if not text.strip():
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
        content, keys, places = self._content("text"), self._text_keys(given), self._places
        repeats: Counter[bytes] = Counter()
        for i, (text, key, row_labels) in enumerate(zip(content, keys, labels, strict=True)):
            repeats[key] += 1
            suffix = f"-{repeats[key]}" if repeats[key] > 1 else ""
            sample_id = given[i] if given is not None else key.hex() + suffix
            if text is not None and str(text).strip():
                yield Scanned(sample_id, places[i], key, labels=row_labels)
            else:
                yield Scanned(sample_id, places[i], None, "empty text", row_labels)
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
        addresses = [join(self.images, name) for name in names]
        locators = names if len(self.modalities) == 1 else [f"image:{name}" for name in names]
        looks = (
            self._taken(addresses)
            if self.version not in (CONTENT, ETAG)
            else look_at_all(
                self.files, addresses, locators, self.options.check, self.version, known, progress
            )
        )
        for i, (name, row_labels, seen) in enumerate(zip(names, labels, looks, strict=True)):
            reason = seen.reason if name else "no path"
            key = seen.key if name else None
            yield Scanned(ids[i], locators[i], key, reason, row_labels, stamp=seen.stamp or None)

    def _load(self) -> Rows:
        paths = self.files.glob(self.path)
        if not paths:
            raise DataError(
                f"{self.path}: expected tables, found no file of that pattern; check `source.path`"
            )
        tables = [read_rows(path, self.files) for path in paths]
        rows = stacked(self.path, tables)
        if not len(rows):
            raise DataError(f"{self.path}: expected rows, found a header alone")
        single = paths == [self.path]
        self._places = [
            str(i) if single else f"{path.removeprefix(base_of(self.path)).lstrip('/')}#{i}"
            for path, table in zip(paths, tables, strict=True)
            for i in range(len(table))
        ]
        return rows

    def _taken(self, addresses: list[str]) -> Iterator[Seen]:
        """Images whose identity is a column of the table: they are not looked at."""
        for address, version in zip(addresses, self._versions(), strict=True):
            yield Seen("", version_key(address, version), None)

    def _text_keys(self, given: list[str] | None) -> list[bytes]:
        if self.version in (CONTENT, ETAG):
            return [text_key("" if text is None else str(text)) for text in self._content("text")]
        assert given is not None or self.options.image is not None
        names = given if given is not None else [str(name) for name in self._content("image")]
        return [
            version_key(f"{self.path}#{self.columns['text']}", name, version)
            for name, version in zip(names, self._versions(), strict=True)
        ]

    def _versions(self) -> list[str]:
        assert self._rows is not None
        values = self._rows.column(self.version, "version")
        empty = [i for i, value in enumerate(values) if value is None or str(value) == ""]
        if empty:
            raise DataError(
                f"{self.path}: version: expected a value in each row, found {len(empty):,} rows without one in column "
                f"{self.version!r} (first: row {empty[0] + 1})"
            )
        return [str(value) for value in values]

    def _content(self, modality: Modality) -> list[Label]:
        assert self._rows is not None
        return self._rows.column(self.columns[modality], f"source.{modality}")

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


def _with_text(sample: Scanned, locator: str, text: Label, key: bytes) -> Scanned:
    """A sample of an image with its text; unreadable where either is."""
    if sample.key is None:
        return sample
    if text is None or not str(text).strip():
        return replace(sample, key=None, reason="empty text", stamp=None)
    return replace(sample, also={"text": (key, locator)})
