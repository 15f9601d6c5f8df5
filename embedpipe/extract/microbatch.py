"""How many samples go through the device at once: found by a short search, halved where memory runs out.

The batch is the grid that rows stand on and never changes within a store's life; the micro-batch is the part of
it that a forward pass takes, smaller only where the device cannot hold more. Knows nothing of stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from embedpipe.errors import OutOfDeviceMemory

Forward = Callable[[torch.Tensor], dict[str, torch.Tensor]]

GROW_AFTER = 64  # batches at a smaller size before the larger is tried again
MAX_BATCH = 1024  # beyond it no measured device gains
GOOD_ENOUGH = 0.95  # of the best rate: a smaller batch costs less memory and less where a run is cut off


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, could not give the memory that a forward pass asked for."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


class MicroBatches:
    """Pass batches through a forward pass in parts that the device can hold.

    Attributes
    ----------
    size : int
        Samples a part now; at most `batch`.
    num_halved : int
        How often memory ran out.
    """

    def __init__(self, batch: int, release: Callable[[], None] = lambda: None) -> None:
        self.batch = self.size = batch
        self.num_halved = 0
        self._release = release
        self._good = 0
        self._patience = GROW_AFTER
        self._on_trial = False

    def run(self, forward: Forward, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of one batch.

        Raises
        ------
        OutOfDeviceMemory
            If not even one sample fits.
        """
        self._grow()
        while True:
            try:
                values = self._parts(forward, x)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.size == 1:
                    raise OutOfDeviceMemory(
                        "expected the device to hold the forward pass of one sample, found its memory full; "
                        "free it of other programs, choose a smaller preprocess.crop_px, or set extract.device: cpu"
                    ) from error
            else:
                self._good, self._on_trial = self._good + 1, False
                return values
            # out of the except clause: the traceback holds on to what is to be freed
            if self._on_trial:
                self._patience *= 2  # the larger size still does not fit
            self.size, self._good, self._on_trial = -(-self.size // 2), 0, False
            self.num_halved += 1
            self._release()

    def _grow(self) -> None:
        if self.size < self.batch and self._good >= self._patience:
            self.size, self._good, self._on_trial = min(2 * self.size, self.batch), 0, True

    def _parts(self, forward: Forward, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.size >= len(x):
            return forward(x)
        parts = [forward(part) for part in torch.split(x, self.size)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def search_batch(
    forward: Forward,
    make: Callable[[int], torch.Tensor],
    synchronise: Callable[[], None] = lambda: None,
    *,
    first: int = 8,
    largest: int = MAX_BATCH,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The smallest power of two whose rate is within 5 % of the best, by trying 8, 16, 32 ...

    Stops where memory runs out or where twice as many are no faster.

    Parameters
    ----------
    make
        A batch of that many samples.
    synchronise
        Waits until the device has finished.
    """

    def rate(size: int) -> float | None:
        try:
            x = make(size)
            forward(x)  # the first pass of a size sets kernels and memory up
            synchronise()
            began = clock()
            forward(x)
            synchronise()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return size / max(clock() - began, 1e-9)

    rates: dict[int, float] = {}
    size = first
    while size <= largest and (found := rate(size)) is not None:
        rates[size] = found
        if size > first and found < rates[size // 2] / GOOD_ENOUGH:
            break
        size *= 2
    if not rates:
        while first > 1 and rate(first := first // 2) is None:
            pass
        return first
    best = max(rates.values())
    return min(size for size, found in rates.items() if found >= GOOD_ENOUGH * best)
