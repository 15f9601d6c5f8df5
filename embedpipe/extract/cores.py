"""How the threads of a run share its cores: readers beside or between forward passes. Knows nothing of what is read."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import ThreadpoolController, threadpool_limits

_OMP_PAUSE_SOFT = 1  # of omp.h


def open_readers(num: int, *, spread: bool = False, yields: bool = False) -> ThreadPoolExecutor:
    """Threads that read and decode.

    Parameters
    ----------
    spread
        Whether each keeps to one core, where readers are at least as many as cores. Threads that hand Python's lock to
        one another are woken where the other runs, and two of them may share a core while the next is idle: 32
        photographs took 22 ms instead of 15.
    yields
        Whether they run only where a core is free.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cores = itertools.cycle(allowed if len(allowed) <= num else [])
    return ThreadPoolExecutor(num, "embedpipe-reader", _begin, (cores if spread else iter(()), yields))


def release_cores() -> None:
    """Send the calling thread's OpenMP helpers away; its next forward pass calls them back, for 0.1 ms (GNU's OpenMP).

    They would spin for 5 ms behind a pass, each on a core that a reader could decode on.
    """
    for pause in _pauses():
        pause(_OMP_PAUSE_SOFT)


@functools.cache
def _pauses() -> list[Callable[[int], int]]:
    found = ThreadpoolController().select(prefix="libgomp").lib_controllers
    pauses = (getattr(library.dynlib, "omp_pause_resource_all", None) for library in found)
    return [pause for pause in pauses if pause is not None]


def _begin(cores: Iterator[int], yields: bool) -> None:
    _compute_alone()
    core = next(cores, None)
    if core is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {core})
    if yields:
        _yield_to_others()


def _compute_alone() -> None:
    """Have the calling thread compute by itself, without OpenMP helpers of its own.

    Resampling one image is worth no second thread, and each reader would start as many as there are cores. They spin
    behind every call, on the cores that the forward pass waits for: 1 to 3 % of its time (measured).
    """
    torch.get_num_threads()  # torch tells a thread its number once, and would undo what is set before
    threadpool_limits(1, "openmp")


def _yield_to_others() -> None:
    """Let the calling thread alone run only where a core is free (Linux; elsewhere nothing changes).

    A forward pass splits its work evenly over the cores and waits for the last of them: a decoding thread that
    takes one core for 2 ms makes all of them wait.
    """
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
