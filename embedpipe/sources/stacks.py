"""Images that are rows of one array, with labels in arrays beside it: what HDF5, npy, npz and zarr have in common.

A container is opened when it is first read, once a process, and holds its arrays by name. Knows nothing of formats.
"""

# N samples

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.manifest.keys import version_key
from embedpipe.params import did_you_mean
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import CONTENT, ETAG, Access, Label, Modality, Scanned, Seen, plain
from embedpipe.sources.pixels import Layout, PixelFormat
from embedpipe.sources.places import Files, locate
from embedpipe.spec import digest

_BLOCK_NBYTES = 16 << 20
_NUM_BLOCKS = 4  # kept: threads read rows that lie near each other


class Array(Protocol):
    """An array of a container: rows are read by slices."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any) -> Any: ...


class Container(Protocol):
    """Arrays by name, open for reading."""

    def names(self) -> list[str]:
        """Every array, sorted."""
        ...

    def get(self, name: str) -> Array | str:
        """An array, or what there is in its place, in words.

        Raises
        ------
        KeyError
            If there is nothing of that name.
        """
        ...

    def chunk_rows(self, name: str) -> int:
        """Rows that are read at once: those of a compressed chunk, or 1."""
        ...


class StackSource:
    """Images of one array; a sample is named by its row, eight digits, or by an id column.

    Parameters
    ----------
    describe
        What the container is called in messages, e.g. ``an HDF5 file``.
    open_container
        Opens what lies at an address.
    """

    modalities: tuple[Modality, ...] = ("image",)

    def __init__(
        self,
        access: Access,
        *,
        path: str,
        storage: Mapping[str, Any] | None,
        images: str,
        layout: Layout,
        bounds: tuple[float, float] | None,
        labels: Sequence[str] | Mapping[str, str],
        table: str | None,
        open_container: Callable[[Files, str], Container],
    ) -> None:
        self.address = locate(access.root, path)
        self.files = access.files(storage)
        self.id_column, self.version = access.id_column, access.version
        if self.version not in (CONTENT, ETAG) and self.id_column is None:
            raise ConfigError(
                f"version: expected `id:` beside the column {self.version!r}, found none; without it an image is named "
                "by its row, and a row that is inserted would give the others its features"
            )
        self.images, self.layout, self.bounds = images, layout, bounds
        self.labels = (
            dict(labels)
            if isinstance(labels, Mapping)
            else {name.rsplit("/", 1)[-1]: name for name in labels}
        )
        self.table = table
        self._open_container = open_container
        self._opened: tuple[int, Container, PixelFormat] | None = None
        self._blocks: OrderedDict[int, npt.NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_opened": None, "_blocks": OrderedDict()}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List every row in order; where the file has not changed, none is read but labels."""
        try:
            info = self.files.info(self.address)
            if self.files.spooling:
                self.files.copy(self.address, info)
        except (FileNotFoundError, UnreadableSample) as error:
            raise DataError(f"{self.address}: expected a file, found none; check `source.path`") from error
        container, form = self._open(anew=True)
        num = self._array(container, self.images, "source.images").shape[0]
        columns = self._columns(container, num)
        ids = self._ids(columns, num)
        way = digest([self.images, form.layout, form.low, form.high])[:16]
        stamp = f"{info.stamp} {way}" if info.stamp else ""
        versions = self._versions(columns, info.stamp, num)
        if not num:
            raise DataError(f"{self.address}: source.images: expected images, found none in {self.images!r}")
        names = [name for name in columns if name != self.id_column]
        for i in range(num):
            locator = str(i)
            seen = known.get(locator)
            if versions is not None:
                # how values become pixels is a part of what they are: range and layout may be corrected
                seen = Seen("", version_key(f"{self.address}#{way}", ids[i], versions[i]), None)
            elif seen is None or not stamp or seen.stamp != stamp:
                seen = self._look(i, form, stamp)
            labels = {name: columns[name][i] for name in names}
            yield Scanned(ids[i], locator, seen.key, seen.reason, labels, stamp=seen.stamp or None)
            if i % 1000 == 999 or i + 1 == num:
                progress(i + 1, num, "images")
        self.files.sweep()

    def read(self, locator: str) -> Image.Image:
        """One image, mode RGB or L."""
        _, form = self._open()
        return form.image(self._row(int(locator) if locator.isdecimal() else -1))

    def notes(self) -> list[str]:
        return []

    def _look(self, row: int, form: PixelFormat, stamp: str) -> Seen:
        try:
            return Seen(stamp, form.key(self._row(row)), None)
        except UnreadableSample as error:
            return Seen(stamp, None, str(error))

    def _row(self, row: int) -> npt.NDArray[Any]:
        container, _ = self._open()
        array = self._array(container, self.images, "source.images")
        if not 0 <= row < array.shape[0]:
            raise UnreadableSample(f"expected a row of 0 to {array.shape[0] - 1}, found {row}")
        row_nbytes = math.prod(array.shape[1:]) * array.dtype.itemsize
        step = max(1, min(container.chunk_rows(self.images), _BLOCK_NBYTES // max(1, row_nbytes)))
        start = row - row % step
        try:
            if step == 1:
                return np.asarray(array[row])
            with self._lock:
                block = self._blocks.get(start)
            if block is None:
                block = np.asarray(array[start : min(start + step, array.shape[0])])
                with self._lock:
                    self._blocks[start] = block
                    while len(self._blocks) > _NUM_BLOCKS:
                        self._blocks.popitem(last=False)
            image: npt.NDArray[Any] = block[row - start]
            return image
        except Exception as error:  # codecs raise whatever they like
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UnreadableSample(
                f"damaged: row {row} of {self.images!r} cannot be read ({said})"
            ) from error

    def _open(self, *, anew: bool = False) -> tuple[Container, PixelFormat]:
        """The container and the format of its images: opened once a process, for what one has opened forks badly."""
        opened = self._opened
        if opened is None or opened[0] != os.getpid() or anew:
            container = self._open_container(self.files, self.address)
            array = self._array(container, self.images, "source.images")
            where = f"{self.address}: source.images: {self.images!r}"
            form = PixelFormat.of(where, tuple(array.shape), np.dtype(array.dtype), self.layout, self.bounds)
            if opened is not None and opened[0] != os.getpid():
                self._lock = threading.Lock()
            self._blocks = OrderedDict()
            opened = self._opened = (os.getpid(), container, form)
        return opened[1], opened[2]

    def _array(self, container: Container, name: str, where: str) -> Array:
        try:
            found = container.get(name)
        except KeyError as error:
            names = container.names()
            raise DataError(
                f"{self.address}: {where}: no data set {name!r}{did_you_mean(name, names)}; data sets: "
                f"{', '.join(names[:20]) or 'none'}{', …' if len(names) > 20 else ''}"
            ) from error
        if isinstance(found, str):
            raise DataError(f"{self.address}: {where}: expected a data set at {name!r}, found {found}")
        return found

    def _columns(self, container: Container, num: int) -> dict[str, list[Label]]:
        """Label columns, one value a row of the images."""
        columns: dict[str, list[Label]] = {}
        for column, name in self.labels.items():
            array = self._array(container, name, f"source.labels.{column}")
            columns[column] = self._values(array[()] if array.shape == () else array[:], name, num)
        if self.table is not None:
            columns.update(self._attributes(container, self.table, num))
        return columns

    def _attributes(self, container: Container, table: str, num: int) -> dict[str, list[Label]]:
        """Columns of an attribute table: fields of a compound data set, or the data sets of a group."""
        prefix = table.rstrip("/") + "/"
        inside = [name for name in container.names() if name.startswith(prefix)]
        if inside:
            arrays = {
                name.removeprefix(prefix): self._array(container, name, "source.table") for name in inside
            }
            return {
                column: self._values(array[:], f"{prefix}{column}", num) for column, array in arrays.items()
            }
        array = self._array(container, table, "source.table")
        fields = np.dtype(array.dtype).names
        if fields is None:
            raise DataError(
                f"{self.address}: source.table: expected a compound data set or a group of data sets at {table!r}, "
                f"found a data set of {array.dtype}; name a single column under source.labels"
            )
        rows = array[:]
        return {field: self._values(rows[field], f"{table}.{field}", num) for field in fields}

    def _values(self, values: Any, name: str, num: int) -> list[Label]:
        array = np.asarray(values)
        if array.ndim not in (1, 2) or len(array) != num:
            raise DataError(
                f"{self.address}: {name!r}: expected one label, or one list of them, for each of {num:,} images, found "
                f"shape {array.shape}"
            )
        return [plain(value) for value in array.tolist()]

    def _ids(self, columns: Mapping[str, list[Label]], num: int) -> list[str]:
        if self.id_column is None:
            return [f"{i:08d}" for i in range(num)]
        values = self._column(columns, self.id_column, "id")
        empty = [i for i, value in enumerate(values) if value is None or str(value) == ""]
        if empty:
            raise DataError(
                f"{self.address}: expected an id in each row, found {len(empty):,} rows without one in column "
                f"{self.id_column!r} (first: row {empty[0]})"
            )
        return [str(value) for value in values]

    def _versions(self, columns: Mapping[str, list[Label]], stamp: str, num: int) -> list[str] | None:
        """What identifies each row where its content does not."""
        if self.version == CONTENT:
            return None
        if self.version == ETAG:
            if not stamp:
                raise DataError(f"{self.address}: expected an etag, which `version: etag` needs, found none")
            return [stamp] * num
        return [str(value) for value in self._column(columns, self.version, "version")]

    def _column(self, columns: Mapping[str, list[Label]], name: str, where: str) -> list[Label]:
        if name not in columns:
            raise ConfigError(
                f"{where}: no column {name!r}{did_you_mean(name, list(columns))} among source.labels and source.table; "
                f"columns: {', '.join(columns) or 'none'}"
            )
        return columns[name]
