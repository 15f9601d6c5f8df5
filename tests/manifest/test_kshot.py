"""k-shot draws: exactly k a class, nested in k, stable under growth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedpipe.errors import DataError
from embedpipe.manifest.kshot import k_shot_indices

IDS = [f"s{i:03d}" for i in range(60)]
CODES = np.array([i % 4 - 1 for i in range(60)])  # 15 missing, 15 of each of three classes


@settings(deadline=None)
@given(st.integers(1, 15), st.integers(0, 5), st.integers(0, 3))
def test_each_class_has_k_samples_and_missing_labels_are_skipped(k: int, draw: int, seed: int) -> None:
    chosen = k_shot_indices(IDS, CODES, k, draw=draw, seed=seed)
    assert np.bincount(CODES[chosen], minlength=3).tolist() == [k, k, k]
    assert chosen.tolist() == sorted(set(chosen.tolist()))


@settings(deadline=None)
@given(st.integers(1, 14), st.integers(0, 20))
def test_draws_are_nested_in_k(k: int, draw: int) -> None:
    small, large = k_shot_indices(IDS, CODES, k, draw=draw), k_shot_indices(IDS, CODES, k + 1, draw=draw)
    assert set(small) < set(large)


@settings(deadline=None)
@given(st.integers(1, 15), st.integers(0, 5), st.randoms())
def test_rows_in_another_order_give_the_same_samples(k: int, draw: int, random: object) -> None:
    order = list(range(60))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = k_shot_indices([IDS[i] for i in order], CODES[order], k, draw=draw)
    expected = {IDS[i] for i in k_shot_indices(IDS, CODES, k, draw=draw)}
    assert {IDS[order[i]] for i in shuffled} == expected


@settings(deadline=None)
@given(st.integers(1, 10), st.integers(0, 2), st.text(min_size=1, max_size=5))
def test_one_new_sample_replaces_at_most_one(k: int, code: int, name: str) -> None:
    before = set(k_shot_indices(IDS, CODES, k, draw=0).tolist())
    after = set(k_shot_indices([*IDS, "new" + name], np.append(CODES, code), k, draw=0).tolist())
    assert len(before - after) <= 1


def test_draws_and_seeds_differ() -> None:
    drawn = {
        tuple(k_shot_indices(IDS, CODES, 3, draw=draw, seed=seed)) for draw in range(4) for seed in range(3)
    }
    assert len(drawn) == 12


def test_every_sample_is_drawn_as_often_as_chance_has_it() -> None:
    counts = np.zeros(60)
    for draw in range(300):
        counts[k_shot_indices(IDS, CODES, 5, draw=draw)] += 1
    labelled = counts[CODES >= 0]
    # 300 draws at 1/3: mean 100, standard deviation 8.2; five of them
    assert np.abs(labelled - 100).max() < 41


def test_a_class_with_too_few_is_named() -> None:
    codes = np.array([0, 0, 0, 1, 1, -1])
    with pytest.raises(DataError, match=r"k_shot 3: .* found too few: cat has 2; lower k_shot or label more"):
        k_shot_indices(list("abcdef"), codes, 3, draw=0, classes=["dog", "cat"])


def test_a_class_that_is_absent_is_named() -> None:
    with pytest.raises(DataError, match="eel has 0"):
        k_shot_indices(list("ab"), np.array([0, 1]), 1, draw=0, classes=["dog", "cat", "eel"])


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1 sample a class, found 0"):
        k_shot_indices(IDS, CODES, 0, draw=0)
