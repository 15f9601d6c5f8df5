"""Free what nothing needs any more: working groups of no backbone, rows of no sample, fits of no scores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedpipe.errors import DataError, StoreError
from embedpipe.manifest.table import Manifest
from embedpipe.spec import BackboneSpec
from embedpipe.steps.sections import Sections
from embedpipe.steps.stores import StorePlaces
from embedpipe.store import ledger, published
from embedpipe.store.disk import remove_tree
from embedpipe.store.group import GROUP, Group, GroupInfo, find_groups, open_group
from embedpipe.store.lock import GroupLock
from embedpipe.store.published import parse_contents
from embedpipe.terminal import say
from embedpipe.tracking import TrackedFolder, tracked_outs
from embedpipe.train.memo import unneeded
from embedpipe.upkeep.compaction import Dead, compact, find_dead
from embedpipe.workspace import Workspace


@dataclass
class Garbage:
    """What `gc` would free.

    Attributes
    ----------
    groups : list of GroupInfo
        Working groups that no backbone of params.yaml and no committed store has.
    dead : list of (Group, Dead)
        Rows of the others that no manifest names.
    fits : list of Path
        Kept fits, screens and arms that no task needed when it was last trained, and training that was never finished.
    unknown : bool
        Whether a task was not trained yet, so that nobody knows which fits are needed: none is listed.
    shared : bool
        Whether the working folder lies outside of the project, so that others may use it.
    """

    groups: list[GroupInfo] = field(default_factory=list)
    dead: list[tuple[Group, Dead]] = field(default_factory=list)
    fits: list[Path] = field(default_factory=list)
    unknown: bool = False
    shared: bool = False

    def __bool__(self) -> bool:
        return bool(self.groups or self.dead or self.fits)

    def to_dict(self) -> dict[str, Any]:
        return {
            "groups": [
                {"group": info.path.name, "architecture": info.spec.architecture, **_sizes([info.path])}
                for info in self.groups
            ],
            "rows": [
                {"group": group.path.name, "num_dead": dead.num_rows, "num_rows": group.num_rows,
                 "nbytes": dead.nbytes, "rewritten_nbytes": dead.rewritten_nbytes}
                for group, dead in self.dead
            ],
            "fits": {"num": len(self.fits), "nbytes": _sizes(self.fits)["nbytes"], "unknown": self.unknown},
            "shared": self.shared,
        }  # fmt: skip


def find_garbage(workspace: Workspace) -> Garbage:
    """List what can be freed; touches nothing.

    Raises
    ------
    DataError
        If a data set has no manifest yet: then all of its rows would look dead.
    """
    backbones = Sections(workspace).entries("backbones")
    used = {spec for name in backbones for spec in StorePlaces(workspace, name).specs}
    used |= set(_committed_specs(workspace))
    wanted = _wanted_keys(workspace)
    garbage = Garbage(shared=not workspace.work_dir.is_relative_to(workspace.root))
    for info in find_groups(workspace.stores_dir):
        if info.spec not in used:
            garbage.groups.append(info)
            continue
        group = open_group(workspace.stores_dir, info.spec, generation=info.generation)
        with group.lock():
            group.recover()
            dead = find_dead(group, wanted)
        if group.num_rows and dead.num_rows == group.num_rows:
            garbage.groups.append(info)
        elif dead.num_rows:
            garbage.dead.append((group, dead))
    tasks = [f"{kind}.{task}" for task in Sections(workspace).raw("tasks") for kind in ("fits", "screens")]
    fits = unneeded(workspace.memo_dir, tasks)
    arms = unneeded(
        workspace.transfer_memo_dir, [f"transfer.{task}" for task in Sections(workspace).raw("tasks")]
    )
    begun = sorted(workspace.runs_dir.iterdir()) if workspace.runs_dir.is_dir() else []
    garbage.fits, garbage.unknown = [*(fits or []), *(arms or []), *begun], fits is None or arms is None
    return garbage


def collect_garbage(workspace: Workspace, garbage: Garbage) -> None:
    """Free it. What has changed since it was found is looked at again."""
    for info in garbage.groups:
        with GroupLock(info.path):  # nobody is filling it at this moment
            # without its name plate it is no group: a kill from here on leaves a folder that the next gc removes
            (info.path / GROUP).unlink()
            (info.path / ledger.NAME).unlink(missing_ok=True)
        remove_tree(info.path)
    for path in workspace.stores_dir.iterdir():
        if path.is_dir() and not (path / GROUP).exists() and not (path / ledger.NAME).exists():
            remove_tree(path)
    wanted = _wanted_keys(workspace)
    for group, _ in garbage.dead:
        with group.lock():
            group.recover()
            dead = find_dead(group, wanted)
            if not dead.mask.all():
                compact(group, dead.mask)
    for path in garbage.fits:
        remove_tree(path)


def show_garbage(garbage: Garbage, *, freed: bool) -> None:
    """What would be, or was, freed."""
    told = garbage.to_dict()
    if not garbage:
        say("nothing to free: every group has its backbone, every row its sample")
        _say_unknown(garbage)
        return
    verb = "freed" if freed else "to free"
    for one in told["groups"]:
        held = (
            f", of which {_megabytes(one['linked_nbytes'])} stay on disk as DVC's objects"
            if one["linked_nbytes"]
            else ""
        )
        say(f"{verb}: group {one['group']} ({one['architecture']}): {_megabytes(one['nbytes'])}{held}")
    for one in told["rows"]:
        say(
            f"{verb}: {one['num_dead']:,} of {one['num_rows']:,} rows of group {one['group']}: about "
            f"{_megabytes(one['nbytes'])}, {_megabytes(one['rewritten_nbytes'])} written anew"
        )
    if garbage.fits:
        say(f"{verb}: {len(garbage.fits):,} kept fits that no task needed when it was last trained: "
            f"{_megabytes(told['fits']['nbytes'])}")  # fmt: skip
    _say_unknown(garbage)
    if any(one["linked_nbytes"] for one in told["groups"]) or told["rows"]:
        say("what DVC keeps is freed by `dvc gc --workspace`, once a new store is published and committed")
    if garbage.shared:
        say(
            "the working folder lies outside of the project: make sure that no other project uses what is listed"
        )
    if not freed:
        say("nothing was removed; run `embedpipe gc --yes` to free it")


def _say_unknown(garbage: Garbage) -> None:
    if garbage.unknown:
        say(
            "kept fits are left alone: a task of params.yaml was not trained yet, so which are needed is not known"
        )


def _committed_specs(workspace: Workspace) -> Iterable[BackboneSpec]:
    """Specs of the stores that dvc.lock names, as it is and as committed."""
    features = f"{(workspace.data / 'features').relative_to(workspace.root).as_posix()}/"
    for revision in (None, "HEAD"):
        for path in tracked_outs(workspace.root, revision=revision, containing=features):
            if path.startswith(features):
                data = TrackedFolder(workspace.root, workspace.root / path, revision=revision).read(
                    published.NAME
                )
                with contextlib.suppress(
                    StoreError
                ):  # one of another format names no group that could be read
                    if data is not None:
                        yield parse_contents(data, path).spec


def _wanted_keys(workspace: Workspace) -> np.ndarray:
    found = []
    for name in Sections(workspace).entries("datasets"):
        path = workspace.manifest(name)
        if not path.is_file():
            raise DataError(
                f"{path}: expected the manifest of every data set, to know which rows are dead, found none; run "
                f"`embedpipe ingest {name}` first"
            )
        found.append(Manifest.read(path).keys)
    return np.concatenate(found)


def _sizes(folders: Iterable[Path]) -> dict[str, int]:
    """Bytes in folders, and how many of them stay because other links hold them."""
    stats = [p.stat() for folder in folders for p in folder.rglob("*") if p.is_file()]
    return {
        "nbytes": sum(s.st_size for s in stats),
        "linked_nbytes": sum(s.st_size for s in stats if s.st_nlink > 1),
    }


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
