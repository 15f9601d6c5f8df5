"""Masks of a task: read the file of each sample, check it against its image, and turn its pixels into codes.

Reads masks and the images that they lie over; what was read is remembered in the working folder by size and
modification time, so that a mask that has not changed is not opened again. Knows nothing of grids.
"""

# N samples, H W height and width in pixels

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedpipe.errors import DataError, UnreadableSample
from embedpipe.ingest.converted import Converted
from embedpipe.ingest.mask_paths import LOSSY, masks_in_column, masks_in_folder
from embedpipe.ingest.raw import RawLabels
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.files import read_parquet, write_parquet
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.manifest.masks import IGNORED, MOST_CLASSES, encode_mask
from embedpipe.manifest.table import Manifest
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import SPOOL, Source, open_source
from embedpipe.sources.places import Files, suffix_of
from embedpipe.spec import canonical_json

_NUM_THREADS = 8
_CHUNK = 256
_MEMORY_VERSION = 1
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("stamp", pa.string()),
        pa.field("values", pa.list_(pa.int32())),
        pa.field("cell", pa.binary()),
        pa.field("codes", pa.binary()),
    ]
)


@dataclass(frozen=True)
class _Read:
    """One mask: the values that occur in it, its pixels as a PNG of 8 or 16 bits, and as codes where these differ."""

    stamp: str
    values: tuple[int, ...]
    cell: bytes
    codes: bytes | None = None


def mask_targets(
    where: str,
    options: TaskOptions,
    manifest: Manifest,
    raw: RawLabels | None,
    *,
    root: Path,
    memory_path: Path | None = None,
    progress: Progress = silent,
) -> Converted:
    """Targets of a dense task.

    Parameters
    ----------
    raw
        The column of paths; None where masks lie in a folder.
    memory_path
        Where what was read is remembered; nowhere by default.

    Raises
    ------
    DataError
        If a mask is missing, unreadable, of another size than its image, holds a value that is no class, or there are
        more than 255 classes.
    """
    if "image" not in manifest.modalities:
        raise DataError(
            f"{where}: expected a data set of images for kind dense, found {options.on!r} of texts"
        )
    images, files = manifest.of("image"), Files(manifest.source.get("storage") or {})
    if raw is None:
        paths, what = masks_in_folder(where, options, images, files, root), f"folder {options.folder!r}"
        found_in = f"beside data set {options.on!r}"
    else:
        paths = masks_in_column(where, options, images, raw, root)
        what, found_in = raw.words, raw.found_in
    of_classes = options.values_of_classes
    mapping = {value: code for code, values in enumerate(of_classes.values()) for value in values}
    memory = _Memory(memory_path)
    source = open_source(
        manifest.source, root, spool=None if memory_path is None else memory_path.parent / SPOOL
    )
    reads = _read_all(where, paths, images, source, files, memory, progress)
    occurring = sorted({value for read in reads if read is not None for value in read.values})
    ignored = set(options.ignore) - set(mapping)
    if not mapping:
        mapping = {value: code for code, value in enumerate(v for v in occurring if v not in ignored)}
    names = tuple(of_classes or map(str, mapping))
    _refuse_values(where, options, mapping, ignored, reads, images.sample_ids.tolist())
    described = canonical_json(sorted(mapping.items()))
    reads = [read and _coded(read, mapping, again=memory.mapping != described) for read in reads]
    memory.keep(reads, paths, described)
    return Converted(
        TargetSpec("dense", names, grid=options.grid),
        [read and (read.codes or read.cell) for read in reads],
        what,
        found_in,
        present=[
            frozenset(mapping[v] for v in read.values if v in mapping) if read else frozenset()
            for read in reads
        ],
    )


def _read_all(
    where: str,
    paths: Sequence[str | None],
    images: Manifest,
    source: Source,
    files: Files,
    memory: _Memory,
    progress: Progress,
) -> list[_Read | None]:
    """Every mask, from memory where it has not changed."""
    locators, ids, keys = (
        images.locators.tolist(),
        images.sample_ids.tolist(),
        images.table["key"].to_pylist(),
    )
    reads: list[_Read | None] = []

    def read(place: int) -> _Read | str | None:
        path = paths[place]
        if path is None:
            return None
        try:
            info = files.info(path)
            stamp, known = f"{info.stamp} {keys[place].hex()}", memory.known.get(path)
            if known is not None and known.stamp == stamp and info.stamp:
                return known
            return _read(path, stamp, source, files, locators[place])
        except (UnreadableSample, FileNotFoundError) as error:
            reason = str(error) if isinstance(error, UnreadableSample) else "no such file"
            return f"{where}: {path}: the mask of {ids[place]!r}: {reason}"

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, len(paths), _CHUNK):
            for found in pool.map(read, range(start, min(start + _CHUNK, len(paths)))):
                if isinstance(found, str):
                    raise DataError(found)
                reads.append(found)
            progress(len(reads), len(paths), "masks")
    return reads


