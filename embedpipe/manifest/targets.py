"""The targets of one task: a table of its own, so that fixing a label reruns that task alone.

Written in two files: open targets (train, val, excluded) and sealed ones (test), which only the
test step reads. Both say the same of what the targets are: kind, classes, names of numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedpipe.errors import DataError
from embedpipe.manifest.files import read_parquet, write_parquet
from embedpipe.manifest.kinds import KINDS, TargetSpec, TaskKind, Truth
from embedpipe.manifest.masks import Masks
from embedpipe.manifest.table import SPLITS, StrArray, _strings, read_metadata
from embedpipe.spec import canonical_json

TARGETS_VERSION = 1


@dataclass(frozen=True)
class Targets:
    """The target of each sample, sorted by sample_id; null where it is missing.

    Attributes
    ----------
    task : str
        Its name in params.yaml.
    spec : TargetSpec
        What the targets are. `classes` lists all classes of the task, whether or not this split has them all.
    table : pa.Table
        Columns sample_id (string), split (string) and label: string for classes; a list of booleans, one a label and
        null where it is unknown, for multilabel; float64 for a number, a list of them for several; the bytes of a PNG
        (see `embedpipe.manifest.masks`) for dense. And weight (float64), where samples count differently in learning.
    """

    task: str
    spec: TargetSpec
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
        labels: Sequence[Any],
        **more: Any,
    ) -> Self:
        """Of what `TargetSpec` says; see `of`."""
        spec = TargetSpec(kind, tuple(classes), **more)
        return cls.of(task, spec, sample_ids=sample_ids, splits=splits, labels=labels)

    @classmethod
    def of(
        cls,
        task: str,
        spec: TargetSpec,
        *,
        sample_ids: Sequence[str],
        splits: Sequence[str],
        labels: Sequence[Any],
    ) -> Self:
        """Rows sorted by sample_id.

        Parameters
        ----------
        labels
            Of each sample: a class; a boolean or None for each label; a number or several; a mask as PNG. None where
            there is none.
        """
        order = sorted(range(len(sample_ids)), key=lambda i: sample_ids[i])
        arrays = [
            pa.array([column[i] for i in order], type=field.type)
            for column, field in zip((sample_ids, splits, labels), _schema(spec), strict=True)
        ]
        return cls(task, spec, pa.Table.from_arrays(arrays, schema=_schema(spec)))

    def weighted(self, sample_ids: Sequence[str], weights: Sequence[float | None]) -> Self:
        """The same with what each sample counts in learning; None of those that nothing is learnt from."""
        by_id = dict(zip(sample_ids, weights, strict=True))
        column = pa.array([by_id[one] for one in self.table["sample_id"].to_pylist()], pa.float64())
        return replace(self, table=self.table.append_column("weight", column))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def kind(self) -> TaskKind:
        """See `TargetSpec`."""
        return self.spec.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """See `TargetSpec`."""
        return self.spec.classes

    @property
    def sample_ids(self) -> StrArray:
        """Object array of str, shape (N,), sorted."""
        return _strings(self.table, "sample_id")

    @property
    def splits(self) -> StrArray:
        """Object array of ``train``, ``val``, ``test`` or ``excluded``, shape (N,)."""
        return _strings(self.table, "split")

    def truth(self, seen: float = 1.0) -> Truth:
        """Targets as an array, of the shape and dtype that `embedpipe.manifest.kinds` lists for the kind.

        Parameters
        ----------
        seen
            For dense: share of the shorter side that the judged square has.
        """
        spec = self.spec
        if spec.kind == "classes":
            return self.codes()
        if spec.kind == "dense":
            assert spec.grid is not None
            return self.masks().on_grid((spec.grid, spec.grid), seen).reshape(len(self), spec.width)
        if not spec.row_shape:
            return self.values()
        truth = spec.missing(len(self))
        for place, row in enumerate(self.table["label"].to_pylist()):
            if row is not None:
                truth[place] = [np.nan if one is None else float(one) for one in row]
        return truth

    def truth_of(self, sample_ids: npt.NDArray[Any], seen: float = 1.0) -> Truth:
        """The same in the order of `sample_ids`; missing where the table has no row."""
        truth = self.spec.missing(len(sample_ids))
        place, found = self.places_of(sample_ids)
        truth[found] = self.truth(seen)[place[found]]
        return truth

    def weight_of(self, sample_ids: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
        """What each sample counts in learning, float64, NaN where nothing is learnt from it; None where all count 1."""
        if "weight" not in self.table.column_names:
            return None
        weight = np.full(len(sample_ids), np.nan)
        place, found = self.places_of(sample_ids)
        weight[found] = self.table["weight"].fill_null(np.nan).to_numpy()[place[found]]
        return weight

    def places_of(self, sample_ids: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Row of each sample, and whether there is one; where there is none the row means nothing."""
        wanted = np.asarray(sample_ids, dtype=str)
        if len(self) == 0:
            return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
        known = np.asarray(self.table["sample_id"].to_pylist(), dtype=str)
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1).astype(np.int64)
        return place, known[place] == wanted

    def masks(self) -> Masks:
        """The masks of a dense task, in the order of the table."""
        assert self.kind == "dense", self.kind
        return Masks(self.table["label"].to_pylist())

    def codes(self) -> npt.NDArray[np.int64]:
        """Place of each label in `classes`, shape (N,); -1 where it is missing."""
        assert self.kind == "classes", self.kind
        index = pc.index_in(self.table["label"], value_set=pa.array(self.classes, pa.string()))
        codes: npt.NDArray[np.int64] = index.fill_null(-1).to_numpy().astype(np.int64)
        return codes

    def values(self) -> npt.NDArray[np.float64]:
        """Numbers of a task of one, float64, shape (N,); NaN where one is missing."""
        assert self.kind == "number" and not self.spec.outputs, self.spec
        values: npt.NDArray[np.float64] = self.table["label"].fill_null(np.nan).to_numpy().astype(np.float64)
        return values

    @property
    def digest(self) -> str:
        """blake2b-128 over kind (and names, where labels do not hold them), ids and labels of the labelled samples."""
        about = canonical_json(self.spec.to_dict()) if self.spec.row_shape else self.kind
        state = hashlib.blake2b(about.encode() + b"\0", digest_size=16)
        ids, labels = self.table["sample_id"].to_pylist(), self.table["label"].to_pylist()
        for sample_id, label in zip(ids, labels, strict=True):
            if label is not None:
                text = _text_of(label)
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
        about = {"format_version": TARGETS_VERSION, "task": self.task, **self.spec.to_dict()}
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
        if about["kind"] not in KINDS:
            raise DataError(
                f"{path}: expected a kind of {', '.join(KINDS)}, found {about['kind']!r}; make the file again"
            )
        spec = TargetSpec.from_dict(about)
        schema = _schema(spec)
        if "weight" in table.column_names:
            schema = schema.append(pa.field("weight", pa.float64()))
        return cls(about["task"], spec, table.cast(schema))


def _schema(spec: TargetSpec) -> pa.Schema:
    of_kind = {
        "classes": pa.string(),
        "multilabel": pa.list_(pa.bool_()),
        "number": pa.list_(pa.float64()) if spec.outputs else pa.float64(),
        "dense": pa.binary(),
    }
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("label", of_kind[spec.kind]),
        ]
    )


def _text_of(label: Any) -> str:
    """One label as a text that no other label of its kind has."""
    if isinstance(label, str):
        return label
    if isinstance(label, bytes):
        return hashlib.blake2b(label, digest_size=16).hexdigest()
    if isinstance(label, list):
        return " ".join("?" if one is None else _text_of(one) for one in label)
    return float(label).hex()
