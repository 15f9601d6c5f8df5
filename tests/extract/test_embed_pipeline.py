"""The three overlapped steps: order, padding, failures, errors, bounded memory."""

import threading
import time

import numpy as np
import pytest
import torch

from embedpipe.backbones.staging import Staging
from embedpipe.errors import StoreError, UnreadableSample
from embedpipe.extract.batches import Batch, Embedded
from embedpipe.extract.engine import CpuEngine
from embedpipe.extract.pipeline import embed

SHAPE = (3, 1, 1)


def batches_of(num, size):
    rows = np.arange(num, dtype=np.int64)
    return [Batch(rows[i : i + size], rows[i : i + size]) for i in range(0, num, size)]


def number(index):
    return torch.full(SHAPE, index, dtype=torch.uint8)


def double(x):
    return {"t": x.flatten(1).float() * 2}


def run(num, size, read=number, forward=double, write=None, threads=3, **options):
    got: list[Embedded] = []
    engine = CpuEngine(forward, size, Staging(SHAPE))
    times = embed(batches_of(num, size), read, engine, write or got.append, decode_threads=threads, **options)
    return got, times


def test_rows_arrive_in_order_with_their_own_features():
    got, times = run(num=23, size=5)
    rows = np.concatenate([g.batch.rows for g in got])
    values = np.concatenate([g.values["t"] for g in got])
    np.testing.assert_array_equal(rows, np.arange(23))
    np.testing.assert_array_equal(values, 2.0 * np.arange(23)[:, None] * np.ones((1, 3)))
    assert times.num_samples == 23


def test_the_forward_pass_always_sees_full_batches():
    seen = []

    def forward(x):
        seen.append(tuple(x.shape))
        return double(x)

    run(num=11, size=4, forward=forward)
    assert set(seen) == {(4, *SHAPE)}


def test_padding_is_zero_whatever_the_buffer_held_before():
    seen = []

    def forward(x):
        seen.append(x.flatten(1)[:, 0].tolist())
        return double(x)

    def read(index):
        if index == 13:
            raise UnreadableSample("gone")
        return number(index)

    run(num=41, size=4, read=read, forward=forward)  # more batches than there are buffers
    assert seen[-1] == [40, 0, 0, 0] and seen[3] == [12, 0, 14, 15]


def test_an_unreadable_sample_is_a_failure_of_its_row_alone():
    def read(index):
        if index in (2, 7):
            raise UnreadableSample(f"sample {index} is truncated")
        return number(index)

    got, _ = run(num=10, size=4, read=read)
    failures = {row: reason for g in got for row, reason in g.failures.items()}
    assert failures == {2: "sample 2 is truncated", 7: "sample 7 is truncated"}
    kept = np.concatenate([g.values["t"][:, 0] for g in got])
    np.testing.assert_array_equal(kept, [2.0 * i for i in range(10) if i not in (2, 7)])


def test_a_batch_in_which_nothing_can_be_read_has_no_features():
    def read(index):
        raise UnreadableSample("gone")

    got, _ = run(num=3, size=4, read=read)
    assert got[0].values == {} and len(got[0].failures) == 3 and not got[0].ok.any()


def test_no_batches_is_no_work():
    got, times = run(num=0, size=4)
    assert got == [] and times.num_samples == 0


def test_an_error_while_writing_ends_the_run_with_that_error():
    def write(embedded):
        raise StoreError("disk is gone")

    with pytest.raises(StoreError, match="disk is gone"):
        run(num=100, size=2, write=write)


def test_an_error_while_reading_other_than_unreadable_ends_the_run():
    def read(index):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(num=4, size=2, read=read)


def test_an_error_in_the_forward_pass_leaves_no_thread_behind():
    def forward(x):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        run(num=40, size=2, forward=forward)
    assert not [t for t in threading.enumerate() if t.name == "embedpipe-writer"]


def test_reading_stays_a_bounded_number_of_batches_ahead():
    lock, begun, written, lead = threading.Lock(), [0], [0], []

    def read(index):
        with lock:
            begun[0] += 1
        return number(index)

    def write(embedded):
        with lock:
            lead.append(begun[0] - written[0])
            written[0] += len(embedded.batch.rows)

    run(num=200, size=4, read=read, write=write)
    # 3 batches read ahead, 2 queued, 1 in the forward pass, 1 being written
    assert max(lead) <= 4 * 8


def test_a_stop_finishes_what_is_in_hand_and_begins_nothing_more():
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 9

    got, times = run(num=200, size=4, stop=stop)
    rows = np.concatenate([g.batch.rows for g in got])
    np.testing.assert_array_equal(rows, np.arange(len(rows)))
    assert 0 < len(rows) < 60 and times.num_samples == len(rows)


def test_shares_of_time_add_up_to_no_more_than_the_whole():
    def read(index):
        time.sleep(0.001)
        return number(index)

    _, times = run(num=40, size=4, read=read, threads=1)
    shares = times.shares()
    assert max(shares, key=shares.get) == "decode" and 0.5 < sum(shares.values()) <= 1.0 + 1e-9


def test_waiting_for_a_slow_device_is_not_called_writing():
    class Slow(CpuEngine):
        def submit(self, pixels):
            done = super().submit(pixels)

            class Late:
                def values(self):
                    time.sleep(0.02)
                    return done.values()

                def device_s(self):
                    return 0.02

            return Late()

    times = embed(
        batches_of(48, 4), number, Slow(double, 4, Staging(SHAPE)), lambda e: None, decode_threads=2
    )
    shares = times.shares()
    assert max(shares, key=shares.get) == "forward" and shares["write"] < 0.3
