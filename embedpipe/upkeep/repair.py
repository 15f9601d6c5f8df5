"""Mend a damaged working group: put back what a good copy or arithmetic gives, give up what only the backbone can.

Rows of a shard that is lost become holes, which the next extraction fills: those and no others.
Reads and writes a working group; knows nothing of where copies lie.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedpipe.errors import StoreError
from embedpipe.spec import BackboneSpec
from embedpipe.store import commit, ledger
from embedpipe.store.arrays import KEYS_LAYOUT, METADATA, PART_LAYOUT, ArrayLayout, layout_of
from embedpipe.store.commit import Transaction
from embedpipe.store.disk import FileRecord, record_of_bytes, record_of_file, replace_file, sync_folder
from embedpipe.store.encoding import encode_group, encode_metadata, encode_shard
from embedpipe.store.group import GROUP, Group, encode_plate, probe_path, read_info
from embedpipe.store.holes import LOST, Holes
from embedpipe.store.layout import TapState
from embedpipe.store.ledger import Entry, TapChange
from embedpipe.store.published import Contents
from embedpipe.store.verification import LITTER, Damage, verify

Candidates = Callable[[str, FileRecord], Iterable[Path]]  # where a file of the group may lie whole
TOMBSTONE_PART = -1  # part number of rows whose key is gone


@dataclass
class Mended:
    """What a repair did to one group.

    Attributes
    ----------
    restored, removed : list of str
        Files put back as they were, and files of no use taken away, as paths in the group.
    lost : dict of tap name -> int
        Rows that the next extraction embeds again.
    notes : list of str
        What a person should know.
    """

    restored: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.restored or self.removed or self.lost or self.notes)


def repair_group(
    path: Path,
    candidates: Candidates,
    *,
    specs: Sequence[BackboneSpec] = (),
    published: Sequence[Contents] = (),
    known_keys: npt.NDArray[np.uint8] | None = None,
    wait_s: float = 0.0,
) -> Mended:
    """Mend one working group.

    Parameters
    ----------
    candidates
        Gives places where a whole copy of a file may lie; each is compared with the file's checksums first.
    specs
        Specs that the group may have, to write its name plate again.
    published
        What stores published from the group hold, to write its ledger again.
    known_keys : uint8 array, shape (n, 16), or None
        Keys in manifest order: a guess at lost keys, taken only where the checksum agrees.

    Raises
    ------
    StoreError
        If the plate or the ledger is damaged and cannot be derived; says what to do.
    StoreLocked
        If another process holds the group after `wait_s` seconds.
    """
    done = Mended()
    _mend_plate(path, specs, done)
    _mend_ledger(path, published, done)
    group = Group(read_info(path))
    with group.lock(wait_s):
        group.recover()
        damages = verify(path).damages
        if damages:
            _Repair(group, candidates, known_keys, done).run(damages)
    return done


def _mend_plate(path: Path, specs: Sequence[BackboneSpec], done: Mended) -> None:
    try:
        read_info(path)
    except StoreError as error:
        fingerprint, _, generation = path.name.partition("-")
        for spec in specs:
            if spec.fingerprint == fingerprint:
                replace_file(path / GROUP, encode_plate(spec, int(generation or 0)))
                done.restored.append(GROUP)
                return
        raise StoreError(
            f"{path / GROUP}: expected the name plate of a group, found it damaged or missing, and no backbone of "
            "params.yaml has this fingerprint; put back the params.yaml that made it and run "
            f"`embedpipe repair` again, or move {path} away to embed again"
        ) from error


def _mend_ledger(path: Path, published: Sequence[Contents], done: Mended) -> None:
    intent = path / commit.JOURNAL / commit.INTENT
    try:
        commit.read_intent(path)
    except StoreError:
        intent.unlink()
        done.removed.append(intent.relative_to(path).as_posix())
    try:
        commit.read_state(path, moving=True)
    except StoreError as error:
        spec = read_info(path).spec
        for contents in published:
            if contents.spec == spec:
                intent.unlink(missing_ok=True)
                (path / ledger.NAME).unlink(missing_ok=True)
                ledger.append_entry(path / ledger.NAME, _entry_of(contents))
                sync_folder(path)
                done.restored.append(ledger.NAME)
                done.notes.append(
                    "the ledger was written again from the published store: what was computed since is dropped"
                )
                return
        raise StoreError(
            f"{error}; no published store of this group is whole enough to write the ledger again from: "
            "`dvc pull` may bring one, then run `embedpipe repair` again"
        ) from error


def _entry_of(contents: Contents) -> Entry:
    """One entry that says of a group what its published store says."""
    layouts = [KEYS_LAYOUT, PART_LAYOUT, *(layout_of(tap) for tap in contents.taps.values())]
    kept = tuple(f"{layout.name}/c/" for layout in layouts)
    probes = {probe_path(name) for name in contents.taps}
    files = {p: record for p, record in contents.files.items() if p.startswith(kept) or p in probes}
    for layout in layouts:
        files[layout.metadata_path] = record_of_bytes(encode_metadata(layout, contents.num_rows))
    files[METADATA] = record_of_bytes(encode_group())
    changes = tuple(TapChange(tap, 0, tap.num_rows, tap.holes) for _, tap in sorted(contents.taps.items()))
    return Entry(0, "repair", contents.num_rows, changes, files)


class _Repair:
    """Decide what becomes of each damaged file, then commit it all at once."""

    def __init__(
        self,
        group: Group,
        candidates: Candidates,
        known_keys: npt.NDArray[np.uint8] | None,
        done: Mended,
    ) -> None:
        self.group = group
        self.candidates = candidates
        self.known_keys = np.zeros((0, 16), np.uint8) if known_keys is None else known_keys
        self.done = done
        self.made: dict[str, bytes] = {}  # files that are written under new checksums
        self.removed: list[str] = []
        self.buried: list[tuple[int, int]] = []  # rows whose keys are gone
        self.lost: dict[tuple[str, int], TapState] = {}  # (tap name, shard)
        self.layouts: dict[str, tuple[ArrayLayout, int]] = {
            layout.name: (layout, group.num_rows) for layout in (KEYS_LAYOUT, PART_LAYOUT)
        }
        for name, tap in group.state.taps.items():
            self.layouts[name] = (layout_of(tap), tap.num_rows)

    def run(self, damages: Sequence[Damage]) -> None:
        root = self.group.path
        gone: set[int] = set()  # shards of keys and parts of which nothing is left
        for damage in damages:
            path = damage.path.relative_to(root).as_posix()
            if damage.kind == LITTER:
                damage.path.unlink()
                self.done.removed.append(path)
            elif not self._restore(path) and not self._derive(path):
                gone |= self._give_up(path)
        for shard in sorted(gone):
            self._bury(shard)
        self._commit()

    def _restore(self, path: str) -> bool:
        """Put a whole copy back."""
        record = self.group.state.files[path]
        for copy in self.candidates(path, record):
            if copy.is_file() and record_of_file(copy) == record:
                target = self.group.path / path
                temporary = self.group.path / commit.JOURNAL / "restored"
                temporary.unlink(missing_ok=True)
                os.link(copy, temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, target)
                sync_folder(target.parent)
                self.done.restored.append(path)
                return True
        return False

    def _derive(self, path: str) -> bool:
        """Make a file again from what is known; under its old checksum where that comes out."""
        name = path.split("/", 1)[0]
        if path == METADATA:
            return self._written(path, encode_group(), exact=False)
        layout, num_rows = self.layouts.get(name, (None, 0))
        if layout is None:
            return False
        if path == layout.metadata_path:
            return self._written(path, encode_metadata(layout, num_rows), exact=False)
        if name in (KEYS_LAYOUT.name, PART_LAYOUT.name):
            start, stop = _range(layout, int(path.split("/")[2]), num_rows)
            guess = self.known_keys[start:stop] if layout is KEYS_LAYOUT else layout.empty_rows(stop - start)
            if len(guess) == stop - start:
                return self._written(path, encode_shard(layout, guess), exact=True)
        return False

    def _written(self, path: str, data: bytes, *, exact: bool) -> bool:
        if record_of_bytes(data) == self.group.state.files[path]:
            (self.group.path / path).parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.group.path / path, data)
        elif exact:
            return False
        else:
            self.made[path] = data
        self.done.restored.append(path)
        return True

    def _give_up(self, path: str) -> set[int]:
        """Only the backbone can give it again; returns shards of keys that are gone."""
        name = path.split("/", 1)[0]
        if name in (KEYS_LAYOUT.name, PART_LAYOUT.name):
            return {int(path.split("/")[2])}
        self.removed.append(path)
        if name in self.group.state.taps:
            self.lost[(name, int(path.split("/")[2]))] = self.group.state.taps[name]
        else:
            self.done.notes.append(
                f"{path}: the probe features are lost; the next extraction saves new ones, so make sure that the "
                "backbone and its libraries are the ones that filled the store"
            )
        return set()

    def _bury(self, shard: int) -> None:
        """Rows whose key is gone hold features of nobody: they get no key, and their samples new rows."""
        for layout, fill in ((KEYS_LAYOUT, 0), (PART_LAYOUT, TOMBSTONE_PART)):
            start, stop = _range(layout, shard, self.group.num_rows)
            rows = np.full((stop - start, *layout.row_shape), fill, layout.dtype)
            self.made[layout.shard_path(shard)] = encode_shard(layout, rows)
        self.done.notes.append(
            f"keys of rows {start} to {stop} are lost: their samples are embedded again into new rows; "
            "`embedpipe gc` drops the old ones"
        )
        self.buried.append((start, stop))

    def _commit(self) -> None:
        changes = []
        for (name, shard), tap in sorted(self.lost.items()):
            start, stop = _range(layout_of(tap), shard, tap.num_rows)
            changes.append(_lost(tap, start, stop))
            num_lost = stop - start - int(tap.holes.mask(start, stop).sum())
            self.done.lost[name] = self.done.lost.get(name, 0) + num_lost
        for start, stop in self.buried:
            for tap in self.group.state.taps.values():
                if start < tap.num_rows:
                    changes.append(_lost(tap, start, min(stop, tap.num_rows)))
        if not (self.made or self.removed or changes):
            return
        state = self.group.state
        transaction = Transaction(self.group.path)
        try:
            for path, data in sorted(self.made.items()):
                transaction.write(path, data)
            entry = Entry(
                state.num_entries,
                "repair",
                state.num_rows,
                tuple(changes),
                transaction.files,
                tuple(sorted(self.removed)),
            )
            transaction.commit(entry)
        except BaseException as error:
            self.group.interrupted()
            if isinstance(error, Exception):
                transaction.abandon()
            raise
        self.group.committed(entry)


def _range(layout: ArrayLayout, shard: int, num_rows: int) -> tuple[int, int]:
    return shard * layout.shard_rows, min((shard + 1) * layout.shard_rows, num_rows)


def _lost(tap: TapState, start: int, stop: int) -> TapChange:
    """All of [start, stop) that is no hole yet becomes one."""
    ranges = Holes.from_mask(~tap.holes.mask(start, stop), LOST, start).ranges()
    return TapChange(tap, start, stop, Holes.from_ranges([*ranges, *tap.holes.within(start, stop).ranges()]))
