"""Which sample is train, val or test: by hash, so that growth never moves one between test and train.

Four steps, each a function of its own: `membership` gives each group a split, `carve_val` completes given
splits, `drop_duplicates_across` keeps equal content out of two splits, and `merge_groups` names what is
resampled together. `stratified` is the exact alternative, for those who will not grow.

What is promised. A group's split depends on its name, the seed and the two shares alone, whatever other
samples there are. So adding samples moves no sample from one split to another, with one exception that
cannot be had otherwise: if content equal to a train (or val) sample arrives in a group of the test, one
of the two must go, and the train sample becomes `excluded`. It never enters the test, nor does a test
sample leave it. Raising `test` moves samples into the test, lowering it moves them out; `val` and the seed
never touch the test.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from embedpipe.errors import DataError

_PRECEDENCE = {"test": 0, "val": 1, "train": 2}


def unit_hash(*parts: str | int) -> float:
    """A number in [0, 1) that depends on `parts` alone: 53 bits of their blake2b."""
    hasher = hashlib.blake2b(digest_size=8)
    for part in parts:
        encoded = str(part).encode("utf-8")
        hasher.update(len(encoded).to_bytes(8, "little") + encoded)
    return (int.from_bytes(hasher.digest(), "little") >> 11) / float(1 << 53)


def membership(groups: Sequence[str], seed: int, val: float, test: float) -> list[str]:
    """Split of each sample by the hash of its group.

    The test is fixed first and without the seed, so that neither another seed nor another share of
    validation gives another test.

    Parameters
    ----------
    groups : sequence of str, length N
        Samples of one group get one split.
    seed : int
        Varies validation against train.
    val, test : float
        Shares of the groups in [0, 1), together below 1. Shares are met on average: a thousand groups
        at 0.15 give 150 within about 23.

    Returns
    -------
    list of str, length N
        ``train``, ``val`` or ``test``.
    """
    assert val >= 0.0 and test >= 0.0 and val + test < 1.0, (val, test)
    split_of: dict[str, str] = {}
    for group in groups:
        if group not in split_of:
            if unit_hash("test", group) < test:
                split_of[group] = "test"
            else:
                in_val = unit_hash("val", seed, group) < val / (1.0 - test)
                split_of[group] = "val" if in_val else "train"
    return [split_of[group] for group in groups]


@dataclass(frozen=True)
class GivenSplits:
    """Splits that a data set came with, completed.

    Attributes
    ----------
    splits : list of str, length N
    notes : list of str
        What was taken for granted, one sentence each.
    """

    splits: list[str]
    notes: list[str]


def complete_given(
    given: Sequence[str], groups: Sequence[str], seed: int, val: float, test: float
) -> GivenSplits:
    """Complete splits that a data set came with; those given are never changed otherwise.

    Val without test is the test. Where validation is then missing, it is carved out of train by hash;
    where all is train, so is the test.

    Parameters
    ----------
    given : sequence of str, length N
        ``train``, ``val``, ``test`` or ``excluded``.
    groups, seed, val, test
        As for `membership`.
    """
    found = set(given) - {"excluded"}
    notes: list[str] = []
    splits = list(given)
    if found == {"train"}:
        hashed = membership(groups, seed, val, test)
        return GivenSplits([h if s == "train" else s for h, s in zip(hashed, splits, strict=True)], notes)
    if "train" not in found:
        raise DataError(f"expected samples in train, found only {', '.join(sorted(found)) or 'none'}")
    if found == {"train", "val"}:
        splits = ["test" if split == "val" else split for split in splits]
        notes.append("val came without test: it is the test, and validation is carved out of train by hash")
    if found in ({"train", "val"}, {"train", "test"}):
        carved = membership(groups, seed, val, 0.0)
        splits = [c if s == "train" else s for c, s in zip(carved, splits, strict=True)]
        if found == {"train", "test"}:
            notes.append("no val came with the data: it is carved out of train by hash")
    return GivenSplits(splits, notes)


def drop_duplicates_across(splits: Sequence[str], keys: Sequence[bytes]) -> list[str]:
    """Exclude samples whose content also lies in a split that matters more: test, then val, then train.

    Duplicates within one split stay.

    Returns
    -------
    list of str, length N
        `splits`, with ``excluded`` in place of ``train`` or ``val`` where that is so.
    """
    first: dict[bytes, str] = {}
    for split, key in zip(splits, keys, strict=True):
        if split in _PRECEDENCE and _PRECEDENCE[split] < _PRECEDENCE.get(first.get(key, ""), 3):
            first[key] = split
    return [
        "excluded" if split in _PRECEDENCE and first[key] != split else split
        for split, key in zip(splits, keys, strict=True)
    ]


def group_names(user_groups: Sequence[str | None], keys: Sequence[bytes]) -> list[str]:
    """The group that decides a sample's split: the user's, or the key where there is none.

    The name depends on the sample alone, so growth never changes it.
    """
    return [
        f"group:{group}" if group is not None else f"key:{key.hex()}"
        for group, key in zip(user_groups, keys, strict=True)
    ]


def merge_groups(user_groups: Sequence[str | None], keys: Sequence[bytes]) -> list[str]:
    """Groups to resample and to fold by: the union of the user's groups and of equal keys.

    A merged group is named by the least of its `group_names`. A sample that joins two groups may so
    rename one of them: that changes folds and bootstrap draws, never a split, since splits are decided
    by `group_names`.

    Returns
    -------
    list of str, length N
    """
    names = group_names(user_groups, keys)
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        root = name
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while parent[name] != root:
            parent[name], name = root, parent[name]
        return root

    for name, key in zip(names, keys, strict=True):
        a, b = find(name), find(f"key:{key.hex()}")
        if a != b:
            parent[max(a, b)] = min(a, b)
    # "group:" sorts before "key:", so the least name is the user's wherever there is one
    return [find(name) for name in names]


def stratified(
    groups: Sequence[str], strata: Sequence[str | None], seed: int, val: float, test: float
) -> list[str]:
    """Exact shares of every class, at the price of growth: adding samples moves others.

    Within a class, groups go in the order of their hash to the test until it has its share of samples,
    then to val, then to train. A group whose samples are of several classes counts as of its first.

    Parameters
    ----------
    groups : sequence of str, length N
    strata : sequence of str or None, length N
        Class of each sample; those without one form a class of their own.
    seed, val, test
        As for `membership`; here the test depends on the seed.

    Returns
    -------
    list of str, length N
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    by_class: dict[str | None, list[str]] = defaultdict(list)
    for group, rows in members.items():
        by_class[strata[rows[0]]].append(group)
    splits = ["train"] * len(groups)
    for its_groups in by_class.values():
        its_groups.sort(key=lambda group: unit_hash("stratified", seed, group))
        total = sum(len(members[group]) for group in its_groups)
        wanted = {"test": round(total * test), "val": round(total * val)}
        for group in its_groups:
            for split in ("test", "val"):
                # a group goes where it fits: one that is larger than what is missing would overshoot
                if wanted[split] >= len(members[group]):
                    wanted[split] -= len(members[group])
                    for row in members[group]:
                        splits[row] = split
                    break
    return splits
