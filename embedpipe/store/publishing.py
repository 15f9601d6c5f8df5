"""Publish a working group by hard link: one copy on disk, and a folder that anyone's zarr opens.

Reads a working group; writes a folder of shards (links), zarr.json files and store.json.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from embedpipe.errors import StoreError
from embedpipe.store.arrays import KEYS_LAYOUT, METADATA, PART_LAYOUT, damaged, layout_of
from embedpipe.store.disk import (
    FileRecord,
    make_folder,
    md5s_of_files,
    remove_tree,
    sync_folder,
    telling_full,
    write_file,
)
from embedpipe.store.encoding import encode_group, encode_metadata
from embedpipe.store.group import Group, probe_path
from embedpipe.store.layout import padded
from embedpipe.store.published import NAME, Contents


def publish(
    group: Group,
    tap_names: Sequence[str],
    destination: Path,
    extra_files: Mapping[str, bytes] | None = None,
) -> Contents:
    """Replace `destination` by the named taps of a group.

    Shards are hard links of the group's own; every array has the group's length, so that rows agree, and rows
    that a tap lacks read as NaN and are among its holes. Bytes are the same for the same group.

    Parameters
    ----------
    extra_files : mapping of file name -> content
        Written beside the arrays and verified with them.

    Raises
    ------
    StoreError
        If a tap has no rows, a shard is missing or cut short, or the destination is on another file system.
    DiskFullError
        If the disk is full; what stood at `destination` stays.
    """
    missing = [name for name in tap_names if name not in group.state.taps]
    if missing:
        raise StoreError(f"{group.path}: no features for tap {', '.join(missing)} yet; run extract")
    making = destination.with_name(f".{destination.name}.publishing")
    leaving = destination.with_name(f".{destination.name}.replaced")
    _restore(destination, leaving)
    remove_tree(making)
    make_folder(making)
    _add_md5s(group, tap_names)
    try:
        contents = _fill(making, group, tap_names, extra_files or {})
        if destination.exists():
            os.rename(destination, leaving)
        os.rename(making, destination)
    except BaseException:
        remove_tree(making)
        _restore(destination, leaving)
        raise
    sync_folder(destination.parent)
    remove_tree(leaving)
    return contents


def check_same_filesystem(work: Path, destination: Path) -> None:
    """Raise before any work is done if files under `work` cannot be linked into `destination`.

    Tried with a real file, since bind mounts and overlays refuse links within what looks like one device.

    Raises
    ------
    StoreError
        Says both places and what to do.
    """
    make_folder(work)
    parent = next(p for p in (destination, *destination.parents) if p.is_dir())
    name = f".link-{uuid.uuid4().hex}"
    source, target = work / name, parent / name
    write_file(source, b"")
    try:
        os.link(source, target)
        target.unlink()
    except OSError as error:
        raise _cannot_link(work, destination, error) from error
    finally:
        source.unlink()


def _fill(folder: Path, group: Group, tap_names: Sequence[str], extra_files: Mapping[str, bytes]) -> Contents:
    num_rows = group.num_rows
    taps = {name: padded(group.state.taps[name], num_rows) for name in sorted(tap_names)}
    layouts = [KEYS_LAYOUT, PART_LAYOUT, *(layout_of(tap) for tap in taps.values())]
    files: dict[str, FileRecord] = {}
    for path, record in _linked(group, tap_names).items():
        _link(group.path / path, folder / path, record)
        files[path] = record
    written = {layout.metadata_path: encode_metadata(layout, num_rows) for layout in layouts}
    written[METADATA] = encode_group((layout, num_rows) for layout in layouts)
    written.update(extra_files)
    for path, data in written.items():
        make_folder((folder / path).parent)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        files[path] = dataclasses.replace(write_file(folder / path, data), md5=md5)
    contents = Contents(group.spec, num_rows, taps, dict(sorted(files.items())))
    write_file(folder / NAME, contents.to_bytes())
    return contents


def _linked(group: Group, tap_names: Sequence[str]) -> dict[str, FileRecord]:
    """Files that are published as they lie in the group: shards, and the probe features, so that whoever continues
    this store elsewhere can check the backbone."""
    chosen = tuple(f"{name}/c/" for name in (KEYS_LAYOUT.name, PART_LAYOUT.name, *tap_names))
    probes = {probe_path(name) for name in tap_names}
    return {
        path: record
        for path, record in group.state.files.items()
        if path.startswith(chosen) or path in probes
    }


def _add_md5s(group: Group, tap_names: Sequence[str]) -> None:
    """MD5 of what was never published: only then can DVC hold it. Not at each commit: it is slower than the disk."""
    unknown = [path for path, record in _linked(group, tap_names).items() if record.md5 is None]
    if unknown:
        try:
            found = md5s_of_files([group.path / path for path in unknown])
        except FileNotFoundError as error:
            raise damaged(Path(error.filename), "the file is missing") from error
        group.add_md5s(dict(zip(unknown, found, strict=True)))


def _link(source: Path, target: Path, record: FileRecord) -> None:
    try:
        nbytes = source.stat().st_size
    except FileNotFoundError as error:
        raise damaged(source, "the file is missing") from error
    if nbytes != record.nbytes:
        raise damaged(source, f"expected {record.nbytes} bytes, found {nbytes}")
    make_folder(target.parent)
    try:
        with telling_full(target):
            os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise _cannot_link(source, target, error) from error
        raise


def _cannot_link(source: Path, target: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{source}: cannot be linked into {target} ({error.strerror}): features are published by hard "
        "link, so the working store must lie on the file system of the project and of DVC's cache; "
        "move it there with EMBEDPIPE_CACHE, or move DVC's cache with `dvc cache dir`"
    )


def _restore(destination: Path, leaving: Path) -> None:
    """After a kill between the two renames: put the old folder back, or drop it where the new one stands."""
    if leaving.exists() and not destination.exists():
        os.rename(leaving, destination)
    remove_tree(leaving)
