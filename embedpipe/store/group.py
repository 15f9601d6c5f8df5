"""A working group: the features of one backbone, growing by samples and by taps.

Reads and writes the folder ``<root>/<fingerprint>[-<generation>]``. Knows nothing of what computes features.
"""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.errors import SpecMismatch, StoreError
from embedpipe.spec import FORMAT_VERSION, BackboneSpec, FieldDifference, TapSpec, canonical_json
from embedpipe.store import commit
from embedpipe.store.arrays import KEYS_LAYOUT, PART_LAYOUT, ArrayLayout, ArrayReader, ArrayTable
from embedpipe.store.commit import Recovery, Transaction
from embedpipe.store.disk import make_folder, replace_file, sync_folder
from embedpipe.store.join import row_keys
from embedpipe.store.layout import BLOCK_NBYTES, SHARD_NBYTES, TapState, new_taps
from embedpipe.store.ledger import Entry, LedgerState
from embedpipe.store.lock import GroupLock
from embedpipe.store.plan import Block, GrowthPlan, plan_growth
from embedpipe.store.writer import BlockWriter

GROUP = "group.json"
PROBE = "probe"
_MD5_WAIT_S = 10.0


@dataclass(frozen=True)
class GroupInfo:
    """What the name plate of a group says."""

    path: Path
    spec: BackboneSpec
    generation: int


def probe_path(tap_name: str) -> str:
    """Path in a group, and in a published store, of a tap's probe features."""
    return f"{PROBE}/{tap_name}.npy"


def group_path(root: Path, spec: BackboneSpec, generation: int = 0) -> Path:
    """Folder of a group under `root`."""
    return root / (spec.fingerprint if generation == 0 else f"{spec.fingerprint}-{generation}")


def read_info(path: Path, *, any_format: bool = False) -> GroupInfo:
    """Read a group's name plate.

    Parameters
    ----------
    any_format
        Give that of another format version too: it can be listed and removed, not opened.

    Raises
    ------
    StoreError
        If there is none, it is damaged, or of another format version.
    """
    plate = path / GROUP
    try:
        raw = json.loads(plate.read_bytes())
        version = raw["format_version"]
        if version == FORMAT_VERSION or any_format:
            info = GroupInfo(path, BackboneSpec.from_dict(raw["spec"]), raw["generation"])
            if version == FORMAT_VERSION and plate.read_bytes() != encode_plate(info.spec, info.generation):
                raise ValueError("not as it was written")
    except FileNotFoundError as error:
        raise StoreError(f"{path}: expected a feature store, found no {GROUP}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{plate}: damaged: {error}; restore the file, or move {path} away to embed again"
        ) from error
    if version != FORMAT_VERSION and not any_format:
        raise StoreError(
            f"{plate}: expected store format {FORMAT_VERSION}, found {version}; use the version of embedpipe "
            f"that wrote it, or move {path} away to embed again"
        )
    return info


def find_groups(root: Path) -> list[GroupInfo]:
    """Every group under `root`, by folder name, also of another format. Folders without a name plate are none."""
    return [read_info(plate.parent, any_format=True) for plate in sorted(root.glob(f"*/{GROUP}"))]


def nearest_group(root: Path, spec: BackboneSpec) -> tuple[GroupInfo, list[FieldDifference]] | None:
    """The group whose spec differs from `spec` in the fewest fields, with those fields; None without groups.

    An equal spec gives no differences; of several generations the latest.
    """
    found = [(info, spec.differences(info.spec)) for info in find_groups(root)]
    return min(found, key=lambda pair: (len(pair[1]), -pair[0].generation), default=None)


def open_group(root: Path, spec: BackboneSpec, *, generation: int = 0, create: bool = True) -> Group:
    """Open the group of a backbone spec, creating it if it is not there.

    Parameters
    ----------
    root
        Folder that holds all working groups.
    generation
        A further group for the same spec, made where a probe found that it computes something else.

    Raises
    ------
    SpecMismatch
        If the group is not there and `create` is false; names the fields in which the nearest one differs.
    StoreError
        If it is damaged or of another format version.
    """
    path = group_path(root, spec, generation)
    if not (path / GROUP).exists():
        if not create:
            raise SpecMismatch(_miss(root, spec))
        make_folder(path / commit.JOURNAL)
        try:  # tasks of an array open their group at the same time, before any of them holds it
            replace_file(path / GROUP, encode_plate(spec, generation), tag=f".{uuid.uuid4().hex[:8]}")
        except FileNotFoundError:  # the first to hold the group swept what others had not yet put in place
            if not (path / GROUP).exists():
                raise
        sync_folder(root)
    return Group(read_info(path))


