"""Kill a run at its n-th file operation: from there on every operation fails, as for a dead process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

OPERATIONS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "link", "ftruncate")


class Killed(BaseException):
    """The simulated kill; no `except Exception` catches it."""


class Killer:
    """Count file operations and die at one of them.

    Attributes
    ----------
    at : int or None
        Operation that is the last; None never.
    torn : bool
        A write that is killed leaves half of its bytes.
    """

    def __init__(self) -> None:
        self.at: int | None = None
        self.torn = False
        self.count = 0
        self.dead = False
        self.lock = threading.RLock()
        self.writes: list[int] = []  # which operations were writes

    def reset(self, at: int | None, *, torn: bool = False) -> None:
        self.at, self.torn, self.count, self.dead, self.writes = at, torn, 0, False, []

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and args[1] & (os.O_WRONLY | os.O_RDWR) == 0:
                return real(*args, **kwargs)  # reading leaves no trace
            with self.lock:  # shards are written by a thread
                if self.dead:
                    raise Killed
                if name == "write":
                    self.writes.append(self.count)
                self.count += 1
                if self.count - 1 == self.at:
                    self.dead = True
                    if self.torn and name == "write":
                        real(args[0], bytes(args[1])[: len(args[1]) // 2])
                    raise Killed
                return real(*args, **kwargs)

        return operation


@contextlib.contextmanager
def killable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Killer]:
    """Put the killer into `os` for a while."""
    killer = Killer()
    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, killer.wrap(name, getattr(os, name)))
        yield killer
