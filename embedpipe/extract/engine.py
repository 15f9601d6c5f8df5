"""A device behind one small interface: staging buffers, submit a batch, wait for its features.

On the CPU a batch is computed when it is submitted. On CUDA it is copied from pinned memory, computed and
copied back on three streams, so that the thread that submits it is free at once. Knows nothing of stores.
"""

# N samples, C channels, H W height and width

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

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
        Samples that every pass is given.
    micro : MicroBatches
        The part of them that goes through at once.
    shares_cores : bool
        Whether the forward pass and decoding want the same cores.
    """

    batch: int
    micro: MicroBatches
    shares_cores: bool

    def buffer(self) -> torch.Tensor:
        """A new staging buffer of one batch: uint8 (N, C, H, W), channels last in memory."""
        ...

    def submit(self, pixels_NCHW: torch.Tensor) -> Pending:
        """Begin a batch that stands in a buffer. The buffer is free once the features are there."""
        ...


def open_engine(
    forward: Forward, batch: int, input_shape: tuple[int, ...], device: torch.device, **options: Any
) -> Engine:
    """The engine of a device."""
    if device.type == "cuda":
        return CudaEngine(forward, batch, input_shape, device, **options)
    return CpuEngine(forward, batch, input_shape, **options)


class CpuEngine:
    """Computes where it is called."""

    shares_cores = True

    def __init__(
        self,
        forward: Forward,
        batch: int,
        input_shape: tuple[int, ...],
        *,
        micro: MicroBatches | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.batch, self.micro = batch, micro or MicroBatches(batch)
        self._forward, self._shape, self._clock = forward, input_shape, clock

    def buffer(self) -> torch.Tensor:
        return _channels_last(self.batch, self._shape)

    def submit(self, pixels_NCHW: torch.Tensor) -> Pending:
        began = self._clock()
        values = self.micro.run(self._forward, pixels_NCHW)
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
        input_shape: tuple[int, ...],
        device: torch.device,
        *,
        micro: MicroBatches | None = None,
        cuda: Any = torch.cuda,
        pin: bool = True,
    ) -> None:
        self.batch = batch
        self.micro = micro or MicroBatches(batch, release=cuda.empty_cache)
        self._forward, self._shape, self._device = forward, input_shape, device
        self._cuda, self._pin = cuda, pin
        self._in, self._compute, self._out = (cuda.Stream(device=device) for _ in range(3))

    def buffer(self) -> torch.Tensor:
        return _channels_last(self.batch, self._shape, pin=self._pin)

    def submit(self, pixels_NCHW: torch.Tensor) -> Pending:
        cuda = self._cuda
        copied = cuda.Event()
        began, ended = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        with cuda.stream(self._in):
            x_NCHW = pixels_NCHW.to(self._device, non_blocking=True)
            copied.record(self._in)
        self._compute.wait_event(copied)
        with cuda.stream(self._compute):
            began.record(self._compute)
            values = self.micro.run(self._forward, x_NCHW)
            ended.record(self._compute)
        # memory made on one stream and used on another must not be given away before that use is over
        x_NCHW.record_stream(self._compute)
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


def _channels_last(batch: int, shape: tuple[int, ...], *, pin: bool = False) -> torch.Tensor:
    """Zeros (N, C, H, W) whose memory is N, H, W, C: how decoded images lie, and what convolutions want."""
    num_channels, height, width = shape
    buffer_NHWC = torch.zeros((batch, height, width, num_channels), dtype=torch.uint8, pin_memory=pin)
    return buffer_NHWC.permute(0, 3, 1, 2)


def yield_to_others() -> None:
    """Let the calling thread alone run only where a core is free (Linux; elsewhere nothing changes).

    A forward pass splits its work evenly over the cores and waits for the last of them: a decoding thread that
    takes one core for 2 ms makes all of them wait.
    """
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
