"""Three overlapped steps with bounded queues: read and decode, forward and reduce, spool and write.

    reader threads ──(≤ prefetch batches)──▶ the calling thread ──(≤ 2 batches)──▶ writer thread

Order is kept throughout. The forward pass always sees full batches: short ones are padded with zeros and
the padding is dropped, and so is a sample that could not be read, so that what a row holds does not depend
on its neighbours or on when it was added. Knows nothing of stores or files.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from embedpipe.errors import UnreadableSample

Read = Callable[[int], torch.Tensor]  # index of a sample -> float32 tensor without N
Forward = Callable[[torch.Tensor], dict[str, torch.Tensor]]


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
    """Seconds that each step took; `decode_s` adds up over threads, the waits are the forward thread's."""

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


def embed(
    batches: Iterable[Batch],
    read: Read,
    forward: Forward,
    write: Callable[[Embedded], None],
    *,
    batch_size: int,
    decode_threads: int,
    prefetch: int = 3,
    times: StepTimes | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> StepTimes:
    """Drive every batch through the three steps.

    Parameters
    ----------
    read
        Runs in `decode_threads` threads; `UnreadableSample` makes the row a failure, other errors end the run.
    forward
        Takes float32 (batch_size, ...), gives float32 (batch_size, ...) per tap; runs in the calling thread.
    write
        Runs in one writer thread, in order. An error in it ends the run.
    """
    times = times or StepTimes()
    began = clock()
    with _Writer(write, times, clock) as writer, ThreadPoolExecutor(decode_threads) as pool:
        for batch, samples in _read_ahead(batches, read, pool, prefetch, times, clock):
            started = clock()
            embedded = _forward_batch(batch, samples, forward, batch_size)
            times.forward_s += clock() - started
            times.num_samples += len(batch.rows)
            writer.put(embedded)
    times.total_s += clock() - began
    return times


def _read_ahead(
    batches: Iterable[Batch],
    read: Read,
    pool: ThreadPoolExecutor,
    prefetch: int,
    times: StepTimes,
    clock: Callable[[], float],
) -> Iterator[tuple[Batch, list[torch.Tensor | str]]]:
    def one(index: int) -> torch.Tensor | str:
        started = clock()
        try:
            return read(index)
        except UnreadableSample as error:
            return str(error)
        finally:
            times.add_decode(clock() - started)

    ahead: deque[tuple[Batch, list[Future[torch.Tensor | str]]]] = deque()
    upcoming = iter(batches)
    try:
        while True:
            while len(ahead) < prefetch and (batch := next(upcoming, None)) is not None:
                ahead.append((batch, [pool.submit(one, int(i)) for i in batch.samples]))
            if not ahead:
                return
            batch, futures = ahead.popleft()
            started = clock()
            samples = [future.result() for future in futures]
            times.wait_read_s += clock() - started
            yield batch, samples
    finally:
        for _, futures in ahead:
            for future in futures:
                future.cancel()


def _forward_batch(
    batch: Batch, samples: Sequence[torch.Tensor | str], forward: Forward, batch_size: int
) -> Embedded:
    failures = {int(row): s for row, s in zip(batch.rows, samples, strict=True) if isinstance(s, str)}
    ok = np.array([not isinstance(s, str) for s in samples], dtype=bool)
    if not ok.any():
        return Embedded(batch, {}, ok, failures)
    example = next(s for s in samples if isinstance(s, torch.Tensor))
    x = torch.zeros((batch_size, *example.shape), dtype=torch.float32)
    for position, sample in enumerate(samples):
        if isinstance(sample, torch.Tensor):
            x[position] = sample
    values = forward(x)
    kept = np.flatnonzero(ok)
    return Embedded(batch, {tap: v.float().cpu().numpy()[kept] for tap, v in values.items()}, ok, failures)


class _Writer:
    """One thread that writes what is put, in order; its error is raised at the next put or at the end."""

    def __init__(
        self, write: Callable[[Embedded], None], times: StepTimes, clock: Callable[[], float], depth: int = 2
    ) -> None:
        self._write, self._times, self._clock = write, times, clock
        self._queue: queue.Queue[Embedded | None] = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="embedpipe-writer", daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def put(self, item: Embedded) -> None:
        started = self._clock()
        self._queue.put(item)
        self._times.wait_write_s += self._clock() - started
        if self._error:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error:
                continue  # drain, so that `put` never blocks
            started = self._clock()
            try:
                self._write(item)
            except BaseException as error:
                self._error = error
            self._times.write_s += self._clock() - started

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error and kind is None:
            raise self._error
