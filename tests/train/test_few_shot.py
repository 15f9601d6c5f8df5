"""k-shot arms: what they learn from, and what chooses."""

import numpy as np
import pytest

from embedpipe.evaluate.predictions import Predictions
from embedpipe.manifest.kshot import k_shot_indices
from embedpipe.train.fit import best_of, folds_of


@pytest.mark.parametrize(("k_shot", "num_folds"), [(1, 0), (2, 2), (4, 4), (5, 5), (10, 5), (20, 3)])
def test_folds_are_stratified_and_partition_the_labels(k_shot, num_folds):
    codes = np.repeat([0, 1, 2], k_shot)
    folds = folds_of(codes, k_shot)
    assert len(folds) == num_folds
    if folds:
        assert sorted(np.concatenate(folds)) == list(range(len(codes)))
    for held in folds:
        counts = np.bincount(codes[held], minlength=3)
        assert counts.max() - counts.min() == 0
        assert counts.max() < k_shot  # something is left to learn from


def test_labels_beyond_the_draw_change_nothing(bench):
    """Neither other training labels nor validation labels reach a k-shot arm."""
    bench.train()
    before = Predictions.read(bench.paths.predictions)
    train = [i for i, split in enumerate(bench.splits) if split == "train"]
    codes = np.array([bench.classes.index(bench.labels[i]) for i in train])
    ids = [bench.ids[i] for i in train]
    drawn = {ids[j] for draw in range(3) for j in k_shot_indices(ids, codes, 2, draw=draw, seed=0)}
    # classes swap among samples that no draw holds: the lowest hashes of each class stay where they are
    val = [i for i, split in enumerate(bench.splits) if split == "val"]
    for i in val:
        bench.labels[i] = bench.classes[(bench.classes.index(bench.labels[i]) + 1) % 3]
    bench.labels = [
        None if split == "train" and one not in drawn else label
        for one, split, label in zip(bench.ids, bench.splits, bench.labels, strict=True)
    ]
    bench.train()
    after = Predictions.read(bench.paths.predictions)
    few = [(arm, k) for arm, k in before.arms() if k == 2]
    assert few
    assert all(before.digest(arm, k) == after.digest(arm, k) for arm, k in few)


def test_the_selected_arm_of_a_draw_is_the_best_on_its_own_folds(bench):
    bench.train()
    rows = {row["arm"]: row for row in bench.scores()["arms"] if row["k_shot"] == 2}
    predictions = Predictions.read(bench.paths.predictions)
    selected = predictions.scores("selected@net", 2)
    for draw, chosen in enumerate(rows["selected@net"]["per_draw"]):
        inner = {
            arm: rows[arm]["per_draw"][draw]["inner"] for arm in ("centroid@net/a.gap", "centroid@net/b.gap")
        }
        best = max(inner, key=lambda arm: (inner[arm]["balanced_accuracy"], -inner[arm]["nll"]))
        assert chosen["arm"] == best
        np.testing.assert_array_equal(selected.scores[draw], predictions.scores(best, 2).scores[draw])


def test_one_label_a_class_takes_the_deepest_tap_and_says_so(make_bench):
    bench = make_bench(compare={"k_shot": [1], "draws": 2, "heads": ["centroid", "ridge"]})
    bench.train()
    rows = {row["arm"]: row for row in bench.scores()["arms"] if row["k_shot"] == 1}
    row = rows["selected@net"]
    assert {draw["arm"] for draw in row["per_draw"]} == {"centroid@net/b.gap"}
    assert row["note"] == "deepest tap: one label a class cannot choose"
    assert rows["centroid@net/a.gap"]["per_draw"][0]["inner"] is None


def test_equal_scores_are_decided_by_log_loss_and_then_by_order():
    def one(score, loss):
        return {"accuracy": score, "nll": loss}

    assert best_of([one(0.9, 1.0), one(0.9, 0.5), one(0.8, 0.1)], "accuracy") == 1
    assert best_of([one(0.9, 0.5), one(0.9, 0.5)], "accuracy") == 0
    assert best_of([one(0.9, 0.5), one(0.1, 0.2)], "nll") == 1
    assert best_of([one(None, None), one(0.1, 0.2)], "accuracy") == 1
    assert best_of([one(None, None)], "accuracy") is None
