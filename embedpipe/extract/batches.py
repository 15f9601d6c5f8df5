"""What goes through the pipeline: batches of rows, what is staged of them, their features, and the time it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

Read = Callable[[int], torch.Tensor]  # index of a sample -> what is staged of it: a tensor without N


@dataclass(frozen=True)
class Batch:
    """Rows that go through the backbone together.

    Attributes
    ----------
    rows : int64 array, shape (n,)
        Rows of the store.
    samples : int64 array, shape (n,)
        What `read` is called with, aligned to `rows`.
    """

    rows: np.ndarray
    samples: np.ndarray


@dataclass(frozen=True)
class Embedded:
    """Features of one batch, and the rows that have none with the reason."""

    batch: Batch
    values: dict[str, np.ndarray]
    ok: np.ndarray
    failures: dict[int, str]


@dataclass
class StepTimes:
    """Seconds that each step took.

    Attributes
    ----------
    decode_s : float
        Added up over the reading threads.
    forward_s, write_s : float
        The device worked; the writer spooled and committed.
    wait_read_s, wait_write_s : float
        The forward step had to wait for samples; for the writer.
    """

    decode_s: float = 0.0
    forward_s: float = 0.0
    write_s: float = 0.0
    wait_read_s: float = 0.0
    wait_write_s: float = 0.0
    total_s: float = 0.0
    num_samples: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_decode(self, seconds: float) -> None:
        with self._lock:
            self.decode_s += seconds

    def shares(self) -> dict[str, float]:
        """What the run waited for, as parts of the whole: ``decode``, ``forward``, ``write``."""
        spent = {"decode": self.wait_read_s, "forward": self.forward_s, "write": self.wait_write_s}
        whole = max(self.total_s, sum(spent.values()), 1e-9)
        return {step: seconds / whole for step, seconds in spent.items()}


@dataclass(frozen=True)
class Staged:
    """A batch in its buffer, decoded.

    Attributes
    ----------
    reasons : tuple of str or None
        Why a sample could not be read, aligned to the batch; None where it could.
    places : int64 array
        Row of the buffer that each readable sample stands in, in order.
    """

    batch: Batch
    buffer: torch.Tensor
    reasons: tuple[str | None, ...]
    places: np.ndarray
