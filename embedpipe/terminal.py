"""What a person sees in the terminal: progress bars, and errors as one sentence.

Knows nothing of the pipeline.
"""

from __future__ import annotations

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

console = Console(stderr=True)
DELAY_S = 1.0  # work shorter than this shows no bar


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

    Without a terminal (a log file, CI) a line is printed every ten seconds instead.
    """
    if not console.is_terminal:
        yield _LineProgress(title)
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}"),
        _Rate(), TimeRemainingColumn(), console=console, transient=True,
    )  # fmt: skip
    tasks: dict[str, object] = {}
    began = time.monotonic()

    def report(done: int, total: int, what: str) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(title, total=total, what=what)
        bar.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]
        if not bar.live.is_started and time.monotonic() - began > DELAY_S:
            bar.start()

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()


class _LineProgress:
    def __init__(self, title: str) -> None:
        self.title = title
        self.last = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self.last >= 10.0:
            self.last = now
            console.print(f"{self.title}: {done:,} of {total:,} {what}", highlight=False)


def say(text: str) -> None:
    """Print one line for a person, on stderr: stdout is for what a machine may read."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def exit_with(error: EmbedpipeError, debug: bool = False) -> int:
    """Print a user's mistake as its message alone and return the exit code."""
    if debug or os.environ.get("EMBEDPIPE_DEBUG"):
        traceback.print_exc()
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
