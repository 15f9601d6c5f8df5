"""One writer a group: a lock file with its owner and a heartbeat.

The file is made by a hard link, which is atomic on network file systems too. A lock of this machine is judged
by whether its process lives, another host's by the age of its heartbeat: the file's modification time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from embedpipe.errors import StoreLocked
from embedpipe.store.disk import telling_full, write_all

NAME = "lock"
BEAT_S = 5.0
STALE_S = 120.0  # another host's lock: far above what a busy network file system delays a beat
POLL_S = 0.2


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes
    ----------
    machine : str
        Host name, boot and process namespace: equal only where process ids mean the same.
    process_start : int
        Clock ticks since boot, so that a reused process id is not taken for the owner.
    since : float
        Unix time.
    """

    host: str
    machine: str
    pid: int
    process_start: int
    since: float
    token: str

    @classmethod
    def here(cls, since: float) -> Self:
        pid = os.getpid()
        return cls(socket.gethostname(), _machine(), pid, _process_start(pid) or 0, since, uuid.uuid4().hex)

    def lives_here(self) -> bool | None:
        """Whether the owner's process runs; None if it is not a process of this machine."""
        if self.machine != _machine():
            return None
        started = _process_start(self.pid)
        if started is None:
            return _responds(self.pid)
        return started == self.process_start or self.process_start == 0


class GroupLock:
    """Context manager that holds the lock of a group.

    Parameters
    ----------
    folder
        Folder of the group.
    wait_s
        Seconds to wait for another owner to finish.
    clock
        Unix time.

    Raises
    ------
    StoreLocked
        On entering, if another process holds the lock after `wait_s`; says who and since when.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wait_s: float = 0.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        beat_s: float = BEAT_S,
        stale_s: float = STALE_S,
    ) -> None:
        self.path = folder / NAME
        self._wait_s = wait_s
        self._clock = clock
        self._sleep = sleep
        self._beat_s = beat_s
        self._stale_s = stale_s
        self._fd = -1
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        began = self._clock()
        while True:
            held = self._try()
            if held is None:
                break
            if self._clock() - began >= self._wait_s:
                raise StoreLocked(held)
            self._sleep(POLL_S)
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="embedpipe-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._alone():
            if self._is_ours():
                self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def check(self) -> None:
        """Raise StoreLocked if the lock was lost: a suspended process may have been declared dead."""
        if not self._is_ours():
            raise StoreLocked(
                f"{self.path}: this process held the lock and lost it while it was suspended for longer than "
                f"{self._stale_s:.0f} s; nothing was committed since: run again"
            )

    def _try(self) -> str | None:
        """Take the lock, or say who holds it."""
        owner = Owner.here(self._clock())
        mine = self.path.with_name(f"{NAME}.{owner.token}")
        fd = -1
        try:
            with telling_full(mine):
                fd = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                write_all(fd, json.dumps(owner.__dict__, sort_keys=True).encode())
                os.utime(fd, (owner.since, owner.since))
                with self._alone():
                    held = self._standing()
                    if held is None:
                        os.link(mine, self.path)
                        self._fd, fd = fd, -1
                        self._sweep(mine)
            return held
        except FileExistsError:
            return f"{self.path}: another process took the lock at this moment; run again"
        finally:
            if fd >= 0:
                os.close(fd)
            mine.unlink(missing_ok=True)

    def _sweep(self, mine: Path) -> None:
        """Remove what processes that were killed while they took the lock have left. Call alone."""
        for path in self.path.parent.glob(f"{NAME}.*"):
            with contextlib.suppress(OSError):
                age = self._clock() - path.stat().st_mtime
                lives = None
                with contextlib.suppress(ValueError, TypeError):
                    lives = Owner(**json.loads(path.read_bytes())).lives_here()
                if path != mine and (lives is False or (lives is None and age > self._stale_s)):
                    path.unlink()

    def _standing(self) -> str | None:
        """Who holds the lock, in words; a dead owner's lock is removed. Call alone."""
        try:
            raw = self.path.read_bytes()
            beat = self.path.stat().st_mtime
        except FileNotFoundError:
            return None
        age = self._clock() - beat
        try:
            owner = Owner(**json.loads(raw))
        except (ValueError, TypeError):
            owner = None
        lives = None if owner is None else owner.lives_here()
        if lives is False or (lives is None and age > self._stale_s):
            self.path.unlink(missing_ok=True)
            return None
        if owner is None:
            return f"{self.path}: an unreadable lock stands, {age:.0f} s old; remove it if no run is alive"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
        if lives is None:
            return (
                f"{self.path}: held by process {owner.pid} on {owner.host} since {since}, last heard of "
                f"{max(age, 0):.0f} s ago; wait for it, or {self._stale_s:.0f} s after it died"
            )
        return (
            f"{self.path}: held by process {owner.pid} on this machine since {since}; wait for it or stop it"
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Between processes of this machine, judging and taking a lock is one step."""
        fd = os.open(self.path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without flock: the link alone must do
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _is_ours(self) -> bool:
        try:
            standing, ours = self.path.stat(), os.fstat(self._fd)
        except OSError:
            return False
        return (standing.st_dev, standing.st_ino) == (ours.st_dev, ours.st_ino)

    def _beat(self) -> None:
        # through the open file: a lock that was taken over is another file and stays untouched
        while not self._stop.wait(self._beat_s):
            now = self._clock()
            with contextlib.suppress(OSError):
                os.utime(self._fd, (now, now))


def _machine() -> str:
    parts: list[Any] = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _process_start(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None if it is not there or cannot be known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])  # a zombie holds nothing


def _responds(pid: int) -> bool:
    if Path("/proc/self/stat").exists():  # /proc knows every process, and this one it does not
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