class Group:
    """One backbone's working store. Made by `open_group`.

    Writing needs the lock, and `recover` once after it was taken::

        with group.lock():
            group.recover()
            group.ensure_taps({tap: (512,)})
            plan = group.plan(keys)
            for block in plan.blocks:
                with group.writer(plan, block, batch=32) as writer:
                    for index, segment in enumerate(block.segments):
                        for rows in batches_of(segment.rows[writer.done(index):]):
                            writer.append(rows, compute(plan.wanted_of_row[rows], segment.taps))
                    writer.commit()
    """

    def __init__(self, info: GroupInfo) -> None:
        self.info = info
        self.path = info.path
        self._pending: dict[str, TapState] = {}
        self._lock: GroupLock | None = None
        self._recovered = False
        self._planned: tuple[tuple[LedgerState, tuple[TapState, ...], int], GrowthPlan] | None = None
        self.reload()

    @property
    def spec(self) -> BackboneSpec:
        return self.info.spec

    @property
    def state(self) -> LedgerState:
        """What is committed."""
        return self._state

    @property
    def num_rows(self) -> int:
        return self._state.num_rows

    @property
    def taps(self) -> dict[str, TapState]:
        """Taps by name: committed ones, then those ensured but still without a row."""
        return {**self._state.taps, **self._pending}

    def keys(self) -> npt.NDArray[np.uint8]:
        """Keys of all rows, shape (num_rows, 16)."""
        return self._table(KEYS_LAYOUT, 0, self.num_rows)

    def parts(self) -> npt.NDArray[np.int32]:
        """Part numbers of all rows, shape (num_rows,)."""
        return self._table(PART_LAYOUT, 0, self.num_rows)

    def reload(self) -> None:
        """Read again what is committed."""
        self._state = commit.read_state(self.path, moving=True)

    @contextmanager
    def lock(
        self,
        wait_s: float = 0.0,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Iterator[GroupLock]:
        """Hold the group for writing.

        Raises
        ------
        StoreLocked
            If another process holds it after `wait_s` seconds; says who and since when.
        """
        with GroupLock(self.path, wait_s=wait_s, clock=clock, sleep=sleep) as held:
            self._lock, self._recovered = held, False
            try:
                self.reload()
                yield held
            finally:
                self._lock, self._recovered = None, False

    def recover(self) -> Recovery:
        """Finish or drop what a kill left behind. Needs the lock; must come before the first write."""
        self._check_locked()
        done = commit.recover(self.path)
        self.reload()
        self._recovered = True
        return done

    def ensure_taps(
        self,
        wanted: dict[TapSpec, tuple[int, ...]],
        *,
        shard_nbytes: int = SHARD_NBYTES,
        block_nbytes: int = BLOCK_NBYTES,
    ) -> None:
        """Fix the layout of taps that do not exist yet; their arrays appear with the first commit.

        Parameters
        ----------
        wanted : dict of TapSpec -> row shape
            All taps that will be filled together.
        shard_nbytes, block_nbytes
            Largest shard of a tap; most bytes that one block of all taps may hold.

        Raises
        ------
        StoreError
            If a tap exists with another row shape.
        """
        made = new_taps(
            wanted, self._state.taps.values(), shard_nbytes=shard_nbytes, block_nbytes=block_nbytes
        )
        self._pending.update(made)

    def plan(
        self,
        wanted_keys: npt.NDArray[np.uint8],
        wanted_parts: npt.NDArray[np.int32] | None = None,
        taps: Sequence[str] | None = None,
        *,
        block_nbytes: int = BLOCK_NBYTES,
    ) -> GrowthPlan:
        """`plan_growth` from what is committed. `taps`: names, by default all.

        The last plan is kept, and given again where nothing has been committed since and the same array is wanted.
        """
        known = self.taps
        unknown = [name for name in taps or () if name not in known]
        if unknown:
            raise StoreError(
                f"{self.path}: no tap {', '.join(unknown)}; it has {', '.join(known) or 'none'}; "
                "ensure_taps first"
            )
        chosen = [known[name] for name in (known if taps is None else taps)]
        asked = (self._state, tuple(chosen), block_nbytes)
        if self._planned is not None:
            before, plan = self._planned
            same = plan.wanted_keys is wanted_keys and plan.wanted_parts is wanted_parts
            if same and before[0] is asked[0] and before[1:] == asked[1:]:
                return plan
        self._planned = None  # its memory is given back first
        self._refuse_moving()
        keys, parts = (
            ArrayTable(ArrayReader(self.path, layout, self.num_rows, self._state.files))
            for layout in (KEYS_LAYOUT, PART_LAYOUT)
        )
        plan = plan_growth(chosen, keys, parts, wanted_keys, wanted_parts, block_nbytes=block_nbytes)
        self._planned = asked, plan
        return plan

    def writer(
        self,
        plan: GrowthPlan,
        block: Block,
        *,
        batch: int,
        any_order: bool = False,
        sync_every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> BlockWriter:
        """Fill one block of a plan; blocks are committed in order.

        Parameters
        ----------
        batch
            Samples a forward pass; a journal of another batch size is not resumed.
        any_order
            Whether rows do not depend on which others stood in their batch, so that rows of another plan's journal
            count wherever they stand.
        sync_every_s
            Seconds of work that a kill may cost at most.
        """
        return BlockWriter(
            self, plan, block, batch=batch, any_order=any_order, sync_every_s=sync_every_s, clock=clock
        )

    def probe(self) -> dict[str, npt.NDArray[Any]] | None:
        """Features of the probe inputs as first computed, by tap name; None if none were saved."""
        paths = [path for path in self._state.files if path.startswith(f"{PROBE}/")]
        if not paths:
            return None
        out = {}
        for path in sorted(paths):
            try:
                out[Path(path).name.removesuffix(".npy")] = np.load(self.path / path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise StoreError(f"{self.path / path}: damaged: {error}; restore the file") from error
        return out

    def save_probe(self, features: dict[str, npt.NDArray[Any]]) -> None:
        """Add or replace probe features, by tap name."""
        self.check_writable()
        transaction = Transaction(self.path)
        try:
            for name, array in sorted(features.items()):
                held = BytesIO()
                np.save(held, array, allow_pickle=False)
                transaction.write(probe_path(name), held.getvalue())
            entry = Entry(self._state.num_entries, "probe", self.num_rows, (), transaction.files)
            transaction.commit(entry)
        except BaseException:
            self.interrupted()
            raise
        self.committed(entry)

    def add_md5s(self, md5s: dict[str, str]) -> None:
        """Record the MD5 of committed files, by path, for whoever looks for them in DVC's cache.

        Takes the lock for it where it is not held.
        """
        if self._lock is None:
            with self.lock(wait_s=_MD5_WAIT_S):
                self.recover()
                self.add_md5s(md5s)
            return
        self.check_writable()
        known = self._state.files
        files = {
            path: dataclasses.replace(known[path], md5=md5) for path, md5 in md5s.items() if path in known
        }
        transaction = Transaction(self.path)
        try:
            entry = Entry(self._state.num_entries, "publish", self.num_rows, (), files)
            transaction.commit(entry)
        except BaseException:
            self.interrupted()
            raise
        self.committed(entry)

    # -- what BlockWriter asks of its group

    def block_keys(self, plan: GrowthPlan, block: Block) -> npt.NDArray[np.uint8]:
        """Keys of a block's rows with their part numbers, as `row_keys` gives them, existing and planned ones.

        Returns
        -------
        uint8 array, shape (stop - start, 20)

        Raises
        ------
        StoreError
            If rows that the plan adds exist with other keys: the group has grown since.
        """
        middle = min(max(self.num_rows, block.start), block.stop)
        old = row_keys(
            self._table(KEYS_LAYOUT, block.start, middle), self._table(PART_LAYOUT, block.start, middle)
        )
        before = plan.num_rows_before
        first, last = max(block.start, before), max(block.stop, before)
        planned = row_keys(plan.keys_between(first, last), plan.parts_between(first, last))
        num_old = max(middle - first, 0)
        if not np.array_equal(old[len(old) - num_old :], planned[:num_old]):
            raise StoreError(f"{self.path}: the group has grown since the plan was made; plan again")
        return np.concatenate([old, planned[num_old:]])

    def check_writable(self) -> None:
        """Raise unless the lock is held and whatever a kill left was recovered."""
        self._check_locked()
        if not self._recovered:
            raise StoreError(
                f"{self.path}: a kill or an error may have left a commit half done; call recover()"
            )

    def committed(self, entry: Entry) -> None:
        self._state = self._state.after([entry])
        for change in entry.taps:
            self._pending.pop(change.tap.name, None)

    def interrupted(self) -> None:
        self._recovered = False

    def _table(self, layout: ArrayLayout, start: int, stop: int) -> npt.NDArray[Any]:
        self._refuse_moving()
        return ArrayReader(self.path, layout, self.num_rows, self._state.files).read(start, stop)

    def _refuse_moving(self) -> None:
        if (self.path / commit.JOURNAL / commit.INTENT).exists():
            commit.read_state(self.path)

    def _check_locked(self) -> None:
        if self._lock is None:
            raise StoreError(f"{self.path}: writing needs the group's lock: `with group.lock():`")
        self._lock.check()


def encode_plate(spec: BackboneSpec, generation: int) -> bytes:
    """Content of a group's name plate."""
    content = {"format_version": FORMAT_VERSION, "generation": generation, "spec": spec.to_dict()}
    return (canonical_json({**content, "fingerprint": spec.fingerprint}) + "\n").encode()


def _miss(root: Path, spec: BackboneSpec) -> str:
    nearest = nearest_group(root, spec)
    if nearest is None:
        return f"{root}: no features of {spec.architecture} yet, and of no other backbone; run extract"
    info, differences = nearest
    if not differences:
        return f"{root}: no such generation of {spec.architecture}; the latest is {info.generation}"
    listed = "; ".join(str(difference) for difference in differences)
    return f"{root}: no features under this spec; the nearest group, {info.path.name}, differs: {listed}"
