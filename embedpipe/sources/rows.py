"""Read CSV, TSV, Parquet and JSON lines, here or at an address, into columns, saying which line is wrong.

Text formats give text, and an empty field is a missing value; Parquet and JSON give what they hold.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from embedpipe.errors import DataError, UnreadableSample
from embedpipe.manifest.files import decode_parquet
from embedpipe.params import did_you_mean
from embedpipe.remote import is_remote
from embedpipe.sources.base import Label, plain
from embedpipe.sources.places import Files, suffix_of

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


@dataclass(frozen=True)
class Rows:
    """Columns of equal length, by name, in the order of the file."""

    path: str
    columns: dict[str, list[Label]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def column(self, name: str, where: str) -> list[Label]:
        """One column.

        Parameters
        ----------
        where : str
            The option that names the column, e.g. ``source.text``.

        Raises
        ------
        DataError
            If the table has no such column; with the near name and all names.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.path}: {where}: no column {name!r}{did_you_mean(name, self.names)}; "
                f"columns: {', '.join(self.names)}"
            )
        return self.columns[name]


def is_table(path: str) -> bool:
    """Whether a name looks like a table file rather than a column."""
    return path.lower().endswith(SUFFIXES)


def read_rows(path: Path | str, files: Files | None = None, *, fresh: bool = True) -> Rows:
    """Read a whole table.

    Parameters
    ----------
    path
        A path, or an address.
    files
        By which an address is read; a copy that is up to date is not fetched again.
    fresh
        Whether to ask an address if its copy still is; else the copy is taken as it is.

    Raises
    ------
    DataError
        If the file is missing, has an unknown suffix, or a line of it is wrong.
    """
    address = str(path)
    suffix = suffix_of(address)
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: expected a table ({', '.join(SUFFIXES)}), found suffix {suffix or 'none'!r}"
        )
    content = _content(address, files or Files(), fresh)
    if suffix == ".parquet":
        return _read_parquet(address, content)
    try:
        with io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="") as file:
            read = _read_json_lines if suffix == ".jsonl" else _read_delimited
            return read(address, file)
    except UnicodeDecodeError as error:
        # text is decoded piece by piece: only the whole file tells which byte it was
        place = _bad_byte(content)
        raise DataError(
            f"{path}: expected UTF-8, found byte 0x{content[place]:02x} at {place}; save the table as UTF-8"
        ) from error


def stacked(pattern: str, tables: Sequence[Rows]) -> Rows:
    """Several tables one after the other; a column that one of them lacks is empty there."""
    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(name for rows in tables for name in rows.names)
    columns: dict[str, list[Label]] = {name: [] for name in names}
    for rows in tables:
        for name, values in columns.items():
            values += rows.columns.get(name) or [None] * len(rows)
    return Rows(pattern, columns)


def _content(address: str, files: Files, fresh: bool) -> bytes:
    try:
        if is_remote(address) and fresh:
            return files.read(files.copy(address, files.info(address)))
        if is_remote(address):
            return files.read(address)
        return Path(address).read_bytes()
    except (FileNotFoundError, IsADirectoryError, UnreadableSample) as error:
        raise DataError(
            f"{address}: expected a table, found no such file; relative paths start at params.yaml"
        ) from error


def _bad_byte(content: bytes) -> int:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _read_delimited(path: str, file: io.TextIOWrapper) -> Rows:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default refuses texts above 128 KiB
    if suffix_of(path) == ".tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file, strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise DataError(f"{path}: expected a header line, found an empty file")
        _refuse_repeated(path, header)
        lists: list[list[Label]] = [[] for _ in header]
        for fields in reader:
            if not fields:
                continue  # a blank line
            if len(fields) != len(header):
                raise DataError(
                    f"{path}: line {reader.line_num}: expected {len(header)} fields "
                    f"({', '.join(header[:4])}{', …' if len(header) > 4 else ''}), found {len(fields)}"
                    + ("; quote fields that hold a comma" if suffix_of(path) == ".csv" else "")
                )
            for values, value in zip(lists, fields, strict=True):
                values.append(value if value != "" else None)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; check its quotes") from error
    return Rows(path, dict(zip(header, lists, strict=True)))


def _read_json_lines(path: str, file: io.TextIOWrapper) -> Rows:
    records: list[dict[str, Label]] = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number}: expected a JSON object, found {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}: line {number}: expected a JSON object, found {type(record).__name__}")
        records.append({name: plain(value) for name, value in record.items()})
    names = dict.fromkeys(name for record in records for name in record)
    return Rows(path, {name: [record.get(name) for record in records] for name in names})


def _read_parquet(path: str, content: bytes) -> Rows:
    try:
        table = decode_parquet(content)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: expected Parquet, found something else ({error})") from error
    _refuse_repeated(path, table.column_names)
    return Rows(path, {name: [plain(v) for v in table[name].to_pylist()] for name in table.column_names})


def _refuse_repeated(path: str, header: list[str]) -> None:
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: expected each column once, found {repeated[0]!r} several times")
