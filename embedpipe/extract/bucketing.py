"""Batches of texts of about one length: as each is read it joins those of its padded length.

A batch begins when enough of one length are there; what is left at the end goes in short batches of the same
shapes. So padding costs little, and the shape in which a text is computed depends on its own length alone. Which
texts stand together does not matter: rows say where each belongs. Knows nothing of tokenizers or models.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from embedpipe.errors import UnreadableSample
from embedpipe.extract.batches import Batch, Read, Staged, StepTimes
from embedpipe.extract.engine import Engine

Outcome = torch.Tensor | str  # token ids, or why there are none


@dataclass
class _Waiting:
    """Texts of one padded length, in the order of their rows."""

    rows: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    ids: list[torch.Tensor] = field(default_factory=list)


def read_by_length(
    batches: Iterable[Batch],
    read: Read,
    readers: ThreadPoolExecutor,
    engine: Engine,
    prefetch: int,
    times: StepTimes,
    clock: Callable[[], float],
    stop: Callable[[], bool],
) -> Iterator[Staged]:
    """Every sample of `batches` once, in batches of one padded length each.

    Parameters
    ----------
    read
        Gives the token ids of a text, int32 (L,).
    prefetch
        Batches that are read ahead, counted in samples.

    Yields
    ------
    Staged
        With ascending rows. A sample that could not be read is a failure of the batch that comes next.
    """

    def one(index: int) -> Outcome:
        started = clock()
        try:
            return read(index)
        except UnreadableSample as error:
            return str(error)
        finally:
            times.add_decode(clock() - started)

    staging = engine.staging
    waiting = {length: _Waiting() for length in staging.lengths}
    failed: list[tuple[int, int, str]] = []
    ahead: deque[tuple[int, int, Future[Outcome]]] = deque()
    upcoming = ((row, i) for b in batches for row, i in zip(b.rows.tolist(), b.samples.tolist(), strict=True))
    try:
        while not stop():
            while len(ahead) < prefetch * engine.batch and (sample := next(upcoming, None)) is not None:
                ahead.append((*sample, readers.submit(one, sample[1])))
            if not ahead:
                break
            row, index, future = ahead.popleft()
            started = clock()
            outcome = future.result()
            times.wait_read_s += clock() - started
            if isinstance(outcome, str):
                failed.append((row, index, outcome))
                continue
            length = staging.padded(len(outcome))
            texts = waiting[length]
            texts.rows.append(row)
            texts.samples.append(index)
            texts.ids.append(outcome)
            if len(texts.rows) == staging.rows(engine.batch, length):
                waiting[length] = _Waiting()
                yield _staged(texts, length, failed, engine)
                failed = []
        for length, texts in waiting.items():
            if texts.rows and not stop():
                yield _staged(texts, length, failed, engine)
                failed = []
        if failed and not stop():
            yield _staged(_Waiting(), staging.lengths[0], failed, engine)
    finally:
        for _, _, future in ahead:
            future.cancel()


def _staged(texts: _Waiting, length: int, failed: list[tuple[int, int, str]], engine: Engine) -> Staged:
    buffer = engine.buffer(engine.staging.rows(engine.batch, length), length)
    for place, ids in zip(buffer, texts.ids, strict=False):
        place[: len(ids)] = ids
    rows = np.array([*texts.rows, *(row for row, _, _ in failed)], np.int64)
    samples = np.array([*texts.samples, *(index for _, index, _ in failed)], np.int64)
    reasons = [*[None] * len(texts.rows), *(reason for _, _, reason in failed)]
    order = np.argsort(rows)
    batch = Batch(rows[order], samples[order])
    return Staged(batch, buffer, tuple(reasons[i] for i in order.tolist()), np.arange(len(texts.rows)))
