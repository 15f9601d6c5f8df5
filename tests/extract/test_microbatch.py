"""The micro-batch: halved where memory runs out, grown back, and the batch found by a short search."""

import itertools

import pytest
import torch

from embedpipe.errors import OutOfDeviceMemory
from embedpipe.extract.microbatch import MicroBatches, is_out_of_memory, search_batch
from embedpipe.extract.resolve import known_pass, remember_pass
from embedpipe.spec import BackboneSpec


class Device:
    """Computes x + 1 for at most `room` samples at once."""

    def __init__(self, room, error=None):
        self.room, self.seen, self.error = room, [], error or torch.OutOfMemoryError("CUDA out of memory")

    def __call__(self, x):
        self.seen.append(len(x))
        if len(x) > self.room:
            raise self.error
        return {"t": x + 1}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("x"),
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
)
def test_running_out_of_memory_halves_the_pass_and_gives_the_same_features(error):
    device, released = Device(5, error), []
    micro = MicroBatches(16, release=lambda: released.append(1))
    x = torch.arange(16.0)[:, None]
    assert torch.equal(micro.run(device, x)["t"], x + 1)
    assert device.seen == [16, 8, 4, 4, 4, 4]
    assert micro.size == 4 and micro.num_halved == 2 and len(released) == 2


def test_another_error_is_not_taken_for_missing_memory():
    def forward(x):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        MicroBatches(4).run(forward, torch.zeros(4, 1))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_one_sample_that_does_not_fit_is_one_sentence():
    with pytest.raises(OutOfDeviceMemory, match=r"forward pass of one sample.*crop_px"):
        MicroBatches(4).run(Device(0), torch.zeros(4, 1))


def test_the_size_grows_back_and_is_tried_more_rarely_where_it_never_fits():
    device, micro, x = Device(4), MicroBatches(8), torch.zeros(8, 1)
    tried = []
    for number in range(300):
        before = len(device.seen)
        micro.run(device, x)
        if 8 in device.seen[before:]:
            tried.append(number)
    assert tried[:2] == [0, 64] and all(b - a >= 64 for a, b in itertools.pairwise(tried))
    assert len(tried) <= 4
    device.room = 8  # another program has gone
    for _ in range(1024):
        micro.run(device, x)
    assert micro.size == 8


class Clock:
    """Advances by what a pass costs: a start-up cost and a cost a sample."""

    def __init__(self, fixed, each, room=10**9):
        self.now, self.fixed, self.each, self.room = 0.0, fixed, each, room

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("full")
        self.now += self.fixed + self.each * len(x)
        return {}


def found(clock):
    return search_batch(clock.forward, lambda n: torch.zeros(n), clock=lambda: clock.now)


def test_the_search_stops_where_twice_as_many_are_no_faster():
    assert found(Clock(fixed=0.0, each=1.0)) == 8
    # the rate is n / (16 + n): 512 gains 3 % on 256, which is within 5 % of it
    assert found(Clock(fixed=16.0, each=1.0)) == 256


def test_the_search_stays_within_memory():
    assert found(Clock(fixed=64.0, each=1.0, room=100)) == 64
    assert found(Clock(fixed=64.0, each=1.0, room=3)) == 2
    assert found(Clock(fixed=64.0, each=1.0, room=0)) == 1


def test_passes_that_fit_are_remembered_and_forgotten_where_whole_batches_fit_again(tmp_path):
    spec, device = BackboneSpec("net", "0" * 32, "none", "{}", "float32", "cpu"), torch.device("cpu")
    assert known_pass(spec, device, 32, tmp_path) == 32
    remember_pass(spec, device, 32, 8, tmp_path)
    assert known_pass(spec, device, 32, tmp_path) == 8
    assert known_pass(spec, device, 64, tmp_path) == 64, "another batch is another question"
    remember_pass(spec, device, 32, 32, tmp_path)
    assert known_pass(spec, device, 32, tmp_path) == 32