def _read(path: str, stamp: str, source: Source, files: Files, locator: str) -> _Read:
    """One mask with the values as they are.

    Raises
    ------
    UnreadableSample
        With the reason.
    """
    values_HW = read_values(path, files)
    image = source.read(locator)
    assert not isinstance(image, str)
    if values_HW.shape != (image.height, image.width):
        raise UnreadableSample(
            f"expected the size of its image, {image.width} x {image.height} pixels, found {values_HW.shape[1]} x "
            f"{values_HW.shape[0]}; make them alike"
        )
    return _Read(stamp, tuple(np.unique(values_HW).tolist()), encode_mask(values_HW))


def read_values(path: str, files: Files) -> npt.NDArray[Any]:
    """Values of a mask file, uint8 or uint16 [H, W]: indices of a palette, or grey values.

    Raises
    ------
    UnreadableSample
        If it cannot be read, has several channels that differ, or is of a format that changes values.
    """
    from PIL import Image

    if suffix_of(path) in LOSSY:
        raise UnreadableSample(
            "expected a format that keeps values, such as PNG, found JPEG; export it again"
        )
    try:
        values = np.asarray(Image.open(io.BytesIO(files.fetch(path))))
    except UnreadableSample:
        raise
    except Exception as error:  # decoders raise whatever they like
        raise UnreadableSample(f"expected an image file, found one that cannot be read ({error})") from error
    if values.ndim == 3 and (values[..., :1] == values[..., : min(3, values.shape[2])]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise UnreadableSample(
            f"expected one value a pixel, found {values.shape[2]} channels that differ; save indices of classes, not "
            "colours"
        )
    if values.dtype == bool or values.dtype == np.uint8:
        return values.astype(np.uint8)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise UnreadableSample(
            f"expected whole numbers of 0 to 65,535, found {values.dtype} from {values.min():g}"
        )
    return values.astype(np.uint16)


def _refuse_values(
    where: str,
    options: TaskOptions,
    mapping: Mapping[int, int],
    ignored: set[int],
    reads: Sequence[_Read | None],
    sample_ids: Sequence[str],
) -> None:
    if len(mapping) > MOST_CLASSES:
        raise DataError(
            f"{where}: expected at most {MOST_CLASSES} classes, found {len(mapping):,} values in the masks; are they "
            "photographs, or numbers? name the classes with `classes:`"
        )
    for sample_id, read in zip(sample_ids, reads, strict=True):
        strange = (
            [value for value in read.values if value not in mapping and value not in ignored] if read else []
        )
        if strange:
            raise DataError(
                f"{where}: expected values {', '.join(map(str, sorted(mapping)[:8]))}{', …' * (len(mapping) > 8)} in "
                f"masks, found {strange[0]} in that of {sample_id!r}; add it to {where}.classes or {where}.ignore"
            )


class _Memory:
    """What earlier runs read of masks."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, _Read] = {}
        self.mapping = ""
        if path is not None and path.is_file():
            try:
                table = read_parquet(path, "")
                about = table.schema.metadata or {}
                if about.get(b"version") == str(_MEMORY_VERSION).encode():
                    columns = [table[name].to_pylist() for name in _SCHEMA.names]
                    rows = zip(*columns, strict=True)
                    self.known = {name: _Read(stamp, tuple(v), *cells) for name, stamp, v, *cells in rows}
                    self.mapping = about[b"mapping"].decode()
            except (DataError, OSError, KeyError, pa.ArrowException):
                self.known = {}

    def keep(self, reads: Sequence[_Read | None], paths: Sequence[str | None], mapping: str) -> None:
        """Keep what is known now in place of what was known before."""
        by_path = {path: read for path, read in zip(paths, reads, strict=True) if read is not None and path}
        if self.path is None or (by_path, mapping) == (self.known, self.mapping):
            return
        rows = [(name, one.stamp, list(one.values), one.cell, one.codes) for name, one in by_path.items()]
        arrays = [pa.array([row[i] for row in rows], type=one.type) for i, one in enumerate(_SCHEMA)]
        about = {b"version": str(_MEMORY_VERSION).encode(), b"mapping": mapping.encode()}
        write_parquet(self.path, pa.Table.from_arrays(arrays, schema=_SCHEMA.with_metadata(about)))


def _coded(read: _Read, mapping: Mapping[int, int], *, again: bool) -> _Read:
    """A mask with its codes; none where its values are the same."""
    if all(mapping.get(value, IGNORED) == value for value in read.values):
        return replace(read, codes=None)
    if read.codes is not None and not again:
        return read
    table = np.full(65536, IGNORED, np.uint8)
    table[list(mapping)] = list(mapping.values())
    return replace(read, codes=encode_mask(table[_values_of(read.cell)]))


def _values_of(cell: bytes) -> npt.NDArray[Any]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(cell))).astype(np.int64)
