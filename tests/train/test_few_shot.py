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


def test_folds_split_no_group_and_leave_every_class_something_to_learn_from():
    rng = np.random.default_rng(0)
    for _ in range(50):
        codes = np.repeat([0, 1, 2], 8)
        groups = np.array([f"{code}-{rng.integers(4)}" for code in codes])
        for held in folds_of(codes, 8, groups):
            kept = np.setdiff1d(np.arange(len(codes)), held)
            assert not set(groups[held]) & set(groups[kept])
            assert set(codes[kept]) == {0, 1, 2}


def test_labels_of_one_group_alone_leave_no_folds():
    assert folds_of(np.repeat([0, 1], 4), 4, ["a"] * 4 + ["b", "c", "d", "e"]) == []
    assert len(folds_of(np.repeat([0, 1], 4), 4, ["a", "a", "f", "f", "b", "c", "d", "e"])) == 2


def noise_with_neighbours(bench, k_shot=4):
    """Features that say nothing of the class, judged by the head that remembers every sample."""
    noise = np.random.default_rng(5).standard_normal((bench.num, 32)).astype(np.float32)
    bench.stores = {"net": type(bench.stores["net"])("net", "transferred", {"a.gap": noise}, bench.keys)}
    bench.heads = {"knn": {"k": [1]}}
    bench.compare = {"k_shot": [k_shot], "draws": 10, "heads": ["knn"]}
    bench.baselines = ()
    return noise


def inner_accuracy(bench):
    rows = [row for row in bench.scores()["arms"] if row["k_shot"] != "all" and row["head"] == "knn"]
    return np.mean([draw["inner"]["accuracy"] for draw in rows[0]["per_draw"]])


def test_labels_of_a_held_out_fold_are_not_trained_on(bench):
    noise_with_neighbours(bench)
    bench.train()
    assert inner_accuracy(bench) < 0.6  # three classes: chance is 0.33, a leak gives 1.0


def test_copies_of_a_held_out_sample_are_not_trained_on(bench):
    """Labelled samples come in pairs of the same features and class: across folds, memory gives 1.0."""
    noise = noise_with_neighbours(bench, k_shot=8)
    groups = list(bench.ids)
    train = [i for i, split in enumerate(bench.splits) if split == "train"]
    for name in bench.classes:
        mine = [i for i in train if bench.labels[i] == name]
        for i in mine[8:]:
            bench.labels[i] = None  # so that every draw holds both of each pair
        noise[mine[1:8:2]] = noise[mine[0:8:2]]
        for one, other in zip(mine[0:8:2], mine[1:8:2], strict=True):
            groups[other] = bench.ids[one]
    bench.train()
    assert inner_accuracy(bench) > 0.8
    bench.groups = groups
    bench.train()
    assert inner_accuracy(bench) < 0.6


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
