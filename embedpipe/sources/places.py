"""Files here and at addresses such as s3://bucket/folder: listed, stamped, read whole or in part, copied.

One class for both, so that a source need not know which it reads. Credentials and endpoints come from the environment.
Knows nothing of what the files hold. Safe in threads and after a fork: a file system is asked for at each call.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.remote import filesystem, is_remote

STORAGE = (
    "What the file system of an address is made with, such as {anon: true} for a public bucket; credentials and "
    "endpoints belong in the environment; null: none."
)
# what tells one version of a remote file from another, the best first
_ETAGS = ("ETag", "etag", "generation", "Content-MD5", "md5Hash")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "Last-Modified", "created")


@dataclass(frozen=True)
class FileInfo:
    """What a listing says of a file.

    Attributes
    ----------
    nbytes : int
    stamp : str
        Changes when the content may have; empty where the file system says nothing of it.
    """

    nbytes: int
    stamp: str


def locate(root: Path, path: str) -> str:
    """An address as it is; a path absolute, where a relative one starts at `root`."""
    return path.rstrip("/") if is_remote(path) else str((root / Path(path).expanduser()).resolve())


def join(base: str, name: str) -> str:
    """The address of `name` inside the folder `base`; a name that is absolute or an address stays as it is."""
    if is_remote(name):
        return name
    return f"{base}/{name}" if is_remote(base) else str(Path(base) / name)


def parent_of(address: str) -> str:
    """The folder that a file lies in."""
    return address.rsplit("/", 1)[0] if is_remote(address) else str(Path(address).parent)


def base_of(pattern: str) -> str:
    """The folder of a pattern that holds all that it matches."""
    special = min((place for letter in "*?[{" if (place := pattern.find(letter)) >= 0), default=len(pattern))
    return parent_of(pattern[:special] + "x")


def suffix_of(address: str) -> str:
    """``.parquet``, in lower case."""
    return os.path.splitext(address.rsplit("/", 1)[-1])[1].lower()


@dataclass
class Files:
    """The files of one source.

    Attributes
    ----------
    storage : mapping
        Options of fsspec's file system.
    spool : Path or None
        Folder of local copies of what lies at addresses.
    spooling : bool
        Whether what is fetched is copied there.
    """

    storage: Mapping[str, Any] = field(default_factory=dict)
    spool: Path | None = None
    spooling: bool = False
    _listed: set[str] = field(default_factory=set, repr=False)

    def info(self, address: str) -> FileInfo:
        """Size and stamp of one file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        DataError
            If the place cannot be reached.
        """
        if not is_remote(address):
            stat = os.stat(address)
            return FileInfo(stat.st_size, f"{stat.st_size} {stat.st_mtime_ns}")
        with _reaching(address):
            return _info_of(self._filesystem(address).info(address))

    def exists(self, address: str) -> bool:
        """Whether there is a file or a folder."""
        if not is_remote(address):
            return os.path.exists(address)
        with _reaching(address):
            return bool(self._filesystem(address).exists(address))

    def find(self, address: str) -> Iterator[tuple[str, FileInfo]]:
        """Every file below a folder at an address: path inside it, and what the listing says.

        Raises
        ------
        DataError
            If it cannot be reached or listed.
        """
        with _reaching(address):
            remote = self._filesystem(address)
            remote.invalidate_cache()
            found = remote.find(address, detail=True)
            base = str(remote._strip_protocol(address)).rstrip("/") + "/"
        for path in sorted(found):
            yield str(remote._strip_protocol(path)).removeprefix(base), _info_of(found[path])

    def glob(self, pattern: str) -> list[str]:
        """Addresses that match ``*``, ``?`` and ``{000..012}`` of a pattern, sorted; itself where it has none."""
        out: list[str] = []
        for one in _braces(pattern):
            if not any(letter in one for letter in "*?["):
                out.append(one)
            elif is_remote(one):
                with _reaching(one):
                    remote = self._filesystem(one)
                    remote.invalidate_cache()
                    out += sorted(str(remote.unstrip_protocol(path)) for path in remote.glob(one))
            else:
                root = Path(one).anchor
                out += sorted(str(path) for path in Path(root).glob(str(Path(one).relative_to(root))))
        return out

    def fetch(self, address: str, info: FileInfo | None = None) -> bytes:
        """A file's bytes from where it is; a copy of them is kept where the source is spooled.

        Raises
        ------
        UnreadableSample
            If there is no such file.
        DataError
            If the place cannot be reached.
        """
        if not is_remote(address):
            return _read_local(address)
        with _reaching(address), _as_unreadable():
            content = bytes(self._filesystem(address).cat_file(address))
        if self.spooling:
            self._keep(address, content, info)
        return content

    def read(self, address: str) -> bytes:
        """A file's bytes: from the copy that was kept of it, if there is one. Errors as `fetch`."""
        kept = self.kept(address)
        return _read_local(str(kept)) if kept is not None else self._without_spooling().fetch(address)

    def read_range(self, address: str, start: int, nbytes: int) -> bytes:
        """Part of a file; shorter where the file ends. Errors as `fetch`."""
        kept = self.kept(address) if is_remote(address) else Path(address)
        if kept is None:
            with _reaching(address), _as_unreadable():
                return bytes(self._filesystem(address).cat_file(address, start=start, end=start + nbytes))
        try:
            with kept.open("rb") as file:
                return os.pread(file.fileno(), nbytes, start)
        except FileNotFoundError as error:
            raise UnreadableSample("no such file") from error
        except OSError as error:
            raise UnreadableSample(f"cannot be read ({error.strerror or error})") from error

    def open(self, address: str, *, sparsely: bool = False) -> BinaryIO:
        """A file to read and seek in, from the copy that was kept of it if there is one. Errors as `fetch`.

        Parameters
        ----------
        sparsely
            Fetch what is read and nothing ahead of it: more requests, fewer bytes.
        """
        kept = self.kept(address) if is_remote(address) else Path(address)
        if kept is not None:
            with _as_unreadable():
                return kept.open("rb")
        with _reaching(address), _as_unreadable():
            cache = {"cache_type": "none"} if sparsely else {}
            return cast(BinaryIO, self._filesystem(address).open(address, "rb", **cache))

    def path(self, address: str) -> str | None:
        """Where the file lies on this disk, itself or as a copy; None if it is elsewhere alone."""
        if not is_remote(address):
            return address
        kept = self.kept(address)
        return None if kept is None else str(kept)

    def copy(self, address: str, info: FileInfo) -> str:
        """A local copy that is up to date by its stamp; the file itself where it is local. Errors as `fetch`."""
        if not is_remote(address) or self.spool is None:
            return address
        path = self._place(address)
        self._listed.add(path.name)
        if info.stamp and _stamp_of(path) == info.stamp:
            return str(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        try:
            with _reaching(address), _as_unreadable():
                self._filesystem(address).get_file(address, str(temporary))
            _put(temporary, path, info)
        finally:
            temporary.unlink(missing_ok=True)
        return str(path)

    def kept(self, address: str) -> Path | None:
        """The copy that an earlier run kept of what lies at an address."""
        if self.spool is None or not is_remote(address):
            return None
        path = self._place(address)
        return path if path.is_file() else None

    def list_as_kept(self, address: str) -> None:
        """Note that a file is still of use, so that `sweep` leaves its copy."""
        if self.spooling and self.spool is not None and is_remote(address):
            self._listed.add(self._place(address).name)

    def sweep(self) -> None:
        """Remove copies that the last scan had no use for."""
        if self.spool is None or not self.spool.is_dir():
            return
        for path in self.spool.glob("*/*"):
            if path.name.removesuffix(_STAMP) not in self._listed:
                path.unlink(missing_ok=True)

    def _keep(self, address: str, content: bytes, info: FileInfo | None) -> None:
        path = self._place(address)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.write_bytes(content)
        _put(temporary, path, info)
        self._listed.add(path.name)

    def _place(self, address: str) -> Path:
        assert self.spool is not None
        name = hashlib.blake2b(address.encode(), digest_size=16).hexdigest()
        return self.spool / name[:2] / name

    def _filesystem(self, address: str) -> Any:
        return filesystem(address, self.storage)

    def _without_spooling(self) -> Files:
        return Files(self.storage, self.spool)


_STAMP = ".stamp"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def _put(temporary: Path, path: Path, info: FileInfo | None) -> None:
    """Rename into place; the stamp goes first and comes last, so that it never stands beside other content."""
    stamp = path.with_name(path.name + _STAMP)
    stamp.unlink(missing_ok=True)
    temporary.replace(path)
    if info is not None and info.stamp:
        stamp.write_text(info.stamp, encoding="utf-8")


def _stamp_of(path: Path) -> str | None:
    try:
        return path.with_name(path.name + _STAMP).read_text(encoding="utf-8") if path.is_file() else None
    except FileNotFoundError:
        return None


def _info_of(raw: Mapping[str, Any]) -> FileInfo:
    version = next((str(raw[name]).strip('"') for name in (*_ETAGS, *_TIMES) if raw.get(name)), "")
    nbytes = int(raw.get("size") or 0)
    return FileInfo(nbytes, f"{nbytes} {version}" if version else "")


def _read_local(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UnreadableSample("no such file") from error
    except OSError as error:
        raise UnreadableSample(f"cannot be read ({error.strerror or error})") from error


@contextlib.contextmanager
def _as_unreadable() -> Iterator[None]:
    """A file that is not there is a sample's own failure; a network that is not, the run's."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableSample("no such file") from error


@contextlib.contextmanager
def _reaching(address: str) -> Iterator[None]:
    """Say in one sentence why an address cannot be reached; a missing file stays a FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, DataError, ConfigError):
        raise
    except Exception as error:  # each file system has errors of its own, and its client's
        raise unreachable(address, error) from error


def unreachable(address: str, error: Exception) -> DataError:
    """Why an address cannot be read, in one sentence."""
    return DataError(f"{address}: {_reason(error)}")


def _reason(error: Exception) -> str:
    names = {type(one).__name__ for one in _chain(error)}
    said = " ".join(str(error).split())[:200] or type(error).__name__
    if any("Credential" in name or "Token" in name for name in names):
        return (
            f"expected credentials, found none that serve ({said}); set them in the environment (for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or storage: {anon: true} for a public bucket"
        )
    if isinstance(error, PermissionError):
        return f"access was denied ({said}); check the credentials in the environment"
    return f"cannot be reached ({type(error).__name__}: {said}); check the address and the network"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _braces(pattern: str) -> list[str]:
    """``{a,b}`` and ``{000..012}`` written out, as shells and WebDataset have them."""
    start = pattern.find("{")
    stop = pattern.find("}", start)
    if start < 0 or stop < 0:
        return [pattern]
    inside = pattern[start + 1 : stop]
    low, dots, high = inside.partition("..")
    if dots and low.isdecimal() and high.isdecimal():
        choices = [str(i).zfill(len(low)) for i in range(int(low), int(high) + 1)]
    else:
        choices = inside.split(",")
    return [pattern[:start] + choice + rest for choice in choices for rest in _braces(pattern[stop + 1 :])]
