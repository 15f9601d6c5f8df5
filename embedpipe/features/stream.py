"""Orders in which samples are read, and a thread that reads ahead.

Orders are arithmetic over positions; the thread knows nothing of features.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]
Shuffle = Literal["global", "chunks"] | bool
Read = TypeVar("Read")

NUM_AHEAD = 2
NUM_POOLED = 16
"""Chunks that are mixed with each other in a chunk shuffle."""


def in_order(num: int, batch: int, *, drop_last: bool = False) -> Iterator[Index]:
    """Positions 0 to num - 1, `batch` at a time."""
    stop = num // batch * batch if drop_last else num
    for start in range(0, stop, batch):
        yield np.arange(start, min(start + batch, stop), dtype=np.int64)


def shuffled(num: int, batch: int, *, seed: int, drop_last: bool = False) -> Iterator[Index]:
    """Every position once, in an order that depends on `num` and `seed` alone."""
    yield from _cut(np.random.default_rng(seed).permutation(num).astype(np.int64), batch, drop_last)


def chunk_shuffled(
    rows: Index, batch: int, *, chunk_rows: int, seed: int, drop_last: bool = False
) -> Iterator[Index]:
    """Every position once: chunks of neighbouring rows in random order, mixed a few chunks at a time.

    Parameters
    ----------
    rows : int64 [n]
        Where each position lies on disk. The order of the positions depends on it, so on how the store grew;
        where that must not be, use `shuffled`.
    chunk_rows
        Rows that are cheap to read together.
    """
    rng = np.random.default_rng(seed)
    by_row = np.argsort(rows, kind="stable").astype(np.int64)
    chunks = np.split(by_row, np.flatnonzero(np.diff(rows[by_row] // chunk_rows)) + 1)
    held = np.zeros(0, np.int64)
    order = rng.permutation(len(chunks))
    for start in range(0, len(order), NUM_POOLED):
        pool = np.concatenate([chunks[i] for i in order[start : start + NUM_POOLED].tolist()])
        held = np.concatenate([held, rng.permutation(pool)])
        whole = len(held) // batch * batch
        yield from _cut(held[:whole], batch, True)
        held = held[whole:]
    yield from _cut(held, batch, drop_last)


def read_ahead(orders: Iterable[Index], read: Callable[[Index], Read]) -> Iterator[Read]:
    """``map(read, orders)``, done by a thread that stays a few ahead; what it raises is raised here."""
    done = threading.Event()
    ready: queue.Queue[tuple[Read | None, BaseException | None]] = queue.Queue(NUM_AHEAD)

    def put(value: Read | None, error: BaseException | None) -> bool:
        while not done.is_set():
            try:
                ready.put((value, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for index in orders:
                if not put(read(index), None):
                    return
            put(None, StopIteration())
        except BaseException as error:  # a read that fails must not end as a short epoch
            put(None, error)

    thread = threading.Thread(target=work, name="embedpipe-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            value, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value  # type: ignore[misc]
    finally:
        done.set()
        thread.join()


def _cut(order: Index, batch: int, drop_last: bool) -> Iterator[Index]:
    stop = len(order) // batch * batch if drop_last else len(order)
    for start in range(0, stop, batch):
        yield order[start : start + batch]
