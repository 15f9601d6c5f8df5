"""Images of a NumPy file (.npy, .npz) or a Zarr store, here or at an address, with labels in arrays beside them."""

from __future__ import annotations

import os
import zipfile
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from embedpipe.errors import DataError, UnreadableSample
from embedpipe.params import StrictModel
from embedpipe.remote import is_remote
from embedpipe.sources.base import Access
from embedpipe.sources.hdf5 import LAYOUT, RANGE
from embedpipe.sources.pixels import Layout
from embedpipe.sources.places import STORAGE, FileInfo, Files, join, parent_of, suffix_of, unreachable
from embedpipe.sources.stacks import Array, Container, StackSource
from embedpipe.spec import digest

SUFFIXES = (".npy", ".npz", ".zarr")


class ArraysOptions(StrictModel):
    """An array of images."""

    kind: Literal["arrays"] = Field(description="Marks this source.")
    path: str = Field(
        min_length=1,
        description="A .npy or .npz file or a .zarr store, or its address; a relative path starts at the folder of "
        "params.yaml.",
    )
    storage: dict[str, Any] | None = Field(default=None, description=STORAGE)
    images: str = Field(
        default="images",
        min_length=1,
        description="Name of the images in a .npz file or a Zarr group; a .npy has none.",
    )
    layout: Layout = Field(default="auto", description=LAYOUT)
    range: tuple[float, float] | None = Field(default=None, description=RANGE)
    labels: list[str] | dict[str, str] = Field(
        default_factory=list,
        description="Arrays of labels, one value or one row an image: a list of names, or names by column; beside a "
        ".npy they are .npy files in its folder.",
    )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has."""
        return ("image",)


class ArraysSource(StackSource):
    """Rows of an array; a locator is the row."""

    def __init__(self, options: ArraysOptions, access: Access) -> None:
        labels = options.labels
        if isinstance(labels, list):
            labels = {os.path.splitext(name.rsplit("/", 1)[-1])[0]: name for name in labels}
        super().__init__(
            access,
            path=options.path,
            storage=options.storage,
            images=options.images,
            layout=options.layout,
            bounds=options.range,
            labels=labels,
            table=None,
            open_container=open_arrays,
        )
        if suffix_of(self.address) == ".zarr":
            self.files = ZarrFiles(self.files.storage, None)


class ZarrFiles(Files):
    """A store is a folder: it has changed when one of its files has, and is never copied."""

    def info(self, address: str) -> FileInfo:
        """What all files of the store come to."""
        if is_remote(address):
            found = list(self.find(address))
        else:
            found = [
                (os.path.relpath(path, address), super(ZarrFiles, self).info(path))
                for path in sorted(
                    os.path.join(at, name) for at, _, names in os.walk(address) for name in names
                )
            ]
        if not found:
            raise FileNotFoundError(address)
        whole = digest([[name, info.stamp] for name, info in found])
        stamped = all(info.stamp for _, info in found)
        return FileInfo(sum(info.nbytes for _, info in found), whole if stamped else "")


def open_arrays(files: Files, address: str) -> Container:
    """Open an array, or several by name.

    Raises
    ------
    DataError
        If there is none, or it is of another format.
    """
    suffix = suffix_of(address)
    if suffix not in SUFFIXES:
        raise DataError(f"{address}: expected {', '.join(SUFFIXES)}, found suffix {suffix or 'none'!r}")
    try:
        if suffix == ".npy":
            return NpyContainer(files, address)
        return NpzContainer(files, address) if suffix == ".npz" else ZarrContainer(files, address)
    except (FileNotFoundError, UnreadableSample) as error:
        raise DataError(f"{address}: expected {suffix}, found none; check `source.path`") from error


class NpyContainer:
    """One array by any name, mapped where it is local; other names are files in its folder."""

    def __init__(self, files: Files, address: str) -> None:
        self._files, self._address = files, address
        self._images = self._load(address)

    def names(self) -> list[str]:
        return [self._address.rsplit("/", 1)[-1]]

    def get(self, name: str) -> Array | str:
        if suffix_of(name) != ".npy":
            return self._images
        try:
            return self._load(join(parent_of(self._address), name))
        except (FileNotFoundError, UnreadableSample) as error:
            raise KeyError(name) from error

    def chunk_rows(self, name: str) -> int:
        return 1

    def _load(self, address: str) -> npt.NDArray[Any]:
        if self._files.spooling and is_remote(address):
            self._files.copy(address, self._files.info(address))
        path = self._files.path(address)
        try:
            if path is not None:
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            with self._files.open(address) as file:
                loaded: npt.NDArray[Any] = np.load(file, allow_pickle=False)
            return loaded
        except (ValueError, EOFError) as error:
            raise _no_numpy(address, error) from error


class NpzContainer:
    """Arrays by name; each is read whole when it is first asked for."""

    def __init__(self, files: Files, address: str) -> None:
        self._address = address
        try:
            self._loaded = np.load(files.path(address) or files.open(address), allow_pickle=False)
            self._names = sorted(self._loaded.files)
        except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise _no_numpy(address, error) from error
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def names(self) -> list[str]:
        return self._names

    def get(self, name: str) -> Array | str:
        if name not in self._arrays:
            if name not in self._names:
                raise KeyError(name)
            try:
                self._arrays[name] = self._loaded[name]
            except (ValueError, EOFError, zipfile.BadZipFile, OSError) as error:
                raise _no_numpy(f"{self._address}: {name!r}", error) from error
        return self._arrays[name]

    def chunk_rows(self, name: str) -> int:
        return 1


class ZarrContainer:
    """Arrays of a group by path, or one array by any name."""

    def __init__(self, files: Files, address: str) -> None:
        import zarr

        try:
            options = dict(files.storage) if is_remote(address) else None
            self._root = zarr.open(address, mode="r", storage_options=options or None)
        except FileNotFoundError:
            raise
        except Exception as error:
            if is_remote(address):
                raise unreachable(address, error) from error
            raise DataError(
                f"{address}: expected a Zarr store, found something else ({' '.join(str(error).split())[:120]})"
            ) from error

    def names(self) -> list[str]:
        import zarr

        if isinstance(self._root, zarr.Array):
            return [self._root.basename or "images"]
        return sorted(
            name for name, item in self._root.members(max_depth=None) if isinstance(item, zarr.Array)
        )

    def get(self, name: str) -> Array | str:
        import zarr

        if isinstance(self._root, zarr.Array):
            return self._root
        item = self._root[name]
        return item if isinstance(item, zarr.Array) else "a group"

    def chunk_rows(self, name: str) -> int:
        found: Any = self.get(name)
        return int(found.chunks[0])


def _no_numpy(address: str, error: Exception) -> DataError:
    said = " ".join(str(error).split())[:120]
    pickled = (
        "; arrays of objects are pickles, which are never loaded"
        if "pickle" in said or "objects" in said
        else ""
    )
    return DataError(
        f"{address}: expected arrays as NumPy writes them, found something else ({said}){pickled}"
    )
