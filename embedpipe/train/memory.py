"""How much memory the features of one tap may take while heads are trained, and reading them within it.

The limit is a property of the machine, not of the run: heads learn the same whether features fit or are streamed, so it
stands in the environment and not in params.yaml, and changing it reruns nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ConfigError
from embedpipe.features.table import PublishedFeatures
from embedpipe.heads.rows import ArrayRows, Rows, array_of, cut, nbytes_of

VARIABLE = "EMBEDPIPE_MEMORY_GB"
LEAST_MAPPED_NBYTES = 64 << 20
CGROUP = Path("/sys/fs/cgroup/memory.max")


def allowed_nbytes() -> int:
    """What `EMBEDPIPE_MEMORY_GB` says; a quarter of the machine's memory, or of the container's, by default.

    A quarter, since a family may hold a copy of the rows in another precision beside them.

    Raises
    ------
    ConfigError
        If it is not a number above 0.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return _machine_nbytes() // 4
    try:
        nbytes = int(float(given) * 1e9)
    except (ValueError, OverflowError):
        nbytes = 0
    if nbytes <= 0:
        raise ConfigError(f"{VARIABLE}: expected a number of gigabytes above 0, found {given!r}")
    return nbytes


def rows_of(store: PublishedFeatures, tap: str, keys: npt.NDArray[np.uint8], limit_nbytes: int) -> Rows:
    """Features of samples in the order of their keys: read at once where they fit `limit_nbytes`, else by blocks.

    Parameters
    ----------
    keys : uint8 [n, 16]
    """
    rows = store.rows(tap, keys, cut=cut, mapped_nbytes=max(limit_nbytes // 4, LEAST_MAPPED_NBYTES))
    return within(rows, limit_nbytes)


def within(rows: Rows, limit_nbytes: int) -> Rows:
    """The rows, read at once where they fit `limit_nbytes`."""
    return ArrayRows(array_of(rows)) if nbytes_of(rows) <= limit_nbytes else rows


def _machine_nbytes() -> int:
    nbytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(nbytes, int(CGROUP.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return nbytes
