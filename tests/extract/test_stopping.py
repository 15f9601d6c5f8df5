"""A run that ends before it is done says why and how to go on; what the cache saved adds up over runs."""

import os
import signal

import pytest

from embedpipe.extract.options import ExtractOptions, seconds_of
from embedpipe.extract.saved import Saved, add_saved, read_saved
from embedpipe.extract.stopping import Stopping


@pytest.mark.parametrize(("text", "seconds"), [("7h50m", 28200), ("90s", 90), ("2h", 7200), ("1h1m1s", 3661)])
def test_durations_are_hours_minutes_and_seconds(text, seconds):
    assert seconds_of(text) == seconds
    assert ExtractOptions(stop_after=text).stop_after == text


@pytest.mark.parametrize("text", ["", "7:50", "5", "0s", "3 hours"])
def test_what_is_no_duration_is_said(text):
    with pytest.raises(ValueError, match="7h50m"):
        ExtractOptions(stop_after=text)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_the_first_signal_asks_and_the_second_is_the_systems_own(number, code):
    before = signal.getsignal(number)
    with Stopping() as stopping:
        assert not stopping.asked()
        os.kill(os.getpid(), number)
        assert stopping.asked() and stopping.due()
        assert signal.getsignal(number) == before
    error = stopping.error("r50", 1200, 5000)
    assert error.exit_code == code
    assert "1,200 of 5,000" in str(error) and "same command goes on" in str(error)


def test_time_is_up_at_the_next_block_and_begun_batches_are_finished():
    now = [0.0]
    stopping = Stopping(60.0, clock=lambda: now[0])
    now[0] = 59.0
    assert not stopping.due()
    now[0] = 60.0
    assert stopping.due() and not stopping.asked()
    assert stopping.error("r50", 1, 2).exit_code == 75 and "stop_after" in str(stopping.error("r50", 1, 2))


def test_what_the_cache_saved_is_samples_times_reuse_at_the_measured_rate(tmp_path):
    add_saved(tmp_path, "r50", num_embedded=1000, num_reused=0, spent_s=50.0)
    assert read_saved(tmp_path, "r50").sentence() == ""
    for _ in range(3):
        saved = add_saved(tmp_path, "r50", num_embedded=0, num_reused=1000, spent_s=0.0)
    assert saved == read_saved(tmp_path, "r50")
    assert saved.rate == 20.0 and saved.saved_s == 150.0
    assert saved.sentence() == "the cache has saved 2 min so far: 3,000 samples not embedded again, at 20/s"


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"num_embedded": "x"}'])
def test_a_damaged_note_counts_as_none(tmp_path, content):
    (tmp_path / "r50.saved.json").write_text(content)
    assert read_saved(tmp_path, "r50") == Saved()
