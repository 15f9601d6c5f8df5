"""Texts in batches of their length: each once, in shapes of a fixed set, whatever the order and the failures."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedpipe.backbones.staging import PADDING, Staging, padded_lengths
from embedpipe.errors import UnreadableSample
from embedpipe.extract.batches import Batch
from embedpipe.extract.engine import CpuEngine
from embedpipe.extract.pipeline import embed

LONGEST = 100
STAGING = Staging.of_texts(LONGEST)


def sums(ids_NL):
    """What a text says of itself: sum and number of its ids; and the shape it was computed in."""
    own = ids_NL != PADDING
    shape = torch.tensor(ids_NL.shape).repeat(len(ids_NL), 1)
    return {"t": torch.cat([(ids_NL * own).sum(1)[:, None], own.sum(1)[:, None], shape], dim=1).float()}


def run(lengths, batch, broken=(), stop=lambda: False):
    def read(index):
        if index in broken:
            raise UnreadableSample(f"text {index} is empty")
        return torch.arange(lengths[index], dtype=torch.int32) + index

    rows = np.arange(len(lengths), dtype=np.int64) + 1000
    batches = [Batch(rows[i : i + batch], rows[i : i + batch] - 1000) for i in range(0, len(rows), batch)]
    got = []
    embed(batches, read, CpuEngine(sums, batch, STAGING), got.append, decode_threads=2, stop=stop)
    return got


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, LONGEST), max_size=60), st.integers(1, 9), st.sets(st.integers(0, 59), max_size=5)
)
def test_each_text_comes_out_once_in_the_shape_of_its_length(lengths, batch, broken):
    got = run(lengths, batch, broken)
    found = {}
    for one in got:
        assert (np.diff(one.batch.rows) > 0).all()
        found |= dict(zip(one.batch.rows[one.ok].tolist(), one.values.get("t", ()), strict=True))
        for row, reason in one.failures.items():
            assert reason == f"text {row - 1000} is empty"
            found[row] = None
    assert sorted(found) == [1000 + i for i in range(len(lengths))]
    for i, length in enumerate(lengths):
        if i in broken:
            assert found[1000 + i] is None
        else:
            padded = STAGING.padded(length)
            expected = [sum(range(length)) + i * length, length, STAGING.rows(batch, padded), padded]
            assert found[1000 + i].tolist() == expected


def test_full_batches_of_one_length_are_few():
    lengths = [10] * 64 + [50] * 32
    assert len(run(lengths, 32)) == 3


def test_a_stop_begins_nothing_more():
    asked = iter(range(10**6))
    got = run([10] * 1000, 8, stop=lambda: next(asked) > 100)
    assert 0 < sum(len(one.batch.rows) for one in got) < 400


@given(st.integers(1, 5000))
def test_padded_lengths_rise_to_the_longest_and_waste_little(longest):
    lengths = padded_lengths(longest)
    assert list(lengths) == sorted(set(lengths)) and lengths[-1] == longest
    staging = Staging.of_texts(longest)
    for num in range(1, longest + 1, max(1, longest // 50)):
        padded = staging.padded(num)
        assert num < padded or padded == longest  # a padded place, which only the longest may lack
        assert padded <= max(num + 8, 1.26 * num + 1)
    assert len(lengths) <= 8 + 4 * 7
