"""When a run ends before it is done: a signal, or an hour that was given to it. Nothing computed is lost.

Ctrl-C and SIGTERM (what a cluster sends before it takes the machine away) finish the batches in hand; a second
Ctrl-C stops at once. `stop_after` finishes the block in hand.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from embedpipe.errors import Stopped

INTERRUPTED = 130  # what shells give for Ctrl-C


class Stopping:
    """Context manager that turns signals into a flag, and watches the clock.

    Parameters
    ----------
    after_s
        Seconds of work before the run ends at the next block; None: no limit.
    clock
        Monotonic seconds.
    """

    def __init__(self, after_s: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._after_s, self._clock, self._began = after_s, clock, clock()
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # nobody else is sent signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def asked(self) -> bool:
        """Whether to begin nothing more."""
        return self._signal is not None

    def due(self) -> bool:
        """Whether to begin no further block."""
        late = self._after_s is not None and self._clock() - self._began >= self._after_s
        return self.asked() or late

    def error(self, name: str, done: int, total: int) -> Stopped:
        """What the run ends with, in a sentence that says how to go on."""
        why = "stopped when its time was up (stop_after)"
        if self._signal is not None:
            why = f"stopped by {'Ctrl-C' if self._signal == signal.SIGINT else 'SIGTERM'}"
        error = Stopped(
            f"{name}: {why} with {done:,} of {total:,} samples embedded, all of them kept; the same command goes "
            "on from there"
        )
        if self._signal == signal.SIGINT:
            error.exit_code = INTERRUPTED
        return error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._restore()  # a second one is not waited with

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
