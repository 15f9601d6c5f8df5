"""The verdict names what the run waited for, and the knob to turn."""

import pytest

from embedpipe.extract.batches import StepTimes
from embedpipe.extract.verdict import judge


@pytest.mark.parametrize(
    ("waits", "bottleneck", "knob"),
    [
        ({"wait_read_s": 8.0, "forward_s": 1.0}, "decode", "extract.decode_threads"),
        ({"forward_s": 8.0, "wait_read_s": 1.0}, "forward", "bfloat16"),
        ({"wait_write_s": 8.0, "forward_s": 1.0}, "write", "EMBEDPIPE_CACHE"),
    ],
)
def test_the_longest_wait_is_the_bottleneck(waits, bottleneck, knob):
    verdict = judge(StepTimes(total_s=10.0, num_samples=50, **waits), "cpu")
    assert verdict.bottleneck == bottleneck
    assert knob in verdict.advice and "80%" in verdict.advice
    assert verdict.rate == pytest.approx(5.0)
    assert verdict.knob and verdict.knob in verdict.advice
    assert verdict.shares[bottleneck] == 0.8 and sum(verdict.shares.values()) == pytest.approx(0.9)


def test_a_run_with_nothing_to_embed_says_so():
    assert "already holds" in judge(StepTimes(), "cpu").advice
