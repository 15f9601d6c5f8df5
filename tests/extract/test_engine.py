"""The device interface. CUDA's order of work is held against a fake that records it; no GPU is needed."""

import contextlib

import numpy as np
import torch

from embedpipe.backbones.staging import Staging
from embedpipe.extract.engine import CpuEngine, CudaEngine, open_engine
from embedpipe.extract.microbatch import MicroBatches

SHAPE = (3, 2, 4)


def forward(x):
    return {"t": x.flatten(1).float() + 1}


class FakeCuda:
    """`torch.cuda` on the CPU: writes down what was asked for, in order."""

    def __init__(self):
        self.log, self.names, self.current = [], iter(("in", "compute", "out")), "none"

    def Stream(self, device=None):
        cuda, name = self, next(self.names)

        class Stream:
            def __str__(self):
                return name

            def wait_event(self, event):
                cuda.log.append(f"{name} waits for {event.recorded_on}")

        return Stream()

    def Event(self, enable_timing=False):
        cuda = self

        class Event:
            recorded_on = None

            def record(self, stream):
                self.recorded_on = str(stream)
                cuda.log.append(f"event on {stream}")

            def synchronize(self):
                cuda.log.append(f"host waits for {self.recorded_on}")

            def elapsed_time(self, other):
                return 250.0

        return Event()

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, str(stream)
        yield
        self.current = before

    def empty_cache(self):
        self.log.append("cache emptied")


def cuda_engine(monkeypatch, pass_=forward, batch=4):
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    cuda = FakeCuda()
    engine = CudaEngine(pass_, batch, Staging(SHAPE), torch.device("cpu"), cuda=cuda, pin=False)
    return engine, cuda


def filled(engine):
    buffer = engine.buffer()
    buffer.copy_(torch.arange(buffer.numel(), dtype=torch.uint8).reshape(buffer.shape))
    return buffer


def test_a_buffer_is_channels_last_and_zero():
    buffer = CpuEngine(forward, 5, Staging(SHAPE)).buffer()
    assert buffer.shape == (5, *SHAPE) and buffer.dtype == torch.uint8 and not buffer.any()
    assert buffer.is_contiguous(memory_format=torch.channels_last)


def test_both_engines_give_what_the_forward_pass_gives(monkeypatch):
    on_cuda, _ = cuda_engine(monkeypatch)
    for engine in (CpuEngine(forward, 4, Staging(SHAPE)), on_cuda):
        buffer = filled(engine)
        found = engine.submit(buffer).values()["t"]
        np.testing.assert_array_equal(found, forward(buffer)["t"].numpy())
        assert found.dtype == np.float32


def test_cuda_copies_computes_and_copies_back_on_streams_that_wait_for_each_other(monkeypatch):
    streams = []

    def watched(x):
        streams.append(cuda.current)
        return forward(x)

    engine, cuda = cuda_engine(monkeypatch, watched)
    pending = engine.submit(filled(engine))
    assert "host waits for out" not in cuda.log  # submitting waits for nothing
    pending.values()
    assert streams == ["compute"]
    assert cuda.log == [
        "event on in", "compute waits for in", "event on compute", "event on compute",
        "out waits for compute", "event on out", "host waits for out",
    ]  # fmt: skip
    assert pending.device_s() == 0.25


def test_cuda_empties_its_cache_before_it_tries_half_of_a_batch(monkeypatch):
    def small(x):
        if len(x) > 2:
            raise torch.OutOfMemoryError("full")
        return forward(x)

    engine, cuda = cuda_engine(monkeypatch, small)
    buffer = filled(engine)
    np.testing.assert_array_equal(engine.submit(buffer).values()["t"], forward(buffer)["t"].numpy())
    assert cuda.log.count("cache emptied") == 1 and engine.micro.size == 2


def test_the_device_decides_the_engine():
    engine = open_engine(forward, 4, Staging(SHAPE), torch.device("cpu"), micro=MicroBatches(4))
    assert isinstance(engine, CpuEngine) and engine.shares_cores
