"""What the C library does with memory that is given back: to the system at once, or kept for the next who asks.

Knows nothing of tensors.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGE_NBYTES = 1 << 30
"""Kept for maps of a network: what takes more goes back to the system."""


def keep_memory(nbytes: int = LARGE_NBYTES) -> bool:
    """Have the C library keep the memory that tensors give back, in this process and from now on (glibc).

    It would return each of more than 32 MB to the system, and smaller ones as soon as the last 4 MB of its heap are
    free; then every batch faults in the same pages again: 90,000 faults and a quarter of the time of ResNet-50 in
    bfloat16 with batches of 32, a third of a step of 16 perceptrons (measured).

    Parameters
    ----------
    nbytes
        How large a tensor may be to be kept, and how much may lie free at the end of the heap.

    Returns
    -------
    bool
        False where there is no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, nbytes) and mallopt(_M_TRIM_THRESHOLD, nbytes))
