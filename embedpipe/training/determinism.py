"""A scope in which torch computes the same numbers from the same seed; afterwards nothing has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

NUM_THREADS = 1
"""Threads inside the scope. Sums are split by thread, so the number is fixed, whatever the machine has; one,
since small modules gain little from two, and two wait for each other for minutes where others use the cores.
"""


@contextmanager
def deterministic(seed: int, num_threads: int = NUM_THREADS) -> Iterator[torch.Generator]:
    """Seed torch, allow only deterministic algorithms and fix the number of threads.

    Equal on the same kind of processor and the same torch; other instruction sets may round otherwise. Some
    gradients have no deterministic kernel on CUDA: there torch warns of each, and the run is equal up to them.
    The global generator, the algorithms allowed and the number of threads are restored at the end.

    Parameters
    ----------
    seed : int
        Of the global generator (initialisation, dropout) and of the one that is given out (order of samples).
    num_threads : int
        Threads of torch's operations inside the scope.

    Yields
    ------
    torch.Generator
        On the CPU, seeded.
    """
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    threads = torch.get_num_threads()
    # cuBLAS adds up in one order only if it is told so before it starts
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        torch.set_num_threads(num_threads)
        try:
            yield torch.Generator().manual_seed(seed)
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
