"""The one table that all arms write: scores of each validation and test sample, and no targets.

Whatever makes predictions (a head, a baseline, direct transfer, a fine-tuned network) writes this table,
and every comparison reads it. A file is a pure function of its contents, byte for byte.
"""

# R draws, N samples, K scores a sample

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedpipe.errors import DataError
from embedpipe.manifest.files import read_parquet, write_parquet
from embedpipe.manifest.kinds import TargetSpec, TaskKind
from embedpipe.manifest.table import read_metadata
from embedpipe.params import did_you_mean
from embedpipe.spec import canonical_json

PREDICTIONS_VERSION = 1
_METADATA = "embedpipe.predictions"
_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("task", _TEXT, nullable=False),
        pa.field("arm", _TEXT, nullable=False),
        pa.field("k_shot", pa.int32(), nullable=False),
        pa.field("draw", pa.int32(), nullable=False),
        pa.field("sample_id", _TEXT, nullable=False),
        pa.field("split", _TEXT, nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True)
class ArmScores:
    """Scores of one arm at one k_shot.

    Attributes
    ----------
    arm : str
    k_shot : int
        Labels a class; 0 means all.
    sample_ids, splits : str arrays [N]
        The same samples in every draw, sorted by split, then id.
    scores : float32 [R, N, K]
        Probabilities in the order of the task's classes or labels; the numbers; or, for dense, the code of the class
        predicted at each place, row by row. R draws; 1 at k_shot 0, but for shuffled labels.
    """

    arm: str
    k_shot: int
    sample_ids: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    scores: npt.NDArray[np.float32]

    @property
    def num_draws(self) -> int:
        return int(self.scores.shape[0])

    @property
    def digest(self) -> str:
        """blake2b-128 over ids, splits and scores, 32 hex digits; any other prediction gives another."""
        state = hashlib.blake2b(digest_size=16)
        for part in (self.arm, str(self.k_shot), *self.sample_ids, *self.splits):
            state.update(part.encode() + b"\0")
        state.update(repr(self.scores.shape).encode())
        state.update(np.ascontiguousarray(self.scores, "<f4").tobytes())
        return state.hexdigest()

    def of_split(self, split: str) -> ArmScores:
        """The same arm on the samples of one split."""
        keep = self.splits == split
        return ArmScores(
            self.arm, self.k_shot, self.sample_ids[keep], self.splits[keep], self.scores[:, keep]
        )

    def at(self, sample_ids: Sequence[str] | npt.NDArray[np.str_]) -> npt.NDArray[np.float32]:
        """Scores of the named samples, in that order, [R, len, K].

        Raises
        ------
        DataError
            If a sample has no prediction; names the first few.
        """
        order = np.argsort(self.sample_ids)
        wanted = np.asarray(sample_ids, dtype=str)
        place = np.searchsorted(self.sample_ids[order], wanted)
        place = np.minimum(place, len(order) - 1)
        found = self.sample_ids[order[place]] == wanted if len(order) else np.zeros(len(wanted), bool)
        if not found.all():
            missing = wanted[~found]
            raise DataError(
                f"arm {self.arm!r}: expected a prediction for {len(wanted)} samples, found none for "
                f"{len(missing)}: {', '.join(missing[:5])}{'…' if len(missing) > 5 else ''}; "
                "train the task again"
            )
        return self.scores[:, order[place]]


