"""Threads that read and decode, and how they leave the cores to the forward pass. Knows nothing of what is read."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits


def open_readers(num: int, *, yields: bool) -> ThreadPoolExecutor:
    """Reading threads.

    Parameters
    ----------
    yields
        Whether they run only where a core is free.
    """
    return ThreadPoolExecutor(num, "embedpipe-reader", _begin, (yields,))


def _begin(yields: bool) -> None:
    _compute_alone()
    if yields:
        _yield_to_others()


def _compute_alone() -> None:
    """Have the calling thread compute by itself, without helpers of its own (OpenMP).

    Resampling one image is worth no second thread, and each reader would start as many as there are cores. They spin
    for milliseconds behind every call, on the cores that the forward pass waits for: 1 to 3 % of its time (measured).
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
