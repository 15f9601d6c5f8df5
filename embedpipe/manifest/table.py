"""The manifest: the samples of one data set, each with its key, domain, group, split and locator.

Reads and writes `samples.parquet`. Holds no labels: fixing one must not touch what is embedded.
A sample of several modalities, an image and its text, has a key and a locator for each.
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
        ``image``, ``text`` or ``array``: what `key` and `locator` are of.
    table : pa.Table
        Columns as in `SCHEMA`, and ``key.<modality>`` and ``locator.<modality>`` for each further modality. Build it
        with `Manifest.from_rows`, which sorts and checks.
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
        domain: str | Sequence[str],
        groups: Sequence[str],
        splits: Sequence[str],
        locators: Sequence[str],
        also: Mapping[str, tuple[Sequence[bytes], Sequence[str]]] | None = None,
    ) -> Self:
        """Sort rows by sample_id (by code point) and check them.

        Parameters
        ----------
        also
            Keys and locators of each further modality.

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
        domains = [domain] * len(order) if isinstance(domain, str) else domain
        columns: list[Sequence[Any]] = [sample_ids, keys, domains, groups, splits, locators]
        columns += [column for pair in (also or {}).values() for column in pair]
        schema = _schema(list(also or {}))
        arrays = [
            pa.array([column[i] for i in order], type=field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        return cls(dataset, dict(source), modality, pa.Table.from_arrays(arrays, schema=schema))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def sample_ids(self) -> StrArray:
        """Object array of str, shape (N,), sorted."""
        return _strings(self.table, "sample_id")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What a backbone may embed of each sample; the first decides about duplicates and splits."""
        more = (name.partition(".")[2] for name in self.table.column_names if name.startswith("key."))
        return (self.modality, *more)

    def of(self, modality: str) -> Self:
        """The same samples with the keys and locators of one of their modalities.

        Raises
        ------
        DataError
            If they have no such modality.
        """
        if modality not in self.modalities:
            raise DataError(
                f"datasets.{self.dataset}: expected samples that have {_some(modality)}, found "
                f"{' and '.join(map(_some, self.modalities))} alone"
            )
        table = self.table
        if modality != self.modality:
            for name in ("key", "locator"):
                place = table.schema.get_field_index(name)
                table = table.set_column(place, SCHEMA.field(name), table[f"{name}.{modality}"])
        return replace(self, modality=modality, table=table.select(SCHEMA.names))

    @property
    def keys(self) -> npt.NDArray[np.uint8]:
        """uint8 array, shape (N, 16): of `modality`."""
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
            **({"also": list(self.modalities[1:])} if len(self.modalities) > 1 else {}),
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
        schema = _schema(about.get("also", []))
        return cls(about["dataset"], about["source"], about["modality"], table.cast(schema))


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


def _schema(also: Sequence[str]) -> pa.Schema:
    more = [
        pa.field(f"{name}.{modality}", SCHEMA.field(name).type, nullable=False)
        for modality in also
        for name in ("key", "locator")
    ]
    return pa.schema([*SCHEMA, *more])


def _some(modality: str) -> str:
    return f"{'an' if modality[0] in 'aeiou' else 'a'} {modality}"


def _strings(table: pa.Table, column: str) -> StrArray:
    out = np.empty(table.num_rows, dtype=object)
    out[:] = table[column].to_pylist()
    return out
