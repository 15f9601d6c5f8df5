"""Write exported rows as HDF5, Parquet, NumPy or safetensors files.

Each holds every tap, with dataset, sample_id, split and part of each row in the same order. Only a folder of
Parquet parts grows by what is new; the others are one array a tap, written again whole, under a temporary name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedpipe.errors import ConfigError, DataError
from embedpipe.export.rows import ExportRows
from embedpipe.spec import canonical_json
from embedpipe.store.disk import telling_full

ROW_GROUP_NBYTES = 64 << 20
ABOUT = "embedpipe.export"


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes
    ----------
    num_rows : int
        Rows that the export holds now.
    num_written : int
        Rows that this run wrote.
    files : tuple of Path
        Files that this run wrote.
    note : str
    """

    num_rows: int
    num_written: int
    files: tuple[Path, ...]
    note: str = ""


def write_export(rows: ExportRows, out: Path, kind: str) -> Exported:
    """Write an export, or what is new of it.

    Raises
    ------
    ConfigError
        If the format is unknown, or `out` holds something else.
    DiskFullError
        If the disk is full; what stood at `out` stays.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format: expected {', '.join(FORMATS)}, found {kind!r}")
    with telling_full(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        return FORMATS[kind](rows, out)


def write_hdf5(rows: ExportRows, out: Path) -> Exported:
    """One file: a data set a tap, with crc (fletcher32) a chunk, and one a column of ids."""
    import h5py

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs[ABOUT] = canonical_json(_about(rows))
            for name, column in _columns(rows).items():
                text = column.dtype.kind == "U"
                dtype = h5py.string_dtype() if text else column.dtype
                file.create_dataset(name, data=column.astype(object) if text else column, dtype=dtype)
            for tap in rows.taps:
                state = rows.store.tap(tap)
                chunk = min(len(rows), max(1, (1 << 20) // state.row_nbytes))
                data = file.create_dataset(
                    tap,
                    (len(rows), *state.row_shape),
                    state.dtype,
                    chunks=(chunk, *state.row_shape),
                    fletcher32=True,
                )
                for start, stop, values in rows.blocks(tap):
                    data[start:stop] = values

    return _whole_file(rows, out, ".h5", write)


def write_safetensors(rows: ExportRows, out: Path) -> Exported:
    """One file: a tensor a tap; ids are JSON lists in its metadata."""

    def write(path: Path) -> None:
        header: dict[str, Any] = {"__metadata__": {ABOUT: canonical_json(_about(rows))}}
        header["__metadata__"] |= {
            name: json.dumps(column.tolist()) for name, column in _columns(rows).items()
        }
        start = 0
        for tap in sorted(rows.taps, key=lambda name: -rows.store.tap(name).dtype.itemsize):
            state = rows.store.tap(tap)
            stop = start + len(rows) * state.row_nbytes
            header[tap] = {
                "dtype": "F16" if state.dtype.itemsize == 2 else "F32",
                "shape": [len(rows), *state.row_shape],
                "data_offsets": [start, stop],
            }
            start = stop
        raw = json.dumps(header, ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)
        with path.open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            for tap in header:
                for _, _, values in rows.blocks(tap) if tap != "__metadata__" else ():
                    file.write(np.ascontiguousarray(values).data)

    return _whole_file(rows, out, ".safetensors", write)


def write_npy(rows: ExportRows, out: Path) -> Exported:
    """A folder: `<tap>.npy` for each tap, and one file a column of ids."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for name, column in _columns(rows).items():
            np.save(folder / f"{name}.npy", column)
        for tap in rows.taps:
            state = rows.store.tap(tap)
            shape = (len(rows), *state.row_shape)
            data = np.lib.format.open_memmap(folder / f"{tap}.npy", "w+", state.dtype, shape)
            for start, stop, values in rows.blocks(tap):
                data[start:stop] = values
            data.flush()
        (folder / "export.json").write_text(canonical_json(_about(rows)) + "\n")

    if out.exists() and not (out / "export.json").is_file():
        raise ConfigError(f"{out}: exists and is no export; name a folder that is not there yet")
    with _replacing(out) as scratch:
        write(scratch)
    files = tuple(sorted(out.iterdir()))
    return Exported(len(rows), len(rows), files, "written whole: an .npy file cannot grow")


