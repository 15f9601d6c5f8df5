"""A device behind one small interface: staging buffers, submit a batch, wait for its features.

On the CPU a batch is computed when it is submitted. On CUDA it is copied from pinned memory, computed and
copied back on three streams, so that the thread that submits it is free at once. Knows nothing of stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from embedpipe.allocator import keep_memory
from embedpipe.backbones.staging import Staging
from embedpipe.extract.microbatch import Forward, MicroBatches

Features = dict[str, np.ndarray]


class Pending(Protocol):
    """Features on their way."""

    def values(self) -> Features:
        """Wait for them: float32 [N, ...] a tap."""
        ...

    def device_s(self) -> float:
        """Seconds that the device worked on them; after `values`."""
        ...


class Engine(Protocol):
    """A device with a forward pass on it.

    Attributes
    ----------
    batch : int
        Samples that every pass is given; fewer of long texts.
    staging : Staging
        What they are staged in.
    micro : MicroBatches
        The part of them that goes through at once.
    shares_cores : bool
        Whether the forward pass and decoding want the same cores.
    """

    batch: int
    staging: Staging
    micro: MicroBatches
    shares_cores: bool

    def buffer(self, num: int | None = None, length: int | None = None) -> torch.Tensor:
        """A new staging buffer, as `Staging.buffer` makes it: of one batch, or of `num` texts of one length."""
        ...

    def submit(self, staged: torch.Tensor) -> Pending:
        """Begin a batch that stands in a buffer. The buffer is free once the features are there."""
        ...


def open_engine(
    forward: Forward, batch: int, staging: Staging, device: torch.device, **options: Any
) -> Engine:
    """The engine of a device."""
    if device.type == "cuda":
        return CudaEngine(forward, batch, staging, device, **options)
    return CpuEngine(forward, batch, staging, **options)


class CpuEngine:
    """Computes where it is called."""

    shares_cores = True

    def __init__(
        self,
        forward: Forward,
        batch: int,
        staging: Staging,
        *,
        micro: MicroBatches | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        keep_memory()
        self.batch, self.staging, self.micro = batch, staging, micro or MicroBatches(batch)
        self._forward, self._clock = forward, clock

    def buffer(self, num: int | None = None, length: int | None = None) -> torch.Tensor:
        return self.staging.buffer(num or self.batch, length)

    def submit(self, staged: torch.Tensor) -> Pending:
        began = self._clock()
        values = self.micro.run(self._forward, staged)
        features = {tap: value.float().numpy() for tap, value in values.items()}
        return _Done(features, self._clock() - began)


class _Done:
    def __init__(self, features: Features, seconds: float) -> None:
        self._features, self._seconds = features, seconds

    def values(self) -> Features:
        return self._features

    def device_s(self) -> float:
        return self._seconds


class CudaEngine:
    """Copies in, computes and copies out on a stream each.

    Parameters
    ----------
    cuda
        `torch.cuda`, or what stands for it in a test.
    pin
        Whether buffers lie in pinned memory, which alone can be copied while the device works.
    """

    shares_cores = False

    def __init__(
        self,
        forward: Forward,
        batch: int,
        staging: Staging,
        device: torch.device,
        *,
        micro: MicroBatches | None = None,
        cuda: Any = torch.cuda,
        pin: bool = True,
    ) -> None:
        self.batch, self.staging = batch, staging
        self.micro = micro or MicroBatches(batch, release=cuda.empty_cache)
        self._forward, self._device = forward, device
        self._cuda, self._pin = cuda, pin
        self._in, self._compute, self._out = (cuda.Stream(device=device) for _ in range(3))

    def buffer(self, num: int | None = None, length: int | None = None) -> torch.Tensor:
        return self.staging.buffer(num or self.batch, length, pin=self._pin)

    def submit(self, staged: torch.Tensor) -> Pending:
        cuda = self._cuda
        copied = cuda.Event()
        began, ended = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        with cuda.stream(self._in):
            x = staged.to(self._device, non_blocking=True)
            copied.record(self._in)
        self._compute.wait_event(copied)
        with cuda.stream(self._compute):
            began.record(self._compute)
            values = self.micro.run(self._forward, x)
            ended.record(self._compute)
        # memory made on one stream and used on another must not be given away before that use is over
        x.record_stream(self._compute)
        self._out.wait_event(ended)
        held: dict[str, torch.Tensor] = {}
        fetched = cuda.Event()
        with cuda.stream(self._out):
            for tap, value in values.items():
                held[tap] = torch.empty(value.shape, dtype=torch.float32, pin_memory=self._pin)
                held[tap].copy_(value, non_blocking=True)
                value.record_stream(self._out)
            fetched.record(self._out)
        return _OnCuda(held, began, ended, fetched)


class _OnCuda:
    def __init__(self, held: dict[str, torch.Tensor], began: Any, ended: Any, fetched: Any) -> None:
        self._held, self._began, self._ended, self._fetched = held, began, ended, fetched

    def values(self) -> Features:
        self._fetched.synchronize()
        return {tap: value.numpy() for tap, value in self._held.items()}

    def device_s(self) -> float:
        return float(self._began.elapsed_time(self._ended)) / 1e3
