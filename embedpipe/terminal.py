"""What a person sees in the terminal: progress bars, and errors as one sentence. Or a machine: JSON lines.

Knows nothing of the pipeline.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask

from embedpipe.errors import EmbedpipeError
from embedpipe.progress import Progress as ProgressCallback
from embedpipe.progress import duration_text

console = Console(stderr=True)
DELAY_S = 1.0  # work shorter than this shows no bar
LINE_EVERY_S = 10.0  # between lines of progress where there is no terminal
_as_json = [False]


def log_json(wanted: bool = True) -> None:
    """From now on write one JSON object a line on stderr: ``time``, ``event`` and the event's own fields."""
    _as_json[0] = wanted


def _log(event: str, **fields: object) -> None:
    record = {"time": round(time.time(), 3), "event": event, **fields}
    print(json.dumps(record, ensure_ascii=False), file=sys.stderr, flush=True)


class _Rate(TextColumn):
    """Units a second over the whole run."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: ProgressTask):  # type: ignore[no-untyped-def]
        from rich.text import Text

        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="dim")


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback]:
    """Yield a callback ``(done, total, what)`` that draws a bar once work has lasted a second.

    Without a terminal (a log file, CI) a line is printed every ten seconds instead, in JSON where that is wanted.
    """
    if _as_json[0] or not console.is_terminal:
        yield _LineProgress(title)
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}"),
        _Rate(), TimeRemainingColumn(), TextColumn("{task.fields[detail]}", style="dim"),
        console=console, transient=True,
    )  # fmt: skip
    tasks: dict[str, object] = {}
    began = time.monotonic()

    def report(done: int, total: int, what: str, detail: str = "") -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(title, total=total, completed=done, what=what, detail=detail)
        bar.update(tasks[what], completed=done, total=total, detail=detail)  # type: ignore[arg-type]
        if not bar.live.is_started and time.monotonic() - began > DELAY_S:
            bar.start()

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()


class _LineProgress:
    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.title = title
        self._clock = clock
        self._last = clock()
        self._first: dict[str, tuple[float, int]] = {}

    def __call__(self, done: int, total: int, what: str, detail: str = "") -> None:
        now = self._clock()
        began, before = self._first.setdefault(what, (now, done))
        if now - self._last < LINE_EVERY_S:
            return
        self._last = now
        rate = (done - before) / (now - began) if now > began else 0.0
        left_s = (total - done) / rate if rate > 0 else None
        if _as_json[0]:
            _log("progress", title=self.title, done=done, total=total, what=what,
                 rate=round(rate, 3), left_s=None if left_s is None else round(left_s, 1), detail=detail)  # fmt: skip
            return
        ahead = "" if left_s is None else f", {rate:,.0f}/s, {duration_text(left_s)} left"
        shares = f" ({detail})" if detail else ""
        console.print(f"{self.title}: {done:,} of {total:,} {what}{ahead}{shares}", highlight=False)


def say(text: str, event: str = "message", **fields: object) -> None:
    """Print one line for a person, on stderr: stdout is for what a machine may read.

    Parameters
    ----------
    event, fields
        What a JSON log has beside the text.
    """
    if _as_json[0]:
        _log(event, text=text, **fields)
    else:
        console.print(text, highlight=False, soft_wrap=True, markup=False)


def exit_with(error: EmbedpipeError, debug: bool = False) -> int:
    """Print a user's mistake as its message alone and return the exit code."""
    if debug or os.environ.get("EMBEDPIPE_DEBUG"):
        traceback.print_exc()
    if _as_json[0]:
        _log("error", text=str(error), kind=type(error).__name__, exit_code=error.exit_code)
    else:
        console.print(f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
    return error.exit_code


def run_stage(step: Callable[..., object], *names: str) -> None:
    """Run one step for a DVC stage: arguments from the command line, errors as one sentence."""
    from embedpipe.workspace import find_workspace

    arguments = sys.argv[1:]
    if len(arguments) != len(names):
        sys.exit(f"usage: {sys.argv[0]} {' '.join(name.upper() for name in names)}")
    try:
        step(find_workspace(), *arguments)
    except EmbedpipeError as error:
        sys.exit(exit_with(error))
    except KeyboardInterrupt:
        sys.exit(130)
