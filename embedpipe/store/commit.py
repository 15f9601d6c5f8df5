"""Put several files of a group in place together, or not at all.

Temporaries, fsync; an intent with every name and checksum, fsync; renames, fsync of the folders; the ledger's
line, fsync; the intent away. Once the intent stands, recovery finishes the commit; before, it drops it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.errors import StoreError
from embedpipe.spec import canonical_json, digest
from embedpipe.store import journal, ledger, shards
from embedpipe.store.arrays import METADATA
from embedpipe.store.disk import (
    FileRecord,
    make_folder,
    record_of_file,
    remove_tree,
    replace_file,
    sync_file,
    sync_folder,
    sync_folders,
    telling_full,
    write_file,
)
from embedpipe.store.ledger import Entry, LedgerState

JOURNAL = "journal"
TEMPORARY = "tmp"
INTENT = "intent.json"
PARTIAL = ".partial"
SEED = "seed"  # what is being brought in from elsewhere
MOVING = ("compact", "forget")  # commits after which a row no longer holds what it held


class Transaction:
    """Files written aside, to be committed under one ledger entry.

    Parameters
    ----------
    root
        Folder of the group.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, FileRecord | Future[FileRecord]] = {}
        self._folder = root / JOURNAL / TEMPORARY
        self._writer = ThreadPoolExecutor(1, "embedpipe-shards")
        self._syncer = ThreadPoolExecutor(1, "embedpipe-fsync")
        self._syncs: list[Future[None]] = []
        remove_tree(self._folder)
        make_folder(self._folder)

    @property
    def files(self) -> dict[str, FileRecord]:
        """Path in the group -> record, of all that was written; waits for what is being written."""
        files = self._files
        self._files = {path: one.result() if isinstance(one, Future) else one for path, one in files.items()}
        return dict(self._files)  # type: ignore[arg-type]

    def write(self, path: str, data: bytes | Iterable[memoryview]) -> None:
        """Write what is to stand at `path` in the group as a temporary; `data` as for `write_file`.

        Bytes are fsynced here. What is given in parts is made and written by a thread, meanwhile, and fsynced by
        another, while the next is made: `files` and `commit` wait for them, and raise their errors.
        """
        assert path not in self._files
        temporary = self._folder / str(len(self._files))
        if isinstance(data, bytes):
            self._files[path] = write_file(temporary, data)
        else:
            self._files[path] = self._writer.submit(self._write_parts, temporary, data)

    def _write_parts(self, temporary: Path, parts: Iterable[memoryview]) -> FileRecord:
        record = write_file(temporary, parts, sync=False)
        self._syncs.append(self._syncer.submit(sync_file, temporary))
        return record

    def take(self, path: str, source: Path, record: FileRecord) -> None:
        """Move in a finished file, on the same file system, that is to stand at `path`; `record` was checked."""
        assert path not in self._files
        sync_file(source)
        with telling_full(source):
            os.replace(source, self._folder / str(len(self._files)))
        self._files[path] = record

    def commit(self, entry: Entry, remove: Path | None = None) -> None:
        """Make the files and the entry permanent.

        Parameters
        ----------
        remove
            A journal in the group that the commit makes useless.
        """
        assert self.files.items() <= entry.files.items()
        for sync in self._syncs:
            sync.result()
        self.stop()
        sync_folder(self._folder)
        body = {
            "entry": entry.to_dict(),
            "moves": [[str(i), path] for i, path in enumerate(self.files)],
            "remove": None if remove is None else remove.name,
        }
        intent = canonical_json({"checksum": digest(body), "intent": body}).encode()
        replace_file(self.root / JOURNAL / INTENT, intent)
        _finish(self.root, body)

    def stop(self) -> None:
        """Begin no further write, and wait for the one under way."""
        for pool in (self._writer, self._syncer):
            pool.shutdown(cancel_futures=True)

    def abandon(self) -> None:
        """Drop the temporaries, unless an intent stands that needs them."""
        self.stop()
        if not (self.root / JOURNAL / INTENT).exists():
            remove_tree(self._folder)


@dataclass(frozen=True)
class Recovery:
    """What recovery found and did.

    Attributes
    ----------
    rolled_forward : bool
        A commit that a kill had interrupted was finished.
    removed : tuple of str
        Temporaries that were dropped, as paths in the group.
    """

    rolled_forward: bool = False
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.rolled_forward or bool(self.removed)

    def __str__(self) -> str:
        said = ["finished an interrupted commit"] if self.rolled_forward else []
        if self.removed:
            said.append(f"removed {len(self.removed)} temporary files")
        return "; ".join(said) or "nothing to do"


