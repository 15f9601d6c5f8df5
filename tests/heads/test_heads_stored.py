"""Moments kept on disk: counted by rows read, and equal to those made at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from embedpipe.heads.gram import Gram
from embedpipe.heads.rows import ArrayRows
from embedpipe.heads.stored import FEATURES, KeptRows, moments_of
from embedpipe.heads.training import OneHot


@dataclass
class CountedRows:
    """Rows that count how many of them were read."""

    X: np.ndarray
    read: list = field(default_factory=lambda: [0])

    @property
    def shape(self):
        return self.X.shape

    def blocks(self):
        for part, block in ArrayRows(self.X).blocks():
            self.read[0] += len(block)
            yield part, block

    def gather(self, index):
        return self.X[index]

    def take(self, index):
        return CountedRows(self.X[index], self.read)


@pytest.fixture
def tap(tmp_path, features):
    """Makes a tap of the first rows, with counted reading."""
    X, codes = features(400, 12, 4)
    keys = np.random.default_rng(0).integers(0, 256, (400, 16), dtype=np.uint8)
    keys[:, -1] = 0  # byte strings that end in zeros are told apart too

    def make(num=400):
        rows = CountedRows(X[:num])
        return KeptRows.of(rows, keys[:num], tmp_path / "moments"), rows.read, X, codes

    return make


def agree(gram, X, targets, folds=None, num_folds=1):
    for name, Y in targets.items():
        wanted = Gram(num_folds)
        wanted.add(X, {name: Y[:]}, folds=folds)
        for without in [None, *(range(num_folds) if num_folds > 1 else [])]:
            ours, theirs = gram.normal(name, without=without), wanted.normal(name, without=without)
            for part in ("weight", "mean", "gram", "cross", "target_mean", "target_square"):
                scale = np.abs(getattr(theirs, part)).max()
                np.testing.assert_allclose(getattr(ours, part), getattr(theirs, part), atol=1e-11 * scale)


def test_rows_asked_for_again_are_not_read(tap):
    rows, read, X, codes = tap()
    targets = {"digit": OneHot(codes, 4)}
    moments_of(rows, targets)
    assert read == [400]
    agree(moments_of(rows, targets), X, targets)
    assert read == [400]


def test_new_samples_alone_are_read(tap):
    rows, _, _, codes = tap(390)
    moments_of(rows, {"digit": OneHot(codes[:390], 4)})
    rows, read, X, codes = tap(400)
    targets = {"digit": OneHot(codes, 4)}
    agree(moments_of(rows, targets), X, targets)
    assert read == [20]  # ten for the features, ten for the targets
    assert len(list(rows.folder.iterdir())) == 1


def test_several_new_tasks_read_each_row_once(tap):
    rows, read, X, codes = tap()
    moments_of(rows, {"digit": OneHot(codes, 4)})
    read[0] = 0
    targets = {"parity": OneHot(codes % 2, 2), "value": codes[:, None].astype(float)}
    agree(moments_of(rows, targets), X, targets)
    assert read == [400]


def test_a_label_fix_reads_the_changed_rows(tap):
    rows, read, X, codes = tap()
    moments_of(rows, {"digit": OneHot(codes, 4)})
    read[0] = 0
    fixed = codes.copy()
    fixed[[3, 77]] = (fixed[[3, 77]] + 1) % 4
    targets = {"digit": OneHot(fixed, 4)}
    agree(moments_of(rows, targets), X, targets)
    assert read == [4]  # out with the old, in with the new


def test_a_mask_reads_what_it_hides_and_keeps_the_whole(tap):
    rows, read, X, codes = tap()
    moments_of(rows, {"digit": OneHot(codes, 4)})
    read[0] = 0
    kept = np.delete(np.arange(400), [5, 6, 7])
    targets = {"digit": OneHot(codes[kept], 4)}
    agree(moments_of(rows.take(kept), targets), X[kept], targets)
    assert read == [6]
    assert len(list(rows.folder.iterdir())) == 2


def test_folds_are_kept_apart(tap):
    rows, read, X, codes = tap()
    targets, folds = {"digit": OneHot(codes, 4)}, np.arange(400) % 3
    for _ in range(2):
        agree(moments_of(rows, targets, folds=folds, num_folds=3), X, targets, folds, 3)
    assert read == [400]


def test_the_order_of_rows_does_not_matter(tap):
    rows, read, X, codes = tap()
    moments_of(rows, {"digit": OneHot(codes, 4)})
    order = np.random.default_rng(1).permutation(400)
    targets = {"digit": OneHot(codes[order], 4)}
    agree(moments_of(rows.take(order), targets), X[order], targets)
    assert read == [400]


def test_weights_and_repeated_rows_get_moments_of_their_own(tap):
    rows, read, _, codes = tap()
    targets, weight = {"digit": OneHot(codes, 4)}, np.arange(1.0, 401.0)
    moments_of(rows, targets)
    found = moments_of(rows, targets, weight=weight).normal("digit")
    assert read == [800] and found.weight == weight.sum()
    twice = np.concatenate([np.arange(400), [0]])
    assert moments_of(rows.take(twice), {"d": OneHot(codes[twice], 4)}).normal("d").weight == 401


def test_moments_of_a_tap_that_was_computed_anew_are_not_used(tap):
    rows, read, X, codes = tap()
    targets = {"digit": OneHot(codes, 4)}
    moments_of(rows, targets)
    changed = KeptRows.of(CountedRows(X * np.float32(1.001), read), rows.keys, rows.folder)
    for _ in range(2):
        agree(moments_of(changed, targets), X * np.float32(1.001), targets)
    assert read == [800]


def test_a_damaged_file_is_made_again(tap):
    rows, read, X, codes = tap()
    targets = {"digit": OneHot(codes, 4)}
    moments_of(rows, targets)
    (path,) = rows.folder.glob(f"*/{FEATURES}")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(bytes(damaged))
    for _ in range(2):
        agree(moments_of(rows, targets), X, targets)
    assert read == [800]