@dataclass(frozen=True)
class Predictions:
    """Predictions of every arm of one task.

    Attributes
    ----------
    task : str
    spec : TargetSpec
        What is predicted: the order and number of the scores.
    table : pa.Table
        Columns as in `SCHEMA`, sorted by arm, k_shot, draw, split, sample_id.
    """

    task: str
    spec: TargetSpec
    table: pa.Table

    @property
    def kind(self) -> TaskKind:
        """See `TargetSpec`."""
        return self.spec.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """See `TargetSpec`."""
        return self.spec.classes

    @classmethod
    def from_arms(
        cls, task: str, kind: TaskKind, classes: Sequence[str], arms: Iterable[ArmScores]
    ) -> Predictions:
        """Of a task of classes, or of one number; see `of`."""
        return cls.of(task, TargetSpec(kind, tuple(classes)), arms)

    @classmethod
    def of(cls, task: str, spec: TargetSpec, arms: Iterable[ArmScores]) -> Predictions:
        """Assemble the table; the order in which arms come does not matter."""
        pieces = []
        for scores in sorted(arms, key=lambda one: (one.arm, one.k_shot)):
            order = np.lexsort((scores.sample_ids, scores.splits))
            for draw in range(scores.num_draws):
                pieces.append(_piece(task, scores, draw, order))
        table = pa.concat_tables(pieces) if pieces else SCHEMA.empty_table()
        return cls(task, spec, table.unify_dictionaries().combine_chunks())

    def with_arms_of(self, more: Predictions) -> Predictions:
        """These and those of another table of the same task, of arms that this one lacks."""
        table = pa.concat_tables([self.table, more.table]).unify_dictionaries().combine_chunks()
        return replace(self, table=table)

    def write(self, path: Path) -> None:
        """Write Parquet, atomically; equal predictions give equal bytes."""
        about = {"format_version": PREDICTIONS_VERSION, "task": self.task, **self.spec.to_dict()}
        write_parquet(path, self.table.replace_schema_metadata({_METADATA: canonical_json(about)}))

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """Read what `write` wrote.

        Raises
        ------
        DataError
            If the file is missing, holds no predictions, or is of another format.
        """
        table = read_parquet(path, "run `embedpipe train`")
        about = read_metadata(table, _METADATA, PREDICTIONS_VERSION, path)
        return cls(about["task"], TargetSpec.from_dict(about), table.cast(SCHEMA).combine_chunks())

    @cached_property
    def _rows(self) -> dict[tuple[str, int], tuple[int, int]]:
        """First row and end of each (arm, k_shot)."""
        if len(self.table) == 0:
            return {}
        arm_codes = _codes(self.table, "arm")
        k_shot = self.table["k_shot"].to_numpy()
        starts = np.flatnonzero(np.r_[True, (arm_codes[1:] != arm_codes[:-1]) | (k_shot[1:] != k_shot[:-1])])
        ends = np.r_[starts[1:], len(self.table)]
        names = _names(self.table, "arm")
        rows: dict[tuple[str, int], tuple[int, int]] = {}
        for start, end in zip(starts, ends, strict=True):
            key = (names[arm_codes[start]], int(k_shot[start]))
            if key in rows:
                raise DataError(
                    f"predictions of {self.task!r}: arm {key[0]!r} stands in two places; train the task again"
                )
            rows[key] = (int(start), int(end))
        return rows

    def arms(self) -> list[tuple[str, int]]:
        """(arm, k_shot) of everything in the table, sorted."""
        return sorted(self._rows)

    def has(self, arm: str, k_shot: int) -> bool:
        return (arm, k_shot) in self._rows

    def scores(self, arm: str, k_shot: int = 0) -> ArmScores:
        """Scores of one arm.

        Raises
        ------
        DataError
            If there is no such arm (did you mean), or its draws do not name the same samples.
        """
        if (arm, k_shot) not in self._rows:
            names = sorted({name for name, _ in self._rows})
            if arm in names:
                known = sorted(k for name, k in self._rows if name == arm)
                what = f"has no k_shot {k_shot or 'all'}; it has {', '.join(str(k or 'all') for k in known)}"
            else:
                what = f"is not among its {len(names)} arms{did_you_mean(arm, names)}"
            raise DataError(f"predictions of {self.task!r}: arm {arm!r} {what}")
        start, end = self._rows[arm, k_shot]
        part = self.table.slice(start, end - start).combine_chunks()
        num_draws = len(np.unique(part["draw"].to_numpy()))
        num_samples = len(part) // num_draws
        ids = _codes(part, "sample_id").reshape(-1)
        lists = part["scores"].combine_chunks()
        flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        aligned = num_samples * num_draws == len(part) and len(flat) % len(part) == 0
        if not aligned or (ids.reshape(num_draws, num_samples) != ids[:num_samples]).any():
            raise DataError(
                f"predictions of {self.task!r}: the draws of arm {arm!r} name different samples; "
                "train the task again"
            )
        head = slice(0, num_samples)
        return ArmScores(
            arm,
            k_shot,
            np.asarray(_names(part, "sample_id"))[ids[head]],
            np.asarray(_names(part, "split"))[_codes(part, "split")[head]],
            flat.reshape(num_draws, num_samples, -1),
        )

    def matches(self, entry: Mapping[str, Any]) -> bool:
        """Whether `entry` (``arm``, ``predictions_digest``) is about these predictions, at all labels."""
        return self.has(entry["arm"], 0) and self.digest(entry["arm"]) == entry["predictions_digest"]

    def digest(self, arm: str, k_shot: int = 0) -> str:
        """Digest of one arm's predictions, all draws."""
        return self.scores(arm, k_shot).digest


def _piece(task: str, one: ArmScores, draw: int, order: npt.NDArray[np.intp]) -> pa.Table:
    num = len(order)
    width = one.scores.shape[2]
    values = pa.array(one.scores[draw, order].reshape(-1).astype(np.float32))
    offsets = pa.array(np.arange(num + 1, dtype=np.int32) * width)
    columns = [
        _constant(task, num),
        _constant(one.arm, num),
        pa.array(np.full(num, one.k_shot, np.int32)),
        pa.array(np.full(num, draw, np.int32)),
        pa.array(one.sample_ids[order].tolist(), pa.string()).dictionary_encode().cast(_TEXT),
        pa.array(one.splits[order].tolist(), pa.string()).dictionary_encode().cast(_TEXT),
        pa.ListArray.from_arrays(offsets, values),
    ]
    return pa.table(columns, schema=SCHEMA)


def _constant(text: str, num: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(num, np.int32)), pa.array([text], pa.string()))


def _codes(table: pa.Table, column: str) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = _one_chunk(table, column).indices.to_numpy(zero_copy_only=False)
    return codes


def _names(table: pa.Table, column: str) -> list[str]:
    names: list[str] = _one_chunk(table, column).dictionary.to_pylist()
    return names


def _one_chunk(table: pa.Table, column: str) -> pa.DictionaryArray:
    chunks = table[column].unify_dictionaries().combine_chunks()
    return chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks
