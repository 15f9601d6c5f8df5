"""Read features by row from a published store or from a working group, here or in an object store.

Rows come in the order asked, in the dtype stored; damage is an error, never other values. A store that is
open may be read by several threads, and in processes that were forked or spawned with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ShapeError, StoreError
from embedpipe.remote import RemoteFolder, is_remote
from embedpipe.spec import BackboneSpec
from embedpipe.store import published
from embedpipe.store.arrays import KEYS_LAYOUT, PART_LAYOUT, ArrayLayout, ArrayReader, layout_of
from embedpipe.store.commit import read_state
from embedpipe.store.group import GROUP, read_info
from embedpipe.store.holes import Holes
from embedpipe.store.join import join
from embedpipe.store.layout import TapState, padded
from embedpipe.store.published import Contents, read_contents


class FeatureStore:
    """Features of one backbone, read-only.

    Attributes
    ----------
    path : Path or RemoteFolder
    spec : BackboneSpec
    taps : dict of name -> TapState
    num_rows : int
    """

    def __init__(self, path: Path | RemoteFolder, contents: Contents) -> None:
        self.path = path
        self.contents = contents
        self._readers: dict[str, ArrayReader] = {}
        # no cached_property: until Python 3.12 it holds a lock, which a process forked meanwhile waits for
        self._keys: npt.NDArray[np.uint8] | None = None
        self._parts: npt.NDArray[np.int32] | None = None

    @classmethod
    def open(cls, path: Path | str, *, storage_options: Mapping[str, Any] | None = None) -> Self:
        """Open a published store or a working group, as it stands now.

        Parameters
        ----------
        path
            A folder, or the address of a published store, e.g. ``s3://bucket/features/r50``. Remote rows are
            read by zarr through fsspec, every inner chunk compared with its checksum each time.
        storage_options
            Of the file system of an address.

        Raises
        ------
        StoreError
            If `path` is neither, or its store.json, group.json or ledger is damaged.
        ConfigError
            If nothing installed reads such addresses.
        """
        if isinstance(path, str) and is_remote(path):
            folder = RemoteFolder(path, storage_options or {})
            return cls(folder, read_contents(cast(Path, folder)))  # reads nothing but bytes
        path = Path(path)
        return cls(path, read_store(path))

    def __getstate__(self) -> dict[str, Any]:
        # what is mapped or connected is opened again in the other process
        return {"path": self.path, "contents": self.contents, "_readers": {}, "_keys": None, "_parts": None}

    @property
    def spec(self) -> BackboneSpec:
        return self.contents.spec

    @property
    def num_rows(self) -> int:
        return self.contents.num_rows

    @property
    def taps(self) -> dict[str, TapState]:
        return self.contents.taps

    @property
    def keys(self) -> npt.NDArray[np.uint8]:
        """Keys of all rows, shape (num_rows, 16)."""
        if self._keys is None:
            self._keys = self._reader(KEYS_LAYOUT).read(0, self.num_rows)
        return self._keys

    @property
    def parts(self) -> npt.NDArray[np.int32]:
        """Part numbers of all rows, shape (num_rows,)."""
        if self._parts is None:
            self._parts = self._reader(PART_LAYOUT).read(0, self.num_rows)
        return self._parts

    def rows_between(self, start: int, stop: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Keys and parts of rows [start, stop), which are not kept as those of `keys` and `parts` are."""
        stop = min(stop, self.num_rows)
        return self._reader(KEYS_LAYOUT).read(start, stop), self._reader(PART_LAYOUT).read(start, stop)

    def tap(self, name: str) -> TapState:
        """The state of one tap.

        Raises
        ------
        StoreError
            If there is none; lists those there are.
        """
        if name not in self.taps:
            raise StoreError(f"{self.path}: no tap {name!r}; it has {', '.join(self.taps) or 'none'}")
        return self.taps[name]

    def holes(self, name: str) -> Holes:
        """Rows of a tap that hold no features, with reasons; among them rows beyond its length."""
        return padded(self.tap(name), self.num_rows).holes

    def rows_of(
        self, keys: npt.NDArray[np.uint8], parts: npt.NDArray[np.int32] | None = None
    ) -> npt.NDArray[np.int64]:
        """Row of each key, shape (n,); -1 where it is absent. `parts`: by default number 0 of each."""
        if parts is None:
            parts = np.zeros(len(keys), np.int32)
        rows = join(self.keys, self.parts, keys, parts).rows.astype(np.int64, copy=False)
        return np.where(rows < self.num_rows, rows, -1)

    def read(
        self, name: str, rows: slice | npt.ArrayLike, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Rows of a tap in stored dtype, shape (n, *row_shape), in the order asked; holes are NaN.

        Rows that lost their key to a damage, and so belong to no sample, are left as they were until `gc`.

        Parameters
        ----------
        rows : slice, or integers below num_rows, repeats allowed
        out : array, shape (n, *row_shape), in stored dtype, optional
            Filled and returned. To read on and on, use one buffer again: fresh memory costs more than the copy.

        Raises
        ------
        StoreError
            If a shard is missing or damaged; names the file.
        ShapeError
            If a row is outside of the store.
        """
        reader = self._readers.get(name) or self._reader(layout_of(self.tap(name)), self.tap(name).num_rows)
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.num_rows)
            if step == 1:
                return reader.read(start, max(start, stop), out)
            rows = np.arange(start, stop, step)
        wanted = np.asarray(rows, np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.num_rows):
            bad = int(wanted[(wanted < 0) | (wanted >= self.num_rows)][0])
            raise ShapeError(f"{self.path}: row {bad}: expected rows 0 to {self.num_rows - 1}")
        if len(wanted) > 1 and wanted[-1] - wanted[0] == len(wanted) - 1 and (np.diff(wanted) == 1).all():
            return reader.read(int(wanted[0]), int(wanted[-1]) + 1, out)
        return reader.gather(wanted, out)

    def release(self, above_nbytes: int = 0, *, num_more: int = 0) -> None:
        """Give back the memory of mapped pages, where they are more than `above_nbytes`.

        Pages are a cache that the system takes back when it needs memory; this keeps a process small before.

        Parameters
        ----------
        num_more
            Rows at random places that are about to be read, whose pages count too.
        """
        for reader in list(self._readers.values()):
            if reader.mapped_nbytes(num_more) > above_nbytes:
                reader.release()

    def _reader(self, layout: ArrayLayout, num_rows: int | None = None) -> ArrayReader:
        if layout.name not in self._readers:
            length = self.num_rows if num_rows is None else num_rows
            self._readers[layout.name] = ArrayReader(self.path, layout, length, self.contents.files)
        return self._readers[layout.name]


def read_store(path: Path) -> Contents:
    """Contents of a published store or of a working group."""
    if (path / GROUP).exists():
        info = read_info(path)
        state = read_state(path)
        return Contents(info.spec, state.num_rows, state.taps, state.files)
    if not path.is_dir():
        raise StoreError(f"{path}: expected a feature store, found nothing there; run extract")
    if not (path / published.NAME).exists():
        raise StoreError(
            f"{path}: expected a feature store, found neither {published.NAME} nor {GROUP}; run extract"
        )
    return read_contents(path)
