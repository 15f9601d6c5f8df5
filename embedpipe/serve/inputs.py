"""New inputs: the images of a folder, one image, or the rows of a table, with the key of each.

What cannot be read is listed with the reason and stays a row. Labels, and folders of classes or splits, mean
nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ConfigError, DataError
from embedpipe.manifest.keys import text_key
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import CONTENT
from embedpipe.sources.decode import image_suffixes
from embedpipe.sources.files import look_at_all, read_image
from embedpipe.sources.folder import list_images
from embedpipe.sources.places import Files
from embedpipe.sources.rows import read_rows

if TYPE_CHECKING:
    from PIL import Image

TABLES = (".csv", ".tsv", ".parquet", ".jsonl")
USUAL: dict[str, tuple[str, ...]] = {"image": ("image", "path", "file", "filename"), "text": ("text",)}
"""Columns that are looked for where none is named."""


@dataclass(frozen=True)
class Inputs:
    """What predictions are wanted for, in order.

    Attributes
    ----------
    names : list of str
        Path in the folder, the id or path that the table has, or the number of a row.
    keys : list of bytes or None
        Of the content, 16 bytes; None where it cannot be read.
    reasons : list of str or None
        Why it cannot be read.
    """

    modality: str
    names: list[str]
    keys: list[bytes | None]
    reasons: list[str | None]
    contents: Sequence[Path] | Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, locator: str) -> Image.Image | str:
        """One input by its number: what a `Source` does, so that a backbone reads it as it reads samples."""
        content = self.contents[int(locator)]
        return read_image(Files(), str(content)) if isinstance(content, Path) else content


def distinct(
    inputs: Inputs, chunk: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Contents of the inputs at `chunk`, each once.

    Parameters
    ----------
    chunk : int64 array, shape (n,)
        Of inputs that have a key.

    Returns
    -------
    keys : uint8 array, shape (n, 16)
    first : int64 array, shape (m,)
        Place in the chunk of one input of each content.
    place_of : int64 array, shape (n,)
        Which of the contents each input has.
    """
    keys = np.array([np.frombuffer(inputs.keys[place] or b"", np.uint8) for place in chunk])
    _, first, place_of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return keys, first, place_of.reshape(-1)


def list_inputs(
    path: Path,
    modality: str,
    *,
    column: str | None = None,
    id_column: str | None = None,
    progress: Progress = silent,
) -> Inputs:
    """List what is at `path`.

    Parameters
    ----------
    path
        A folder of images, an image, or a table (.csv, .tsv, .parquet, .jsonl).
    modality
        What the backbones read.
    column
        Of the table: paths of images, relative to the table, or texts; by default one of the usual names.
    id_column
        Of the table: names of the rows.

    Raises
    ------
    DataError
        If there is nothing there, or nothing of that modality; or the table lacks a column.
    ConfigError
        If columns are named where there is no table.
    """
    if not path.exists():
        raise DataError(f"{path}: expected a folder of images, an image or a table, found nothing there")
    suffix = path.suffix.lower()
    if path.is_file() and suffix in TABLES:
        return _of_table(path, modality, column, id_column, progress)
    if column is not None or id_column is not None:
        raise ConfigError(f"{path}: --column and --id name columns of a table, and this is none")
    if modality != "image":
        raise DataError(
            f"{path}: expected a table of {modality}s ({', '.join(TABLES)}), found something else"
        )
    if path.is_dir():
        names = sorted(list_images(str(path), Files())[0])
        return _images(names, [path / name for name in names], progress)
    if suffix not in image_suffixes():
        raise DataError(
            f"{path}: expected a folder of images, an image or a table ({', '.join(TABLES)}), "
            "found a file of another kind"
        )
    return _images([path.name], [path], progress)


def _of_table(
    path: Path, modality: str, column: str | None, id_column: str | None, progress: Progress
) -> Inputs:
    rows = read_rows(path)
    name = column or next((one for one in USUAL[modality] if one in rows.names), None)
    if name is None:
        raise DataError(
            f"{path}: expected a column of {modality}s named {' or '.join(USUAL[modality])}, found "
            f"{', '.join(rows.names)}; name it with --column"
        )
    values = ["" if value is None else str(value) for value in rows.column(name, "--column")]
    if not values:
        raise DataError(f"{path}: expected rows, found a header alone")
    ids = None if id_column is None else [str(one) for one in rows.column(id_column, "--id")]
    if modality == "image":
        found = _images(ids or values, [path.parent / value for value in values], progress)
        empty = [place for place, value in enumerate(values) if not value]
        for place in empty:
            found.keys[place], found.reasons[place] = None, "no path"
        return found
    blank = [not value.strip() for value in values]
    return Inputs(
        modality,
        ids or [str(place) for place in range(len(values))],
        [None if none else text_key(value) for none, value in zip(blank, values, strict=True)],
        ["empty text" if none else None for none in blank],
        values,
    )


def _images(names: list[str], paths: list[Path], progress: Progress) -> Inputs:
    addresses = [str(path) for path in paths]
    looks = list(look_at_all(Files(), addresses, names, "header", CONTENT, {}, progress))
    return Inputs("image", names, [one.key for one in looks], [one.reason for one in looks], paths)
