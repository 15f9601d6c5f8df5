"""The manifest: the samples of one data set, each with its key, domain, group, split and locator.

Reads and writes `samples.parquet`. Holds no labels: fixing one must not touch what is embedded.
Knows nothing of sources: a locator is a text that only the data set's source understands.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedpipe.errors import DataError
from embedpipe.manifest.files import read_parquet, write_parquet
from embedpipe.manifest.keys import KEY_NBYTES
from embedpipe.spec import canonical_json

MANIFEST_VERSION = 1
SPLITS = ("train", "val", "test", "excluded")

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("key", pa.binary(KEY_NBYTES), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
    ]
)

StrArray = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Manifest:
    """The readable samples of one data set, sorted by sample_id.

    Attributes
    ----------
    dataset : str
        Its name in params.yaml.
    source : dict
        The source's options as JSON values; with the folder of params.yaml they open the source again.
    modality : str
        ``image``, ``text`` or ``array``.
    table : pa.Table
        Columns as in `SCHEMA`. Build it with `Manifest.from_rows`, which sorts and checks.
    """

    dataset: str
    source: dict[str, Any]
    modality: str
    table: pa.Table

    @classmethod
    def from_rows(
        cls,
        dataset: str,
        source: Mapping[str, Any],
        modality: str,
        *,
        sample_ids: Sequence[str],
        keys: Sequence[bytes],
        domain: str,
        groups: Sequence[str],
        splits: Sequence[str],
        locators: Sequence[str],
    ) -> Self:
        """Sort rows by sample_id (by code point) and check them.

        Raises
        ------
        DataError
            If a sample_id occurs twice; names the first few.
        """
        order = sorted(range(len(sample_ids)), key=lambda i: sample_ids[i])
        repeated = sorted(
            {sample_ids[a] for a, b in itertools.pairwise(order) if sample_ids[a] == sample_ids[b]}
        )
        if repeated:
            raise DataError(
                f"datasets.{dataset}: expected one sample an id, found {len(repeated)} ids more than once "
                f"({', '.join(map(repr, repeated[:3]))}); name a column of unique ids with `id:`"
            )
        assert set(splits) <= set(SPLITS), set(splits)
        columns = [sample_ids, keys, [domain] * len(order), groups, splits, locators]
        arrays = [
            pa.array([column[i] for i in order], type=field.type)
            for column, field in zip(columns, SCHEMA, strict=True)
        ]
        return cls(dataset, dict(source), modality, pa.Table.from_arrays(arrays, schema=SCHEMA))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def sample_ids(self) -> StrArray:
        """Object array of str, shape (N,), sorted."""
        return _strings(self.table, "sample_id")

    @property
    def keys(self) -> npt.NDArray[np.uint8]:
        """uint8 array, shape (N, 16)."""
        column = self.table["key"].combine_chunks()
        if not len(column):
            return np.zeros((0, KEY_NBYTES), np.uint8)
        packed = np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(-1, KEY_NBYTES)
        return packed[column.offset : column.offset + len(column)]

    @property
    def domains(self) -> StrArray:
        """Object array of ``target`` or ``source``, shape (N,)."""
        return _strings(self.table, "domain")

    @property
    def groups(self) -> StrArray:
        """Object array of str, shape (N,): samples of one group are resampled and folded together."""
        return _strings(self.table, "group")

    @property
    def splits(self) -> StrArray:
        """Object array of ``train``, ``val``, ``test`` or ``excluded``, shape (N,)."""
        return _strings(self.table, "split")

    @property
    def locators(self) -> StrArray:
        """Object array of str, shape (N,): what the source's `read` takes."""
        return _strings(self.table, "locator")

    def where(self, *, split: str | Sequence[str]) -> Self:
        """The samples of one split, or of several."""
        wanted = [split] if isinstance(split, str) else list(split)
        assert set(wanted) <= set(SPLITS), wanted
        mask = pc.is_in(self.table["split"], value_set=pa.array(wanted, pa.string()))
        return replace(self, table=self.table.filter(mask))

    def write(self, path: Path) -> None:
        """Write Parquet, atomically; equal manifests give equal bytes."""
        about = {
            "format_version": MANIFEST_VERSION,
            "dataset": self.dataset,
            "modality": self.modality,
            "source": self.source,
        }
        write_parquet(path, self.table.replace_schema_metadata({"embedpipe.manifest": canonical_json(about)}))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises
        ------
        DataError
            If the file is missing, is no manifest, or is of a later format.
        """
        table = read_parquet(path, "run `embedpipe ingest`")
        about = read_metadata(table, "embedpipe.manifest", MANIFEST_VERSION, path)
        return cls(about["dataset"], about["source"], about["modality"], table.cast(SCHEMA))


def read_metadata(table: pa.Table, name: str, version: int, path: Path) -> dict[str, Any]:
    """The JSON that a table carries under `name`, once its format version is known to this code."""
    raw = (table.schema.metadata or {}).get(name.encode())
    if raw is None:
        kind = name.removeprefix("embedpipe.")
        raise DataError(f"{path}: expected a {kind} table, found one without its metadata; make it again")
    about: dict[str, Any] = json.loads(raw)
    if about["format_version"] != version:
        raise DataError(
            f"{path}: expected format version {version}, found {about['format_version']}; "
            "make the file again with this version of embedpipe"
        )
    return about


def _strings(table: pa.Table, column: str) -> StrArray:
    out = np.empty(table.num_rows, dtype=object)
    out[:] = table[column].to_pylist()
    return out
