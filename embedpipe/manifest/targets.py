"""The targets of one task: a table of its own, so that fixing a label reruns that task alone.

Written in two files: open targets (train, val, excluded) and sealed ones (test), which only the
test step reads. Both list the same classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedpipe.errors import DataError
from embedpipe.manifest.files import read_parquet, write_parquet
from embedpipe.manifest.table import SPLITS, StrArray, _strings, read_metadata
from embedpipe.spec import canonical_json

TARGETS_VERSION = 1
TaskKind = Literal["classes", "number"]


@dataclass(frozen=True)
class Targets:
    """One label a sample, sorted by sample_id; null where it is missing.

    Attributes
    ----------
    task : str
        Its name in params.yaml.
    kind : str
        ``classes`` or ``number``.
    classes : tuple of str
        Names of all classes of the task, in the order of the codes, whether or not this split has
        them all; empty for numbers.
    table : pa.Table
        Columns sample_id (string), split (string), label (string for classes, float64 for numbers).
    """

    task: str
    kind: TaskKind
    classes: tuple[str, ...]
    table: pa.Table

    @classmethod
    def from_rows(
        cls,
        task: str,
        kind: TaskKind,
        classes: Sequence[str],
        *,
        sample_ids: Sequence[str],
        splits: Sequence[str],
        labels: Sequence[str | float | None],
    ) -> Self:
        """Rows sorted by sample_id."""
        order = sorted(range(len(sample_ids)), key=lambda i: sample_ids[i])
        arrays = [
            pa.array([column[i] for i in order], type=field.type)
            for column, field in zip((sample_ids, splits, labels), _schema(kind), strict=True)
        ]
        return cls(task, kind, tuple(classes), pa.Table.from_arrays(arrays, schema=_schema(kind)))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def sample_ids(self) -> StrArray:
        """Object array of str, shape (N,), sorted."""
        return _strings(self.table, "sample_id")

    @property
    def splits(self) -> StrArray:
        """Object array of ``train``, ``val``, ``test`` or ``excluded``, shape (N,)."""
        return _strings(self.table, "split")

    def codes(self) -> npt.NDArray[np.int64]:
        """Place of each label in `classes`, shape (N,); -1 where it is missing."""
        assert self.kind == "classes", self.kind
        index = pc.index_in(self.table["label"], value_set=pa.array(self.classes, pa.string()))
        codes: npt.NDArray[np.int64] = index.fill_null(-1).to_numpy().astype(np.int64)
        return codes

    def values(self) -> npt.NDArray[np.float64]:
        """Numbers, float64, shape (N,); NaN where one is missing."""
        assert self.kind == "number", self.kind
        values: npt.NDArray[np.float64] = self.table["label"].fill_null(np.nan).to_numpy().astype(np.float64)
        return values

    @property
    def digest(self) -> str:
        """blake2b-128 over kind, ids and labels of the labelled samples, 32 hex digits."""
        state = hashlib.blake2b(self.kind.encode() + b"\0", digest_size=16)
        ids, labels = self.table["sample_id"].to_pylist(), self.table["label"].to_pylist()
        for sample_id, label in zip(ids, labels, strict=True):
            if label is not None:
                text = label if isinstance(label, str) else float(label).hex()
                state.update(f"{len(sample_id)} {len(text)} {sample_id}{text}\0".encode())
        return state.hexdigest()

    def where(self, *, split: str | Sequence[str]) -> Self:
        """The targets of one split, or of several; `classes` stay."""
        wanted = [split] if isinstance(split, str) else list(split)
        assert set(wanted) <= set(SPLITS), wanted
        mask = pc.is_in(self.table["split"], value_set=pa.array(wanted, pa.string()))
        return replace(self, table=self.table.filter(mask))

    def write(self, path: Path) -> None:
        """Write Parquet, atomically; equal targets give equal bytes."""
        about = {
            "format_version": TARGETS_VERSION,
            "task": self.task,
            "kind": self.kind,
            "classes": list(self.classes),
        }
        write_parquet(path, self.table.replace_schema_metadata({"embedpipe.targets": canonical_json(about)}))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises
        ------
        DataError
            If the file is missing, holds no targets, or is of a later format.
        """
        table = read_parquet(path, "run `dvc repro` to make the targets of this task")
        about = read_metadata(table, "embedpipe.targets", TARGETS_VERSION, path)
        kind: TaskKind = about["kind"]
        if kind not in ("classes", "number"):
            raise DataError(f"{path}: expected kind classes or number, found {kind!r}; make the file again")
        return cls(about["task"], kind, tuple(about["classes"]), table.cast(_schema(kind)))


def _schema(kind: TaskKind) -> pa.Schema:
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("label", pa.string() if kind == "classes" else pa.float64()),
        ]
    )