def recover(root: Path) -> Recovery:
    """Finish the commit whose intent stands; drop temporaries that no intent names.

    Raises
    ------
    StoreError
        If a file that the intent names is neither in place nor among the temporaries.
    """
    folder = root / JOURNAL
    make_folder(folder)
    removed: list[str] = []
    torn = [folder / f"{INTENT}.tmp", *sorted(root.glob("group.json*.tmp"))]
    for path in torn:
        if path.exists():
            path.unlink(missing_ok=True)  # of another process that opens the group now
            removed.append(path.relative_to(root).as_posix())
    body = read_intent(root)
    if body is not None:
        _finish(root, body)
    if (folder / TEMPORARY).exists():
        left = sorted(p for p in (folder / TEMPORARY).rglob("*") if p.is_file())
        removed.extend(p.relative_to(root).as_posix() for p in left)
        remove_tree(folder / TEMPORARY)
    removed.extend(_sweep_partial(root))
    removed.extend(_sweep_headless(folder, root))
    return Recovery(body is not None, tuple(removed))


def read_intent(root: Path) -> dict[str, Any] | None:
    """The standing intent, or None.

    Raises
    ------
    StoreError
        If it is damaged: it was renamed into place whole, so a kill cannot tear it.
    """
    path = root / JOURNAL / INTENT
    try:
        raw = json.loads(path.read_bytes())
        body: dict[str, Any] = raw["intent"]
        if raw["checksum"] != digest(body):
            raise ValueError("checksum differs")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: damaged: {error}; the commit it describes cannot be finished: remove the file and "
            "run `embedpipe verify` to see which shards it leaves behind"
        ) from error
    return body


def read_state(root: Path, *, moving: bool = False) -> LedgerState:
    """What is committed, readable also between a kill and the recovery.

    An interrupted commit may have renamed some files already: they hold all that the old ones held, and stand
    here with their own records.

    Parameters
    ----------
    moving
        Give the state too where an interrupted commit moves rows: files can be verified, not read.

    Raises
    ------
    StoreError
        If the ledger or the intent is damaged, or an interrupted commit moves rows.
    """
    lines = root / ledger.NAME
    entries, nbytes = ledger.read_ledger(lines)
    state = LedgerState().after(entries)
    body = read_intent(root)
    if body is None:
        _check_ledger(root, entries, nbytes)
        return state
    files = dict(state.files)
    entry = Entry.from_dict(body["entry"])
    if entry.kind in MOVING and entry.sequence == state.num_entries and not moving:
        raise StoreError(
            f"{root}: expected whole shards, found a rewrite of rows ({entry.kind}) that is under way or was "
            "interrupted; wait for it, or finish it with `embedpipe gc`, `embedpipe repair` or `embedpipe extract`"
        )
    for path, record in entry.files.items():
        if (root / path).exists() and record_of_file(root / path) == record:
            files[path] = record
    return dataclasses.replace(state, files=files)


def _check_ledger(root: Path, entries: list[Entry], nbytes: int) -> None:
    """Without an intent no kill explains a torn line, or arrays without a ledger."""
    lines = root / ledger.NAME
    what = None
    if not entries and (root / METADATA).exists():
        what = "expected the ledger of the arrays beside it, found none"
    elif lines.exists() and lines.stat().st_size != nbytes:
        what = f"expected whole lines, found the last one cut short after line {len(entries)}"
    if what is not None:
        raise StoreError(f"{lines}: {what}; restore the file, or move {root} away to embed again")


def _finish(root: Path, body: dict[str, Any]) -> None:
    """Everything after the intent. May run again from any point at which it was cut off."""
    entry = Entry.from_dict(body["entry"])
    for temporary_name, path in body["moves"]:
        temporary, final = root / JOURNAL / TEMPORARY / temporary_name, root / path
        if temporary.exists():
            make_folder(final.parent)
            shards.close(final)
            with telling_full(final):
                os.replace(temporary, final)
        elif not final.exists() or record_of_file(final) != entry.files[path]:
            raise StoreError(
                f"{final}: expected the file of an interrupted commit, here or as {temporary.name} among the "
                "temporaries, found neither; run `embedpipe verify` to see what is left"
            )
    # all of them: names that an interrupted run moved may not have reached the disk
    sync_folders(root, [root / path for _, path in body["moves"]])
    lines = root / ledger.NAME
    num_entries, nbytes = ledger.read_end(lines)
    ledger.cut_torn_line(lines, nbytes)
    if num_entries == entry.sequence:
        ledger.append_entry(lines, entry)
        sync_folder(root)
    for path in entry.removed:
        shards.close(root / path)
        (root / path).unlink(missing_ok=True)
        _remove_empty((root / path).parent, root)
    if body["remove"] is not None:
        (root / JOURNAL / body["remove"]).unlink(missing_ok=True)
    remove_tree(root / JOURNAL / TEMPORARY)
    with telling_full(root):
        os.unlink(root / JOURNAL / INTENT)
    sync_folder(root / JOURNAL)


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _sweep_partial(root: Path) -> list[str]:
    """Remove zarr's `.partial` litter, left where other tools wrote into the group."""
    removed = []
    for path in sorted(root.rglob(f"*{PARTIAL}")):
        path.unlink()
        removed.append(path.relative_to(root).as_posix())
    return removed


def _sweep_headless(folder: Path, root: Path) -> list[str]:
    """Remove journals that a kill left without even a head."""
    removed = []
    for path in sorted(folder.glob(f"*{journal.SUFFIX}")):
        if journal.read_journal(path) is None:
            path.unlink()
            removed.append(path.relative_to(root).as_posix())
    return removed
