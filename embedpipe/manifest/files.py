"""Write whole files: atomically, and the same bytes for the same content.

A reader sees the old file or the new one, never a part; nothing written depends on the clock.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embedpipe.errors import DataError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: written beside it, fsynced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Replace `path` by `table` as Parquet: equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", version="2.6", store_schema=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_parquet(path: Path, hint: str) -> pa.Table:
    """Read a table.

    Parameters
    ----------
    hint : str
        What makes the file, e.g. ``run ingest``; the error ends with it.

    Raises
    ------
    DataError
        If the file is missing or is no Parquet.
    """
    try:
        return decode_parquet(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; {hint}") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: expected a Parquet file, found something else ({error}); {hint}") from error


def decode_parquet(content: bytes) -> pa.Table:
    """A table from the bytes of a Parquet file, without threads.

    Arrow's read-ahead threads may still run when a short process ends, and then abort it: measured, 3 of
    40 processes that read one table with `pq.read_table` and left at once. Its memory is the system's, to which
    it goes back when it is freed: Arrow's own pool keeps that, twice what the table takes.
    """
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        return pq.ParquetFile(pa.BufferReader(content), pre_buffer=False).read(use_threads=False)
    finally:
        pa.set_memory_pool(pool)
