"""Moments of features kept on disk by tap, row set and fold: they grow with new samples, for all tasks.

A request for rows that were asked before reads none of them; for those and some more it reads what is new; for
other targets of the same rows it reads each row once for all new tasks together; for corrected labels the rows that
changed. Knows rows by their keys, and nothing of stores or heads. Moments that grew equal those made at once up to
rounding (1e-12), not to the bit.
"""

# N rows asked for, D features, K targets

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedpipe.heads.gram import Gram
from embedpipe.heads.rows import CheckedRows, Index, Rows
from embedpipe.heads.training import OneHot

Targets = np.ndarray | OneHot
MOST_KEPT = 8
"""Row sets kept of one tap, and tasks of one row set; those used longest ago go first."""
NUM_WITNESSES = 8
FEATURES = "features.npz"
MOST_CHANGED = 0.5
"""Share of rows that differ above which starting afresh reads no more."""


@dataclass(frozen=True)
class KeptRows:
    """Some rows of a tap, with the folder that keeps their moments.

    Attributes
    ----------
    whole : Rows
        All rows of the tap.
    keys : uint8 array [n, 16]
        Of all rows, by content.
    index : int64 array
        The rows meant, in order.
    folder : Path
        Of this tap alone: moments in it are found by keys.
    """

    whole: Rows
    keys: npt.NDArray[np.uint8]
    index: Index
    folder: Path

    @classmethod
    def of(cls, rows: Rows, keys: npt.NDArray[np.uint8], folder: Path) -> KeptRows:
        """All rows of a tap."""
        return cls(
            CheckedRows(rows, str(folder)),
            np.ascontiguousarray(keys),
            np.arange(rows.shape[0], dtype=np.int64),
            folder,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows`."""
        return (len(self.index), *self.whole.shape[1:])

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Rows`."""
        yield from self.whole.take(self.index).blocks()

    def gather(self, index: Index) -> np.ndarray:
        """See `Rows`."""
        return self.whole.gather(self.index[index])

    def take(self, index: Index) -> KeptRows:
        """See `Rows`."""
        return KeptRows(self.whole, self.keys, self.index[index], self.folder)

    def moments(
        self, targets: Mapping[str, Targets], folds: np.ndarray | None = None, num_folds: int = 1
    ) -> Gram:
        """Moments of these rows and of the targets of tasks, from what is kept and what must be read."""
        return _Request(self, folds, num_folds).gram(targets)


def moments_of(
    rows: Rows,
    targets: Mapping[str, Targets],
    *,
    folds: np.ndarray | None = None,
    num_folds: int = 1,
    weight: np.ndarray | None = None,
) -> Gram:
    """Moments of rows, kept ones where there are any: weights, and missing labels, get their own."""
    whole = not any(isinstance(one, np.ndarray) and np.isnan(one).any() for one in targets.values())
    if isinstance(rows, KeptRows) and weight is None and whole:
        return rows.moments(targets, folds, num_folds)
    gram = Gram(num_folds)
    for part, block in rows.blocks():
        gram.add(
            block,
            {name: one[part] for name, one in targets.items()},
            folds=None if folds is None else folds[part],
            weight=None if weight is None else weight[part],
        )
    return gram


class _Request:
    """One request: rows by key and fold, in a canonical order."""

    def __init__(self, rows: KeptRows, folds: np.ndarray | None, num_folds: int) -> None:
        self.rows = rows
        self.num_folds = num_folds
        self.folds = np.zeros(len(rows.index), np.int64) if folds is None else folds.astype(np.int64)
        self.ids = _ids(rows.keys[rows.index], self.folds)
        self.order = np.argsort(self.ids)
        self.sorted_ids = self.ids[self.order]
        self.is_set = not (self.sorted_ids[1:] == self.sorted_ids[:-1]).any()

    def gram(self, targets: Mapping[str, Targets]) -> Gram:
        if not self.is_set:  # one content under several ids: rows are no set, and nothing tells them apart
            return self._afresh(targets)
        nearest = self._nearest()
        if nearest is None:
            gram = self._afresh(targets)
            # what is kept of the same rows is damaged, or of a tap that was computed anew
            shutil.rmtree(self._folder, ignore_errors=True)
            self._keep(gram, targets)
            return gram
        folder, gram, have = nearest
        if len(have) != len(self.sorted_ids) or (have != self.sorted_ids).any():
            gram = self._changed(gram, have)
        known = self._known(folder, gram, have, targets)
        new = {name: one for name, one in targets.items() if name not in known}
        if new:
            for part, block in self.rows.blocks():
                for name, one in new.items():
                    gram.learn(name, block, one[part], folds=self.folds[part])
        grown = len(np.setdiff1d(have, self.sorted_ids, assume_unique=True)) == 0
        self._keep(gram, targets, replaces=folder if grown else None)
        return gram

    def _afresh(self, targets: Mapping[str, Targets]) -> Gram:
        gram = Gram(self.num_folds)
        for part, block in self.rows.blocks():
            gram.add(block, {name: one[part] for name, one in targets.items()}, folds=self.folds[part])
        return gram

    def _nearest(self) -> tuple[Path, Gram, np.ndarray] | None:
        """The kept row set that differs in the fewest rows."""
        best: tuple[float, Path, np.ndarray] | None = None
        for folder in self.rows.folder.glob(f"{self.num_folds}-*"):
            found = _load(folder / FEATURES, "ids")
            if found is None:
                continue
            ids = found["ids"]
            common = len(np.intersect1d(ids, self.sorted_ids, assume_unique=True))
            differing = len(ids) + len(self.sorted_ids) - 2 * common
            gone = np.setdiff1d(ids, self.sorted_ids, assume_unique=True)
            if len(gone) and self._positions(gone) is None:
                continue  # rows that are to be taken out lie nowhere any more
            if not self._is_same_tap(folder):
                continue
            if differing <= MOST_CHANGED * len(self.sorted_ids) and (best is None or differing < best[0]):
                best = (differing, folder, ids)
        if best is None:
            return None
        state = _load(best[1] / FEATURES, "shift", "weight", "sum", "gram")
        if state is None:
            return None
        os.utime(best[1])
        return best[1], Gram.of_state(state), best[2]

    def _is_same_tap(self, folder: Path) -> bool:
        """Whether some of the rows, kept as they were, are still the same: else the tap was computed anew."""
        found = _load(folder / FEATURES, "witness_ids", "witness")
        positions = None if found is None else self._positions(found["witness_ids"])
        if found is None or positions is None:
            return False
        return np.array_equal(self.rows.whole.gather(positions), found["witness"])

    def _positions(self, ids: np.ndarray) -> np.ndarray | None:
        """Where rows of these keys lie among all rows of the tap; None where one does not."""
        keys = _ids(self.rows.keys, None)
        order = np.argsort(keys)
        wanted = _keys_of(ids)
        place = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
        found = order[place]
        return found if (keys[found] == wanted).all() else None

    def _changed(self, gram: Gram, have: np.ndarray) -> Gram:
        gone = np.setdiff1d(have, self.sorted_ids, assume_unique=True)
        if len(gone):
            positions = self._positions(gone)
            assert positions is not None
            folds = _folds_of(gone)
            for part, block in self.rows.whole.take(positions).blocks():
                gram.add(block, {}, folds=folds[part], sign=-1.0)
        added = self.order[~np.isin(self.sorted_ids, have, assume_unique=True)]
        for part, block in self.rows.take(added).blocks():
            gram.add(block, {}, folds=self.folds[added][part])
        return gram

    def _known(self, folder: Path, gram: Gram, have: np.ndarray, targets: Mapping[str, Targets]) -> set[str]:
        """Tasks whose kept targets are these, or can be mended; fills them in."""
        known = set()
        for name, one in targets.items():
            values = _values(one)[self.order]
            for path in sorted(folder.glob(f"task-{one.shape[1]}-*.npz")):
                found = _load(path, "values", "shift", "cross", "sum", "square")
                if found is None or found["values"].dtype != values.dtype:
                    continue
                if self._mended(gram, name, found, have, values, one):
                    known.add(name)
                    break
        return known

    def _mended(
        self,
        gram: Gram,
        name: str,
        found: Mapping[str, np.ndarray],
        ids: np.ndarray,
        values: np.ndarray,
        targets: Targets,
    ) -> bool:
        """Whether kept targets of `ids` became those of this request, by reading the rows that differ."""
        old = found["values"]
        _, at_old, at_new = np.intersect1d(ids, self.sorted_ids, assume_unique=True, return_indices=True)
        differs = old[at_old] != values[at_new]
        changed = differs.any(axis=1) if differs.ndim > 1 else differs
        gone = np.ones(len(ids), bool)
        gone[at_old] = False
        gone[at_old[changed]] = True
        fresh = np.ones(len(self.sorted_ids), bool)
        fresh[at_new[~changed]] = False
        if fresh.sum() + gone.sum() > MOST_CHANGED * len(values):
            return False
        positions = self._positions(ids[gone])
        if positions is None:
            return False
        gram.take_state(name, found)
        old_targets = OneHot(old[gone], targets.num_classes) if isinstance(targets, OneHot) else old[gone]
        folds = _folds_of(ids[gone])
        for part, block in self.rows.whole.take(positions).blocks():
            gram.learn(name, block, old_targets[part], folds=folds[part], sign=-1.0)
        added = self.order[fresh]
        new_targets = targets[added]
        for part, block in self.rows.take(added).blocks():
            gram.learn(name, block, new_targets[part], folds=self.folds[added][part])
        return True

    @property
    def _folder(self) -> Path:
        name = f"{self.num_folds}-{hashlib.blake2b(self.sorted_ids.tobytes(), digest_size=12).hexdigest()}"
        return self.rows.folder / name

    def _keep(self, gram: Gram, targets: Mapping[str, Targets], replaces: Path | None = None) -> None:
        """Write the row set, by rename; what it grew from goes."""
        folder = self._folder
        if not (folder / FEATURES).exists():
            some = self.order[:: max(1, len(self.order) // NUM_WITNESSES)][:NUM_WITNESSES]
            witnesses = {"witness_ids": self.ids[some], "witness": self.rows.gather(some)}
            _write(folder / FEATURES, {**gram.state(), **witnesses, "ids": self.sorted_ids})
        for task, one in targets.items():
            values = _values(one)[self.order]
            digest = hashlib.blake2b(values.tobytes(), digest_size=12).hexdigest()
            path = folder / f"task-{one.shape[1]}-{digest}.npz"
            if not path.exists():
                _write(path, {**gram.state(task), "values": values})
        if replaces is not None and replaces != folder:
            shutil.rmtree(replaces, ignore_errors=True)
        for old in _by_age(self.rows.folder.glob("*-*"))[:-MOST_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        for old in _by_age(folder.glob("task-*"))[:-MOST_KEPT]:
            old.unlink(missing_ok=True)


def _by_age(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime)


def _ids(keys: npt.NDArray[np.uint8], folds: np.ndarray | None) -> np.ndarray:
    """Keys, with the fold of each where there are folds, as values that sort and compare."""
    rows = keys
    if folds is not None:
        rows = np.concatenate([keys, folds[:, None].astype(">u2").view(np.uint8)], axis=1)
    # two digits a byte: numpy's byte strings lose trailing zeros, and voids do not sort
    digits = np.array([list(f"{byte:02x}".encode()) for byte in range(256)], np.uint8)
    ids: np.ndarray = digits[rows].reshape(len(rows), -1).view(f"S{2 * rows.shape[1]}").reshape(-1)
    return ids


def _keys_of(ids: np.ndarray) -> np.ndarray:
    width = ids.dtype.itemsize
    letters = np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), width)[:, : width - 4]
    return np.ascontiguousarray(letters).view(f"S{width - 4}").reshape(-1)


def _folds_of(ids: np.ndarray) -> np.ndarray:
    width = ids.dtype.itemsize
    letters = np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), width)[:, width - 4 :]
    return np.array([int(bytes(row), 16) for row in letters], np.int64)


def _values(targets: Targets) -> np.ndarray:
    """What tells targets apart: codes of one-hot ones."""
    return targets.codes if isinstance(targets, OneHot) else np.asarray(targets)


def _load(path: Path, *names: str) -> dict[str, np.ndarray] | None:
    """Arrays of a file, or None where it is not there or damaged: then they are computed again."""
    try:
        with np.load(path, allow_pickle=False) as found:  # a zip: each array is checked against its crc32
            return {name: found[name] for name in names}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    with temporary.open("wb") as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    temporary.replace(path)
