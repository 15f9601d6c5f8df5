"""Whether decoding waits while a forward pass has the cores.

A pass splits its work evenly over all cores and waits for the slowest of them, so a decoding thread that takes one
core for a millisecond costs every core that millisecond. Where both want the same cores they take turns: decoding
then runs between passes, on all of them. Where reading is mostly waiting, for a disk or a network, it goes on beside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BUSY = 0.5
"""Share of its time that reading works rather than waits, from which on it takes turns."""
_AFTER_S = 0.1  # of reading, before its share is judged


class Turns:
    """Told by readers and by the forward pass when they begin and end.

    Parameters
    ----------
    taken : bool
        Whether they take turns at all: only where they want the same cores.
    release
        Called by the thread that computes, when a pass has ended and reading is to begin.
    clock, worked
        Seconds that passed; seconds that the calling thread computed.
    """

    def __init__(
        self,
        taken: bool,
        release: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        self._taken, self._release, self._clock, self._worked = taken, release, clock, worked
        self._cores_free = threading.Event()
        self._cores_free.set()
        self._lock = threading.Lock()
        self._read_s = self._worked_s = 0.0

    @property
    def taken(self) -> bool:
        """Whether readers wait for the forward pass to end."""
        return self._taken

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One sample is read, decoded and resampled; begins between forward passes."""
        if not self._taken:
            yield
            return
        self._cores_free.wait()
        began, worked = self._clock(), self._worked()
        try:
            yield
        finally:
            self._judge(self._clock() - began, self._worked() - worked)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A forward pass; what is being read is not waited for."""
        if not self._taken:
            yield
            return
        self._cores_free.clear()
        try:
            yield
        finally:
            self._release()
            self._cores_free.set()

    def _judge(self, read_s: float, worked_s: float) -> None:
        with self._lock:
            self._read_s += read_s
            self._worked_s += worked_s
            if self._read_s > _AFTER_S and self._worked_s < BUSY * self._read_s:
                self._taken = False
                self._cores_free.set()
