"""Three overlapped steps with bounded queues: read and decode, forward and reduce, spool and write.

    reader threads ──(≤ prefetch batches)──▶ the calling thread ──(≤ 2 batches)──▶ writer thread

Samples are decoded straight into a staging buffer of the device; there is a fixed number of them, so memory is
bounded whatever the number of samples. Order is kept throughout. The forward pass always sees full batches: short
ones are padded with zeros and the padding is dropped, and so is a sample that could not be read, so that what a
row holds does not depend on its neighbours or on when it was added. Knows nothing of stores or files.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from embedpipe.errors import UnreadableSample
from embedpipe.extract.engine import Engine, Pending, yield_to_others

Read = Callable[[int], torch.Tensor]  # index of a sample -> uint8 tensor without N
WRITE_AHEAD = 2  # batches that may wait for the writer


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
class _Read:
    """A batch in its buffer; None or the reason of each sample, once decoded."""

    batch: Batch
    buffer: torch.Tensor
    outcomes: list[Future[str | None]]


def embed(
    batches: Iterable[Batch],
    read: Read,
    engine: Engine,
    write: Callable[[Embedded], None],
    *,
    decode_threads: int,
    prefetch: int = 3,
    times: StepTimes | None = None,
    clock: Callable[[], float] = time.perf_counter,
    stop: Callable[[], bool] = lambda: False,
) -> StepTimes:
    """Drive every batch through the three steps.

    Parameters
    ----------
    read
        Runs in `decode_threads` threads; `UnreadableSample` makes the row a failure, other errors end the run.
    engine
        Takes uint8 (batch, ...) and gives float32 (batch, ...) per tap; driven by the calling thread.
    write
        Runs in one writer thread, in order. An error in it ends the run.
    stop
        Asked before each batch; once true, what is in hand is finished and nothing more begun.
    """
    times = times or StepTimes()
    began, before_s = clock(), times.total_s
    free: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
    for _ in range(prefetch + WRITE_AHEAD + 2):  # one in the forward pass, one being written
        free.put(engine.buffer())
    readers = ThreadPoolExecutor(decode_threads, initializer=yield_to_others if engine.shares_cores else None)
    with _Writer(write, free, times, clock) as writer, readers:
        for reading in _read_ahead(batches, read, readers, free, prefetch, times, clock, stop):
            writer.put(_forward(reading, engine))
            times.total_s = before_s + clock() - began
    times.total_s = before_s + clock() - began
    return times


def _read_ahead(
    batches: Iterable[Batch],
    read: Read,
    readers: ThreadPoolExecutor,
    free: queue.SimpleQueue[torch.Tensor],
    prefetch: int,
    times: StepTimes,
    clock: Callable[[], float],
    stop: Callable[[], bool],
) -> Iterator[_Read]:
    def one(index: int, place: torch.Tensor) -> str | None:
        started = clock()
        try:
            place.copy_(read(index))
            return None
        except UnreadableSample as error:
            place.zero_()
            return str(error)
        finally:
            times.add_decode(clock() - started)

    ahead: deque[_Read] = deque()
    upcoming = iter(batches)
    try:
        while True:
            while len(ahead) < prefetch and not stop() and (batch := next(upcoming, None)) is not None:
                buffer = free.get()
                buffer[len(batch.rows) :].zero_()
                places = zip(batch.samples.tolist(), buffer[: len(batch.rows)], strict=True)
                ahead.append(_Read(batch, buffer, [readers.submit(one, i, place) for i, place in places]))
            if not ahead or stop():
                return
            reading = ahead.popleft()
            started = clock()
            for outcome in reading.outcomes:
                outcome.result()
            times.wait_read_s += clock() - started
            yield reading
    finally:
        for reading in ahead:
            for outcome in reading.outcomes:
                outcome.cancel()


@dataclass(frozen=True)
class _Forwarded:
    """A batch on the device, or one of which nothing could be read."""

    batch: Batch
    buffer: torch.Tensor
    ok: np.ndarray
    failures: dict[int, str]
    pending: Pending | None

    def wait(self) -> Embedded:
        if self.pending is None:
            return Embedded(self.batch, {}, self.ok, self.failures)
        values = self.pending.values()
        if self.ok.all() and len(self.ok) == len(self.buffer):
            return Embedded(self.batch, values, self.ok, self.failures)
        kept = np.flatnonzero(self.ok)
        return Embedded(self.batch, {tap: v[kept] for tap, v in values.items()}, self.ok, self.failures)


def _forward(reading: _Read, engine: Engine) -> _Forwarded:
    reasons = [outcome.result() for outcome in reading.outcomes]
    pairs = zip(reading.batch.rows.tolist(), reasons, strict=True)
    failures = {row: reason for row, reason in pairs if reason is not None}
    ok = np.array([reason is None for reason in reasons], dtype=bool)
    pending = engine.submit(reading.buffer) if ok.any() else None
    return _Forwarded(reading.batch, reading.buffer, ok, failures, pending)


class _Writer:
    """One thread that writes what is put, in order; its error is raised at the next put or at the end."""

    def __init__(
        self,
        write: Callable[[Embedded], None],
        free: queue.SimpleQueue[torch.Tensor],
        times: StepTimes,
        clock: Callable[[], float],
    ) -> None:
        self._write, self._free, self._times, self._clock = write, free, times, clock
        self._queue: queue.Queue[_Forwarded | None] = queue.Queue(maxsize=WRITE_AHEAD)
        self._error: BaseException | None = None
        self._device_wait_s = 0.0
        self._thread = threading.Thread(target=self._run, name="embedpipe-writer", daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def put(self, item: _Forwarded) -> None:
        started, device_wait_s = self._clock(), self._device_wait_s
        self._queue.put(item)
        # where the writer itself waited for the device, the device was slow and not the writer
        waited_s = self._clock() - started - (self._device_wait_s - device_wait_s)
        self._times.wait_write_s += max(0.0, waited_s)
        if self._error:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:
                    self._one(item)
            except BaseException as error:
                self._error = error
            finally:
                self._free.put(item.buffer)

    def _one(self, item: _Forwarded) -> None:
        started = self._clock()
        embedded = item.wait()
        waited = self._clock()
        self._device_wait_s += waited - started
        self._write(embedded)
        self._times.write_s += self._clock() - waited
        self._times.num_samples += len(item.batch.rows)
        if item.pending is not None:
            self._times.forward_s += item.pending.device_s()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error and kind is None:
            raise self._error
