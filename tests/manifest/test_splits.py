"""Splits by hash: growth moves nothing between test and train, duplicates never straddle."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from embedpipe.errors import DataError
from embedpipe.manifest.splits import (
    complete_given,
    drop_duplicates_across,
    group_names,
    membership,
    merge_groups,
    stratified,
    unit_hash,
)

# few groups and few contents, so that duplicates and clashes are common
samples = st.lists(
    st.tuples(st.sampled_from([None, "g0", "g1", "g2", "g3", "g4"]), st.integers(0, 12)), max_size=40
)


def keys_of(rows: list[tuple[str | None, int]]) -> list[bytes]:
    return [content.to_bytes(16, "big") for _, content in rows]


def split(rows: list[tuple[str | None, int]], seed: int = 0) -> list[str]:
    keys = keys_of(rows)
    return drop_duplicates_across(
        membership(group_names([group for group, _ in rows], keys), seed, 0.3, 0.3), keys
    )


@settings(max_examples=200, deadline=None)
@given(samples, samples)
def test_growth_moves_no_sample_between_test_and_train(
    old: list[tuple[str | None, int]], new: list[tuple[str | None, int]]
) -> None:
    before, after = split(old), split(old + new)[: len(old)]
    for was, now in zip(before, after, strict=True):
        assert now == was or (now == "excluded" and was in ("train", "val"))


@settings(max_examples=200, deadline=None)
@given(samples, samples)
def test_without_user_groups_growth_moves_nothing_at_all(
    old: list[tuple[str | None, int]], new: list[tuple[str | None, int]]
) -> None:
    old, new = [(None, content) for _, content in old], [(None, content) for _, content in new]
    assert split(old + new)[: len(old)] == split(old)
    assert "excluded" not in split(old + new)


@settings(max_examples=200, deadline=None)
@given(samples)
def test_duplicates_never_straddle(rows: list[tuple[str | None, int]]) -> None:
    splits_of: dict[bytes, set[str]] = defaultdict(set)
    for key, where in zip(keys_of(rows), split(rows), strict=True):
        if where != "excluded":
            splits_of[key].add(where)
    assert all(len(found) == 1 for found in splits_of.values())


@settings(deadline=None)
@given(samples)
def test_groups_never_straddle(rows: list[tuple[str | None, int]]) -> None:
    splits_of: dict[str, set[str]] = defaultdict(set)
    for (group, _), where in zip(rows, split(rows), strict=True):
        if group is not None and where != "excluded":
            splits_of[group].add(where)
    assert all(len(found) == 1 for found in splits_of.values())


@settings(deadline=None)
@given(samples, st.randoms())
def test_order_does_not_matter(rows: list[tuple[str | None, int]], random: object) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = split([rows[i] for i in order])
    assert [shuffled[order.index(i)] for i in range(len(rows))] == split(rows)


def test_a_new_duplicate_joins_the_split_of_the_one_it_equals() -> None:
    rows = [(None, content) for content in range(30)]
    assert split([*rows, *rows]) == split(rows) * 2


def test_test_depends_on_neither_seed_nor_share_of_validation() -> None:
    groups = [str(i) for i in range(500)]

    def tests(seed: int, val: float) -> set[str]:
        splits = membership(groups, seed, val, 0.2)
        return {group for group, where in zip(groups, splits, strict=True) if where == "test"}

    assert tests(0, 0.1) == tests(1, 0.1) == tests(0, 0.6)
    assert membership(groups, 0, 0.1, 0.2) != membership(groups, 1, 0.1, 0.2)


def test_a_larger_test_only_adds_to_it() -> None:
    groups = [str(i) for i in range(500)]
    small, large = membership(groups, 0, 0.1, 0.1), membership(groups, 0, 0.1, 0.3)
    assert all(now == "test" for was, now in zip(small, large, strict=True) if was == "test")


def test_shares_are_met_on_average() -> None:
    splits = membership([str(i) for i in range(20_000)], 0, 0.15, 0.25)
    # five standard deviations of a binomial: 5 * sqrt(0.25 * 0.75 / 20000) = 0.0153
    assert abs(splits.count("test") / 20_000 - 0.25) < 0.0153
    assert abs(splits.count("val") / 20_000 - 0.15) < 0.0153


def test_zero_shares_give_train_alone() -> None:
    assert set(membership([str(i) for i in range(100)], 0, 0.0, 0.0)) == {"train"}


def test_unit_hash_tells_parts_apart() -> None:
    assert unit_hash("ab", "c") != unit_hash("a", "bc")
    assert all(0.0 <= unit_hash(i) < 1.0 for i in range(100))


def test_membership_is_the_same_in_every_version() -> None:
    # figures noted when the format was fixed: another hash would reshuffle everyone's test set
    assert membership([f"sample {i}" for i in range(12)], 0, 0.25, 0.25) == [
        "train", "test", "train", "train", "val", "train", "train", "test", "train", "test", "train", "val",
    ]  # fmt: skip


def test_val_without_test_is_the_test() -> None:
    given_splits = ["train"] * 200 + ["val"] * 50
    groups = [str(i) for i in range(250)]
    completed = complete_given(given_splits, groups, 0, 0.2, 0.15)
    assert completed.splits[200:] == ["test"] * 50
    assert set(completed.splits[:200]) == {"train", "val"}
    assert completed.notes == [
        "val came without test: it is the test, and validation is carved out of train by hash"
    ]


def test_complete_splits_are_kept() -> None:
    given_splits = ["train", "val", "test", "excluded"] * 5
    completed = complete_given(given_splits, [str(i) for i in range(20)], 0, 0.2, 0.2)
    assert completed.splits == given_splits
    assert completed.notes == []


def test_validation_is_carved_out_of_train_where_there_is_none() -> None:
    completed = complete_given(["train"] * 100 + ["test"] * 10, [str(i) for i in range(110)], 0, 0.3, 0.1)
    assert completed.splits[100:] == ["test"] * 10
    assert 15 <= completed.splits.count("val") <= 45


def test_given_splits_without_train_are_refused() -> None:
    with pytest.raises(DataError, match="expected samples in train, found only test, val"):
        complete_given(["val", "test"], ["a", "b"], 0, 0.1, 0.1)


def test_duplicates_across_given_splits_stay_where_they_matter_most() -> None:
    keys = [b"a" * 16, b"a" * 16, b"a" * 16, b"b" * 16, b"b" * 16, b"c" * 16, b"c" * 16, b"d" * 16]
    splits = ["train", "val", "test", "val", "train", "train", "train", "excluded"]
    assert drop_duplicates_across(splits, keys) == [
        "excluded", "excluded", "test", "val", "excluded", "train", "train", "excluded",
    ]  # fmt: skip


@settings(deadline=None)
@given(samples)
def test_merged_groups_are_the_connected_components(rows: list[tuple[str | None, int]]) -> None:
    keys = keys_of(rows)
    merged = merge_groups([group for group, _ in rows], keys)
    pairs = [
        (i, j)
        for i, (group, content) in enumerate(rows)
        for j, (other, other_content) in enumerate(rows)
        if content == other_content or (group is not None and group == other)
    ]
    if not rows:
        assert merged == []
        return
    graph = coo_array(([1] * len(pairs), tuple(zip(*pairs, strict=True))), shape=(len(rows), len(rows)))
    _, expected = connected_components(graph, directed=False)
    assert {(a == b) == (x == y) for a, x in zip(merged, expected, strict=True)
            for b, y in zip(merged, expected, strict=True)} == {True}  # fmt: skip


def test_a_merged_group_is_named_by_the_user_where_it_can_be() -> None:
    keys = [b"a" * 16, b"a" * 16, b"b" * 16]
    assert merge_groups([None, "patient 7", None], keys) == [
        "group:patient 7", "group:patient 7", f"key:{(b'b' * 16).hex()}",
    ]  # fmt: skip


def test_stratified_shares_are_exact_in_every_class() -> None:
    strata = ["rare"] * 20 + ["common"] * 200 + [None] * 40
    splits = stratified([str(i) for i in range(260)], strata, 0, 0.25, 0.1)
    for first, last in ((0, 20), (20, 220), (220, 260)):
        part = splits[first:last]
        assert part.count("test") == round(0.1 * (last - first))
        assert part.count("val") == round(0.25 * (last - first))


def test_stratified_keeps_groups_whole() -> None:
    groups = [str(i // 3) for i in range(300)]
    splits = stratified(groups, ["x"] * 300, 0, 0.2, 0.2)
    assert all(len({splits[i], splits[i + 1], splits[i + 2]}) == 1 for i in range(0, 300, 3))
    assert splits.count("test") == 60
