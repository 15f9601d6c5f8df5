"""A manifest that stays on disk: its keys at once, the texts of a sample when they are asked for.

As a table in memory a hundred million samples take more than ten gigabytes, of which extraction needs the keys and,
block by block, where to read. Reads `samples.parquet`; knows nothing of sources.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embedpipe.errors import DataError
from embedpipe.manifest.keys import KEY_NBYTES
from embedpipe.manifest.table import MANIFEST_VERSION, read_metadata

KEPT_GROUPS = 2  # row groups of a column that stay decoded: blocks walk through them in order


class ListedSamples:
    """The samples of one data set, sorted by sample_id, without a table in memory.

    Attributes
    ----------
    dataset, source, modality, modalities
        As of a `Manifest`.
    """

    def __init__(self, path: Path, file: pq.ParquetFile, modality: str | None = None) -> None:
        about = read_metadata(file.schema_arrow.empty_table(), "embedpipe.manifest", MANIFEST_VERSION, path)
        self.dataset: str = about["dataset"]
        self.source: dict[str, Any] = about["source"]
        self.modalities: tuple[str, ...] = (about["modality"], *about.get("also", []))
        self.modality: str = modality or self.modalities[0]
        self._path, self._file = path, file
        counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._kept: OrderedDict[tuple[str, int], pa.Array] = OrderedDict()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open what `Manifest.write` wrote.

        Raises
        ------
        DataError
            If the file is missing, is no manifest, or is of a later format.
        """
        hint = "run `embedpipe ingest`"
        try:
            # without read-ahead threads: see `decode_parquet`
            file = pq.ParquetFile(path, pre_buffer=False)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; {hint}") from error
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{path}: expected a Parquet file, found something else ({error}); {hint}"
            ) from error
        return cls(path, file)

    def of(self, modality: str) -> Self:
        """The same samples with the keys and locators of one of their modalities."""
        assert modality in self.modalities, modality
        return type(self)(self._path, self._file, modality)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read_keys(self, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """uint8 array, shape (N, 16); into `out` where it is given."""
        out = np.empty((len(self), KEY_NBYTES), np.uint8) if out is None else out
        for group in range(len(self._starts) - 1):
            column = self._column("key", group)
            packed = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, KEY_NBYTES)
            out[self._starts[group] : self._starts[group + 1]] = packed[
                column.offset : column.offset + len(column)
            ]
        return out

    def take(self, column: str, samples: npt.NDArray[np.integer[Any]]) -> list[str]:
        """Texts of a column, ``sample_id`` or ``locator``, of samples in any order; quick where they lie together."""
        groups = np.searchsorted(self._starts, samples, side="right") - 1
        out = np.empty(len(samples), object)
        for group in np.unique(groups).tolist():
            here = np.flatnonzero(groups == group)
            key = (column, group)
            if key not in self._kept:
                self._kept[key] = self._column(column, group)
                others = [other for other in self._kept if other[0] == column]
                for other in others[:-KEPT_GROUPS]:
                    del self._kept[other]
            self._kept.move_to_end(key)
            out[here] = self._kept[key].take(pa.array(samples[here] - self._starts[group])).to_pylist()
        texts: list[str] = out.tolist()
        return texts

    def _column(self, name: str, group: int) -> pa.Array:
        with _system_memory():
            if name in ("key", "locator") and self.modality != self.modalities[0]:
                name = f"{name}.{self.modality}"
            # a name with a dot would be taken for a part of a nested column
            place = self._file.schema_arrow.get_field_index(name)
            column = self._file.reader.read_row_group(
                group, column_indices=[place], use_threads=False
            ).column(0)
        return column.combine_chunks()


@contextmanager
def _system_memory() -> Iterator[None]:
    """Memory that goes back to the system when it is freed: see `decode_parquet`."""
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(pool)
