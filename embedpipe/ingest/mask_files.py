"""Masks of a task: find the file of each sample, check it against its image, and turn its pixels into codes.

Reads masks and the images that they lie over; what was read is remembered in the working folder by size and
modification time, so that a mask that has not changed is not opened again. Knows nothing of grids.
"""

# N samples, H W height and width in pixels

from __future__ import annotations

import os
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
from embedpipe.ingest.labels import text_of
from embedpipe.ingest.raw import RawLabels
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.manifest.files import read_parquet, write_parquet
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.manifest.masks import IGNORED, MOST_CLASSES, encode_mask
from embedpipe.manifest.table import Manifest
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import Source, open_source
from embedpipe.spec import canonical_json

SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Formats that keep every value as it is."""
_LOSSY = (".jpg", ".jpeg")
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
    images = manifest.of("image")
    if raw is None:
        paths, what = _in_folder(where, options, images, root), f"folder {options.folder!r}"
        found_in = f"beside data set {options.on!r}"
    else:
        paths, what, found_in = _in_column(where, options, images, raw, root), raw.words, raw.found_in
    of_classes = options.values_of_classes
    mapping = {value: code for code, values in enumerate(of_classes.values()) for value in values}
    memory = _Memory(memory_path)
    reads = _read_all(where, paths, images, open_source(manifest.source, root), memory, progress)
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


def _in_folder(where: str, options: TaskOptions, images: Manifest, root: Path) -> list[Path | None]:
    """The mask of each image: of the same path below the folder, whatever its suffix."""
    assert options.folder is not None
    folder = (root / Path(options.folder).expanduser()).resolve()
    if not folder.is_dir():
        raise DataError(
            f"{where}.labels: expected a folder of masks, found no folder {folder}; relative paths start at params.yaml"
        )
    by_stem: dict[str, Path] = {}
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES + _LOSSY:
                continue
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if stem in by_stem:
                raise DataError(
                    f"{where}: expected one mask a sample, found {by_stem[stem].name} and {name} in {parent}"
                )
            by_stem[stem] = path
    stems = [_stem(str(locator)) for locator in images.locators]
    if not any(stem in by_stem for stem in stems):
        # of a table of images/1.png, images/2.png ... masks may lie below their folder alone
        shared = os.path.commonpath([os.path.dirname(stem) for stem in stems] or [""])
        stems = [stem.removeprefix(f"{shared}/") if shared else stem for stem in stems]
    found = [by_stem.get(stem) for stem in stems]
    if not any(found):
        example, there = (stems[0] if stems else ""), ", ".join(map(repr, sorted(by_stem)[:3])) or "none"
        raise DataError(
            f"{where}.labels: expected masks named as the images, such as {example + '.png'!r}, found {there} in "
            f"{folder}"
        )
    return found


def _stem(locator: str) -> str:
    return Path(locator.removeprefix("image:")).with_suffix("").as_posix()


def _in_column(
    where: str, options: TaskOptions, images: Manifest, raw: RawLabels, root: Path
) -> list[Path | None]:
    if options.masks is not None:
        folder = root / Path(options.masks).expanduser()
    elif raw.folder is not None:
        folder = raw.folder
    else:
        folder = _source_folder(images.source, root)
    texts = [text_of(value) for value in raw.columns[0]]
    paths = [None if text is None else (folder / Path(text).expanduser()).resolve() for text in texts]
    absent = [path for path in paths if path is not None and not path.is_file()]
    if absent:
        raise DataError(
            f"{where}: expected a mask at each path in {raw.words}, found no file at {len(absent):,} of them "
            f"({', '.join(map(str, absent[:3]))}); correct them, or name the folder they start at with {where}.masks"
        )
    return paths


def _source_folder(source: Mapping[str, Any], root: Path) -> Path:
    """Where the paths of a data set start."""
    if source.get("images"):
        return (root / Path(source["images"]).expanduser()).resolve()
    path = (root / Path(source.get("path") or ".").expanduser()).resolve()
    return path if path.is_dir() else path.parent


def _read_all(
    where: str,
    paths: Sequence[Path | None],
    images: Manifest,
    source: Source,
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
            stat = path.stat()
            stamp = f"{stat.st_size} {stat.st_mtime_ns} {keys[place].hex()}"
            known = memory.known.get(str(path))
            return (
                known
                if known is not None and known.stamp == stamp
                else _read(path, stamp, source, locators[place])
            )
        except UnreadableSample as error:
            return f"{where}: {path}: the mask of {ids[place]!r}: {error}"

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, len(paths), _CHUNK):
            for found in pool.map(read, range(start, min(start + _CHUNK, len(paths)))):
                if isinstance(found, str):
                    raise DataError(found)
                reads.append(found)
            progress(len(reads), len(paths), "masks")
    return reads


def _read(path: Path, stamp: str, source: Source, locator: str) -> _Read:
    """One mask with the values as they are.

    Raises
    ------
    UnreadableSample
        With the reason.
    """
    values_HW = read_values(path)
    image = source.read(locator)
    assert not isinstance(image, str)
    if values_HW.shape != (image.height, image.width):
        raise UnreadableSample(
            f"expected the size of its image, {image.width} x {image.height} pixels, found {values_HW.shape[1]} x "
            f"{values_HW.shape[0]}; make them alike"
        )
    return _Read(stamp, tuple(np.unique(values_HW).tolist()), encode_mask(values_HW))


def read_values(path: Path) -> npt.NDArray[Any]:
    """Values of a mask file, uint8 or uint16 [H, W]: indices of a palette, or grey values.

    Raises
    ------
    UnreadableSample
        If it cannot be read, has several channels that differ, or is of a format that changes values.
    """
    from PIL import Image

    if path.suffix.lower() in _LOSSY:
        raise UnreadableSample(
            "expected a format that keeps values, such as PNG, found JPEG; export it again"
        )
    try:
        with Image.open(path) as image:
            image.load()
            values = np.asarray(image)
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

    def keep(self, reads: Sequence[_Read | None], paths: Sequence[Path | None], mapping: str) -> None:
        """Keep what is known now in place of what was known before."""
        by_path = {str(path): read for path, read in zip(paths, reads, strict=True) if read is not None}
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
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(cell))).astype(np.int64)
