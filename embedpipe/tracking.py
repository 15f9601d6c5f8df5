"""All contact with DVC's data: what dvc.lock names for a path, and where DVC keeps its objects.

Reads dvc.lock, DVC's configuration, its cache and, where the cache lacks a file, its remotes; DVC itself is
imported only for the last two. Knows nothing of features.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

LOCK = "dvc.lock"


@dataclass(frozen=True)
class DvcCache:
    """DVC's cache: files named by the MD5 of their bytes."""

    folder: Path

    def object(self, md5: str) -> Path:
        """Where the file of an MD5 lies, if it is there. A folder's MD5 ends in ``.dir``."""
        return self.folder / "files" / "md5" / md5[:2] / md5[2:]

    def listing(self, md5: str) -> dict[str, str] | None:
        """Path -> MD5 of the files of a folder; None if the cache lacks the list or it is damaged."""
        try:
            return {entry["relpath"]: entry["md5"] for entry in json.loads(self.object(md5).read_bytes())}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, md5: str, source: Path) -> None:
        """Link a file, whose MD5 was checked, in as an object; replaces what stands there."""
        target = self.object(md5)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.embedpipe")
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # the rename of a link onto the same file leaves both


class TrackedFolder:
    """A folder as dvc.lock names it, whether or not it lies in the working tree; nothing is read before it is asked.

    Parameters
    ----------
    root : Path
        Folder of ``.dvc`` and of dvc.lock.
    folder : Path
        The out, under `root`.
    revision : str or None
        Read dvc.lock as a git revision has it, e.g. ``HEAD``.
    """

    def __init__(self, root: Path, folder: Path, *, revision: str | None = None) -> None:
        self.root = root
        self.path = folder.relative_to(root).as_posix()
        self.revision = revision

    @property
    def where(self) -> str:
        return f"what {LOCK} names for {self.path}"

    @cached_property
    def md5(self) -> str | None:
        """Of the list of its files; None without DVC, without dvc.lock, or if that names no such folder."""
        md5 = tracked_outs(self.root, revision=self.revision, containing=self.path).get(self.path)
        return md5 if md5 is not None and md5.endswith(".dir") else None

    @cached_property
    def cache(self) -> DvcCache:
        return cache_of(self.root)

    @cached_property
    def files(self) -> dict[str, str]:
        """Path in the folder -> MD5; empty if neither cache nor remotes have the list."""
        if self.md5 is None:
            return {}
        listed = self.cache.listing(self.md5)
        if listed is None:
            with contextlib.suppress(Exception):  # no remote, no network, no credentials: all the same here
                found = self._dvc.find(self.path, detail=True, dvc_only=True)
                listed = {
                    Path(path).relative_to(self.path).as_posix(): info["md5"] for path, info in found.items()
                }
        return listed or {}

    def read(self, path: str) -> bytes | None:
        """A small file; None if neither cache nor remotes have it."""
        md5 = self.files.get(path)
        if md5 is None:
            return None
        with contextlib.suppress(OSError):
            return self.cache.object(md5).read_bytes()
        with contextlib.suppress(Exception):
            return bytes(self._dvc.read_bytes(f"{self.path}/{path}"))
        return None

    def fetch(self, paths: Sequence[str], folder: Path) -> None:
        """Bring files to the same paths under `folder`: by link from the cache, else from a remote."""
        for path in paths:
            md5, target = self.files.get(path), folder / path
            if md5 is None:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                os.link(self.cache.object(md5), target)
                continue
            with contextlib.suppress(Exception):
                self._dvc.get_file(f"{self.path}/{path}", str(target))

    @cached_property
    def _dvc(self) -> Any:
        from dvc.api import DVCFileSystem

        return DVCFileSystem(str(self.root), rev=self.revision)


def tracked_outs(root: Path, *, revision: str | None = None, containing: str = "") -> dict[str, str]:
    """Path -> MD5 of every out that dvc.lock names; {} if it is not there or does not mention `containing`."""
    if not (root / ".dvc").is_dir():
        return {}
    text = _lock_text(root, revision)
    if containing not in text:
        return {}
    try:
        stages = (YAML(typ="safe", pure=True).load(text) or {}).get("stages", {})
    except YAMLError:
        return {}
    return {
        out["path"]: out["md5"]
        for stage in stages.values()
        for out in stage.get("outs", [])
        if out.get("hash") == "md5" and "md5" in out
    }


def _lock_text(root: Path, revision: str | None) -> str:
    if revision is None:
        try:
            return (root / LOCK).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
    command = ["git", "show", f"{revision}:./{LOCK}"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    except FileNotFoundError:  # no git
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def cache_of(root: Path) -> DvcCache:
    """DVC's cache of a project."""
    config = _config(root)
    folder = config.get("cache", {}).get("dir")
    dvc_dir = root / ".dvc"
    return DvcCache((root / (Path(folder) if folder else dvc_dir / "cache")).resolve())


def remotes_of(root: Path) -> dict[str, str]:
    """Remotes by name with their addresses."""
    return {name: str(remote.get("url", "")) for name, remote in _config(root).get("remote", {}).items()}


def held_by_remote(root: Path, remote: str, md5s: Sequence[str]) -> list[str] | None:
    """Which objects a remote holds; None if it cannot be asked."""
    try:
        from dvc.repo import Repo

        with Repo(str(root)) as repo:
            odb = repo.cloud.get_remote_odb(remote)
            return [md5 for md5 in md5s if odb.exists(md5)]
    except Exception:  # whatever a remote's client raises: it could not be asked
        return None


def _config(root: Path) -> Mapping[str, Any]:
    if not (root / ".dvc").is_dir():
        return {}
    # only DVC's configuration is read: opening its repository takes a second more
    from dvc.config import Config

    config: Mapping[str, Any] = Config(str(root / ".dvc"))
    return config