def write_parquet(rows: ExportRows, out: Path) -> Exported:
    """A folder of parts: a second export of a grown store adds one part with what is new."""
    about = _about(rows)
    known: set[tuple[str, str, int]] = set()
    parts = sorted(out.glob("part-*.parquet")) if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: expected a folder of Parquet parts, found a file; name another place")
    if out.is_dir() and not parts and any(out.iterdir()):
        raise ConfigError(f"{out}: exists and is no export; name a folder that is not there yet")
    for part in parts:
        known |= _known_in(part, about)
    new = rows.without(known)
    gone = len(known) - (len(rows) - len(new))
    note = f"{gone} rows of earlier parts are not named by the samples any more and stay" if gone else ""
    if not len(new):
        return Exported(len(known), 0, (), note or "nothing is new")
    out.mkdir(exist_ok=True)
    number = int(parts[-1].stem.removeprefix("part-")) + 1 if parts else 0
    path = out / f"part-{number:05d}.parquet"
    with _replacing(path) as scratch:
        _write_part(new, scratch, about)
    return Exported(len(known) + len(new), len(new), (path,), note)


FORMATS: dict[str, Callable[[ExportRows, Path], Exported]] = {
    "hdf5": write_hdf5,
    "parquet": write_parquet,
    "npy": write_npy,
    "safetensors": write_safetensors,
}


def _write_part(rows: ExportRows, path: Path, about: dict[str, Any]) -> None:
    taps = {tap: rows.store.tap(tap) for tap in rows.taps}
    columns = _columns(rows)
    fields = [pa.field(name, pa.int32() if name == "part" else pa.string()) for name in columns]
    for tap, state in taps.items():
        value = pa.float16() if state.dtype.itemsize == 2 else pa.float32()
        width = state.row_nbytes // state.dtype.itemsize
        fields.append(pa.field(tap, pa.list_(value, width), metadata={"shape": json.dumps(state.row_shape)}))
    schema = pa.schema(fields, metadata={ABOUT: canonical_json(about)})
    step = max(1, ROW_GROUP_NBYTES // max(1, sum(state.row_nbytes for state in taps.values())))
    with pq.ParquetWriter(path, schema, compression="zstd", version="2.6") as writer:
        for start in range(0, len(rows), step):
            some = slice(start, min(start + step, len(rows)))
            arrays = [
                pa.array(column[some], type=schema.field(name).type) for name, column in columns.items()
            ]
            for tap, state in taps.items():
                values = rows.store.read(tap, rows.rows[some]).reshape(-1)
                width = state.row_nbytes // state.dtype.itemsize
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values), width))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _known_in(part: Path, about: dict[str, Any]) -> set[tuple[str, str, int]]:
    """(data set, sample_id, part) of the rows of an earlier part, of the same features."""
    try:
        file = pq.ParquetFile(pa.BufferReader(part.read_bytes()), pre_buffer=False)
        found = json.loads((file.schema_arrow.metadata or {})[ABOUT.encode()])
        table = file.read(["dataset", "sample_id", "part"], use_threads=False)
    except (pa.ArrowInvalid, KeyError) as error:
        raise ConfigError(f"{part}: is no part of an export ({error}); name another folder") from error
    for field, value in about.items():
        if found[field] != value:
            raise DataError(
                f"{part}: {field}: expected {value}, found {found[field]}: other features; export to another folder"
            )
    return set(zip(*(table[name].to_pylist() for name in ("dataset", "sample_id", "part")), strict=True))


def _whole_file(rows: ExportRows, out: Path, suffix: str, write: Callable[[Path], None]) -> Exported:
    if out.is_dir():
        raise ConfigError(
            f"{out}: expected a file to write, found a folder; name a file that ends in {suffix}"
        )
    with _replacing(out) as scratch:
        write(scratch)
    return Exported(len(rows), len(rows), (out,), f"written whole: one {suffix} file holds one array a tap")


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A place beside `out` that takes its name once it is written."""
    scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        if out.is_dir():
            shutil.rmtree(out)
        os.replace(scratch, out)
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch)
        scratch.unlink(missing_ok=True)


def _columns(rows: ExportRows) -> dict[str, np.ndarray]:
    return {
        "dataset": rows.datasets,
        "sample_id": rows.sample_ids,
        "split": rows.splits,
        "part": rows.parts,
    }


def _about(rows: ExportRows) -> dict[str, Any]:
    """What two exports must share to be parts of one."""
    return {"fingerprint": rows.store.spec.fingerprint, "taps": list(rows.taps)}
