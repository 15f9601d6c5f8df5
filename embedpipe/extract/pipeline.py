"""Three overlapped steps with bounded queues: read and decode, forward and reduce, spool and write.

    reader threads ──(≤ prefetch batches)──▶ the calling thread ──(≤ 2 batches)──▶ writer thread

Images are decoded straight into a staging buffer of the device; there is a fixed number of them, so memory is
bounded whatever the number of samples. Order is kept; texts are grouped by length instead (`bucketing`). The
forward pass always sees full batches: short ones are padded with zeros and the padding is dropped, and so is a
sample that could not be read, so that what a row holds does not depend on its neighbours or on when it was added.
Knows nothing of stores or files.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from embedpipe.errors import UnreadableSample
from embedpipe.extract.batches import Batch, Embedded, Read, Staged, StepTimes
from embedpipe.extract.bucketing import read_by_length
from embedpipe.extract.cores import open_readers, release_cores
from embedpipe.extract.engine import Engine, Pending
from embedpipe.extract.turns import Turns

WRITE_AHEAD = 2  # batches that may wait for the writer


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

    Texts are put into other batches than those given, by their length, and come out in another order; rows of a
    batch ascend.

    Parameters
    ----------
    read
        Runs in `decode_threads` threads; `UnreadableSample` makes the row a failure, other errors end the run.
    engine
        Takes a staged batch and gives float32 (batch, ...) per tap; driven by the calling thread.
    write
        Runs in one writer thread, in order. An error in it ends the run.
    stop
        Asked before each batch; once true, what is in hand is finished and nothing more begun.
    """
    times = times or StepTimes()
    began, before_s = clock(), times.total_s
    free: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
    by_length = bool(engine.staging.lengths)
    for _ in range(
        0 if by_length else prefetch + WRITE_AHEAD + 2
    ):  # one in the forward pass, one being written
        free.put(engine.buffer())
    turns = Turns(engine.shares_cores and not by_length, release_cores)
    yields = engine.shares_cores and not turns.taken
    readers = open_readers(decode_threads, spread=turns.taken, yields=yields)
    with _Writer(write, free, times, clock, gives_back=not by_length) as writer, readers:
        if by_length:
            reading = read_by_length(batches, read, readers, engine, prefetch, times, clock, stop)
        else:
            reading = _read_ahead(batches, read, readers, free, prefetch, times, clock, stop, turns)
        for staged in reading:
            with turns.computing():
                forwarded = _forward(staged, engine)
            writer.put(forwarded)
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
    turns: Turns,
) -> Iterator[Staged]:
    def one(index: int, place: torch.Tensor) -> str | None:
        with turns.reading():
            started = clock()
            try:
                place.copy_(read(index))
                return None
            except UnreadableSample as error:
                place.zero_()
                return str(error)
            finally:
                times.add_decode(clock() - started)

    ahead: deque[tuple[Batch, torch.Tensor, list[Future[str | None]]]] = deque()
    upcoming = iter(batches)
    try:
        while True:
            while len(ahead) < prefetch and not stop() and (batch := next(upcoming, None)) is not None:
                buffer = free.get()
                buffer[len(batch.rows) :].zero_()
                places = zip(batch.samples.tolist(), buffer[: len(batch.rows)], strict=True)
                ahead.append((batch, buffer, [readers.submit(one, i, place) for i, place in places]))
            if not ahead or stop():
                return
            batch, buffer, outcomes = ahead.popleft()
            started = clock()
            reasons = tuple(outcome.result() for outcome in outcomes)
            times.wait_read_s += clock() - started
            yield Staged(batch, buffer, reasons, np.flatnonzero([reason is None for reason in reasons]))
    finally:
        for _, _, outcomes in ahead:
            for outcome in outcomes:
                outcome.cancel()


@dataclass(frozen=True)
class _Forwarded:
    """A batch on the device, or one of which nothing could be read."""

    staged: Staged
    pending: Pending | None

    def wait(self) -> Embedded:
        batch, reasons, places = self.staged.batch, self.staged.reasons, self.staged.places
        failures = {
            row: reason
            for row, reason in zip(batch.rows.tolist(), reasons, strict=True)
            if reason is not None
        }
        ok = np.array([reason is None for reason in reasons], dtype=bool)
        values = {} if self.pending is None else self.pending.values()
        if len(places) < len(self.staged.buffer):
            values = {tap: value[places] for tap, value in values.items()}
        return Embedded(batch, values, ok, failures)


def _forward(staged: Staged, engine: Engine) -> _Forwarded:
    return _Forwarded(staged, engine.submit(staged.buffer) if len(staged.places) else None)


class _Writer:
    """One thread that writes what is put, in order; its error is raised at the next put or at the end."""

    def __init__(
        self,
        write: Callable[[Embedded], None],
        free: queue.SimpleQueue[torch.Tensor],
        times: StepTimes,
        clock: Callable[[], float],
        *,
        gives_back: bool,
    ) -> None:
        self._write, self._free, self._times, self._clock = write, free, times, clock
        self._gives_back = gives_back
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
                if self._gives_back:
                    self._free.put(item.staged.buffer)

    def _one(self, item: _Forwarded) -> None:
        started = self._clock()
        embedded = item.wait()
        waited = self._clock()
        self._device_wait_s += waited - started
        self._write(embedded)
        self._times.write_s += self._clock() - waited
        self._times.num_samples += len(item.staged.batch.rows)
        if item.pending is not None:
            self._times.forward_s += item.pending.device_s()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error and kind is None:
            raise self._error
