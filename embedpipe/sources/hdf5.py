"""Images of an HDF5 file, here or at an address: a data set of them, labels in others or in an attribute table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from embedpipe.errors import DataError, UnreadableSample
from embedpipe.params import StrictModel
from embedpipe.remote import is_remote
from embedpipe.sources.base import Access
from embedpipe.sources.pixels import Layout
from embedpipe.sources.places import STORAGE, Files
from embedpipe.sources.stacks import Array, Container, StackSource

if TYPE_CHECKING:
    import h5py

RANGE = "Values that are black and white, such as [0, 255]; null: 0 to 1 for floats, the whole range of uint8, uint16."
LAYOUT = "Order of axes: NHW, NHWC or NCHW; auto tells by which axis has 1, 3 or 4 channels."


class Hdf5Options(StrictModel):
    """A data set of images in an HDF5 file."""

    kind: Literal["hdf5"] = Field(description="Marks this source.")
    path: str = Field(
        min_length=1,
        description="The file, or its address; a relative path starts at the folder of params.yaml.",
    )
    storage: dict[str, Any] | None = Field(default=None, description=STORAGE)
    images: str = Field(
        default="images", min_length=1, description="Data set of the images, by its path in the file."
    )
    layout: Layout = Field(default="auto", description=LAYOUT)
    range: tuple[float, float] | None = Field(default=None, description=RANGE)
    labels: list[str] | dict[str, str] = Field(
        default_factory=list,
        description="Data sets of labels, one value or one row an image: a list of paths, or paths by the name of the "
        "column.",
    )
    table: str | None = Field(
        default=None,
        description="Attribute table: a compound data set, or a group of data sets, whose fields are label columns.",
    )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has."""
        return ("image",)


class Hdf5Source(StackSource):
    """Rows of a data set; a locator is the row."""

    def __init__(self, options: Hdf5Options, access: Access) -> None:
        super().__init__(
            access,
            path=options.path,
            storage=options.storage,
            images=options.images,
            layout=options.layout,
            bounds=options.range,
            labels=options.labels,
            table=options.table,
            open_container=open_hdf5,
        )


def open_hdf5(files: Files, address: str) -> Container:
    """Open a file for reading.

    Raises
    ------
    DataError
        If there is none, or it is no HDF5.
    """
    import h5py

    path = files.path(address)
    try:
        file = (
            h5py.File(
                path, "r", rdcc_nbytes=1 << 24, locking=False
            )  # network file systems have no locks to trust
            if path is not None
            else h5py.File(files.open(address), "r")
        )
    except (FileNotFoundError, UnreadableSample) as error:
        raise DataError(f"{address}: expected an HDF5 file, found none; check `source.path`") from error
    except OSError as error:
        found = "a folder" if is_a_folder(path) else f"something else ({' '.join(str(error).split())[:120]})"
        raise DataError(f"{address}: expected an HDF5 file, found {found}") from error
    return Hdf5Container(file)


class Hdf5Container:
    """An open file; strings come as text."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def names(self) -> list[str]:
        import h5py

        found: list[str] = []
        self._file.visititems(
            lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
        )
        return sorted(found)

    def get(self, name: str) -> Array | str:
        import h5py

        item = self._file.get(name.strip("/"))
        if item is None:
            raise KeyError(name)
        if not isinstance(item, h5py.Dataset):
            return f"a {type(item).__name__.lower()}"
        array: Array = item.asstr() if h5py.check_string_dtype(item.dtype) else item
        return _Text(array, item) if array is not item else array

    def chunk_rows(self, name: str) -> int:
        chunks = self._file[name.strip("/")].chunks
        return int(chunks[0]) if chunks else 1


class _Text:
    """A data set of strings, decoded."""

    def __init__(self, decoded: Any, item: h5py.Dataset) -> None:
        self._decoded = decoded
        self.shape: tuple[int, ...] = item.shape
        self.dtype = np.dtype(object)

    def __getitem__(self, key: Any) -> Any:
        return self._decoded[key]


def is_a_folder(path: str | None) -> bool:
    """Whether a local path is one."""
    import os

    return path is not None and not is_remote(path) and os.path.isdir(path)
