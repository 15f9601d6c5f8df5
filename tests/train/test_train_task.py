"""What one training run writes, what it may read, and what stops it."""

import numpy as np
import pytest

from embedpipe.errors import ConfigError, DataError
from embedpipe.evaluate.metrics import point_metrics
from embedpipe.evaluate.predictions import Predictions
from embedpipe.heads import registry
from embedpipe.heads.registry import load_head
from embedpipe.manifest.targets import Targets


def test_every_head_on_every_tap_makes_predictions_of_val_and_test(bench):
    bench.train()
    predictions = Predictions.read(bench.paths.predictions)
    taps = ("blank/a.gap", "net/a.gap", "net/b.gap", "pixels/pixels.flatten")
    full = {f"{head}@{tap}" for head in ("centroid", "ridge") for tap in taps} | {
        "majority",
        "shuffled_labels",
    }
    few = {f"centroid@{tap}" for tap in taps} | {"selected@net", "selected@blank", "selected@pixels"}
    assert set(predictions.arms()) == {(arm, 0) for arm in full} | {(arm, 2) for arm in few}
    scores = predictions.scores("ridge@net/b.gap")
    wanted = [one for one, split in zip(bench.ids, bench.splits, strict=True) if split in ("val", "test")]
    assert sorted(scores.sample_ids) == wanted
    assert predictions.scores("selected@net", 2).num_draws == 3


def test_the_best_candidate_on_validation_is_kept(bench):
    bench.train()
    predictions = Predictions.read(bench.paths.predictions)
    open_targets = Targets.read(bench.root / "open.parquet").where(split="val")
    for row in bench.scores()["arms"]:
        if row["k_shot"] != "all" or "candidates" not in row:
            continue
        best = max(one["val"]["balanced_accuracy"] for one in row["candidates"])
        chosen = predictions.scores(row["arm"]).at(open_targets.sample_ids.astype(str))[0]
        assert point_metrics("classes", open_targets.codes(), chosen)["balanced_accuracy"] == best
        assert row["params"] in [one["params"] for one in row["candidates"]]


def test_a_saved_head_predicts_what_the_table_holds(bench):
    bench.train()
    head = load_head(bench.paths.heads_dir / "ridge@net" / "b.gap")
    X = bench.stores["net"].taps["b.gap"]
    expected = Predictions.read(bench.paths.predictions).scores("ridge@net/b.gap")
    rows = [bench.ids.index(one) for one in expected.sample_ids]
    np.testing.assert_array_equal(head.predict_proba(X[rows]).astype(np.float32), expected.scores[0])


def test_training_never_reads_test_targets(bench):
    bench.train()
    expected = bench.outputs()
    for garbage in (b"no table at all", None):
        bench.write_targets()
        path = bench.root / "sealed.parquet"
        path.unlink()
        if garbage is not None:
            path.write_bytes(garbage)
        options = {"targets_path": bench.root / "open.parquet"}
        bench.write_targets = lambda: None
        bench.train(**options)
        found = bench.outputs()
        assert {k: v for k, v in found.items() if "sealed" not in k} == {
            k: v for k, v in expected.items() if "sealed" not in k
        }
        del bench.write_targets


def test_test_labels_that_stray_into_the_open_targets_are_not_used(bench):
    bench.train()
    expected = bench.paths.predictions.read_bytes(), bench.paths.scores.read_bytes()
    whole = Targets.from_rows(
        "colour", "classes", bench.classes, sample_ids=bench.ids, splits=bench.splits, labels=bench.labels
    )
    bench.write_targets = lambda: whole.write(bench.root / "open.parquet")
    bench.train()
    assert (bench.paths.predictions.read_bytes(), bench.paths.scores.read_bytes()) == expected


def test_majority_predicts_the_frequencies_of_train(bench):
    bench.train()
    train = [label for label, split in zip(bench.labels, bench.splits, strict=True) if split == "train"]
    expected = np.array([train.count(name) / len(train) for name in bench.classes], np.float32)
    scores = Predictions.read(bench.paths.predictions).scores("majority").scores[0]
    np.testing.assert_array_equal(scores, np.tile(expected, (len(scores), 1)))


def test_shuffled_labels_use_the_configuration_that_is_best_on_validation(bench):
    bench.train()
    rows = {row["arm"]: row for row in bench.scores()["arms"] if row["k_shot"] == "all"}
    best = rows["shuffled_labels"]["note"].removesuffix(" on shuffled training labels")
    value = {
        arm: max(one["val"]["balanced_accuracy"] for one in row["candidates"])
        for arm, row in rows.items()
        if "candidates" in row
    }
    assert value[best] == max(value.values())
    assert rows["shuffled_labels"]["params"] == rows[best]["params"]


def test_a_sample_without_features_in_one_backbone_is_left_out_of_every_arm(bench):
    lost = [2, 3]  # one of val, one of train
    bench.stores["pixels"].absent = {bench.keys[i] for i in lost}
    summary = bench.train()
    (note,) = summary.notes
    assert note == "2 samples left out of every arm: no features in 'pixels' (s002, s003)"
    predictions = Predictions.read(bench.paths.predictions)
    for arm, k_shot in predictions.arms():
        assert "s002" not in predictions.scores(arm, k_shot).sample_ids
    assert bench.scores()["num"]["dropped"] == 2


def test_numbers_have_no_k_shot_arms_and_say_so(make_bench):
    bench = make_bench(kind="number", heads={"ridge": {"alpha": [1.0]}, "centroid": {}})
    summary = bench.train()
    assert {k for _, k in Predictions.read(bench.paths.predictions).arms()} == {0}
    assert any("k_shot counts labels a class" in note for note in summary.notes)
    assert any(
        "'centroid' is left out: its family does not fit tasks of kind number" in n for n in summary.notes
    )
    assert bench.scores()["metric"] == "r2"


def test_globs_decide_on_which_taps_a_head_is_fitted(make_bench):
    bench = make_bench(
        heads={"centroid": {"taps": ["b.*"]}, "ridge": {"backbones": ["pix*"], "taps": ["pixels"]}},
        compare={"k_shot": ["all"]},
        baselines=(),
    )
    bench.train()
    arms = {arm for arm, _ in Predictions.read(bench.paths.predictions).arms()}
    assert arms == {"centroid@net/b.gap", "ridge@pixels/pixels.flatten"}


def test_no_head_left_after_globs_is_an_error_that_shows_them(make_bench):
    bench = make_bench(heads={"centroid": {"taps": ["layer9*"]}})
    with pytest.raises(
        ConfigError, match=r"'colour'.*globs backbones=\['\*'\] taps=\['layer9\*'\] match no tap"
    ):
        bench.train()


def test_an_unknown_backbone_of_a_task_names_the_nearest(bench):
    with pytest.raises(
        ConfigError, match=r"tasks\.colour\.backbones: none is named 'nett' \(did you mean 'net'\?\)"
    ):
        bench.train(task_backbones=["nett"])


def test_no_validation_sample_is_an_error(bench):
    bench.splits = ["train" if split == "val" else split for split in bench.splits]
    with pytest.raises(DataError, match="'colour': no labelled sample is in 'val'"):
        bench.train()


def test_a_class_without_training_samples_is_named(bench):
    bench.labels = [
        None if (label, split) == ("b", "train") else label
        for label, split in zip(bench.labels, bench.splits, strict=True)
    ]
    with pytest.raises(DataError, match="'colour': no training sample of class 'b'"):
        bench.train()


def test_one_class_is_an_error(make_bench):
    bench = make_bench(classes=("a", "b", "c"))
    bench.classes, bench.labels = ("a",), ["a"] * bench.num
    with pytest.raises(DataError, match=r"expected two classes or more, found 1 \(a\)"):
        bench.train()


def test_features_missing_for_every_sample_is_an_error(bench):
    bench.stores["blank"].absent = set(bench.keys)
    with pytest.raises(DataError, match=r"none of its 120 samples has features in every backbone.*'blank'"):
        bench.train()


def test_a_k_shot_that_a_class_cannot_give_is_left_out_and_said(make_bench):
    bench = make_bench(compare={"k_shot": [2, 50], "draws": 2})
    (note,) = bench.train().notes
    assert note.startswith(
        "left out: k_shot 50: expected 50 labelled train samples in each class, found too few:"
    )
    assert {k for _, k in Predictions.read(bench.paths.predictions).arms()} == {0, 2}
    assert bench.scores()["notes"] == [note]


def test_heads_of_compare_that_the_task_lacks_are_said(bench):
    (note,) = bench.train(task_heads=["ridge"]).notes
    assert note == (
        "compare.heads: centroid left out at each k_shot, as this task does not train it; there it trains ridge"
    )
    assert any(
        arm.startswith("ridge@") and k == 2 for arm, k in Predictions.read(bench.paths.predictions).arms()
    )


def test_fits_that_did_not_converge_are_said(make_bench):
    bench = make_bench(
        heads={"short": {"family": "sklearn:linear_model.LogisticRegression", "max_iter": 1}},
        compare={"k_shot": [2], "draws": 3},
        baselines=(),
    )
    bench.stores = {"net": bench.stores["net"]}
    bench.train()
    notes = {(row["arm"], row["k_shot"]): row["note"] for row in bench.scores()["arms"]}
    assert notes["short@net/b.gap", "all"] == "not converged"
    assert notes["short@net/b.gap", 2] == "not converged in 3 of 3 draws"


def test_unlabelled_validation_samples_are_predicted_and_not_scored(bench):
    bench.labels = [None if i == 2 else label for i, label in enumerate(bench.labels)]
    bench.train()
    assert "s002" in Predictions.read(bench.paths.predictions).scores("majority").sample_ids
    assert bench.scores()["num"]["missing"] == 1
    assert bench.scores()["num"]["val"] == 39


def test_shuffled_labels_are_shuffled_as_often_as_there_are_draws(bench):
    bench.train()
    scores = Predictions.read(bench.paths.predictions).scores("shuffled_labels").scores
    assert len(scores) == 3
    assert (scores[0] != scores[1]).any()


def test_a_validation_split_of_one_class_is_refused(bench):
    bench.labels = [
        "a" if split == "val" else label for label, split in zip(bench.labels, bench.splits, strict=True)
    ]
    with pytest.raises(DataError, match=r"every validation sample is of class 'a'.*raise `split.val`"):
        bench.train()


def test_a_validation_split_of_one_number_is_refused(make_bench):
    bench = make_bench(kind="number")
    bench.labels = [
        0.5 if split == "val" else label for label, split in zip(bench.labels, bench.splits, strict=True)
    ]
    with pytest.raises(DataError, match=r"every validation target is 0\.5; no head can be told from another"):
        bench.train()


def test_what_samples_count_reaches_every_head_that_takes_weights(make_bench, monkeypatch):
    bench = make_bench(
        heads={"ridge": {"alpha": 1.0}, "knn": {"k": 3}},
        compare={"k_shot": [2, "all"], "draws": 2, "heads": ["ridge"]},
        baselines=("majority",),
    )
    summary = bench.train()
    assert not [note for note in summary.notes if "weights" in note]
    plain = bench.outputs()
    bench.weights = [None if split != "train" else 1.0 + (i % 2) for i, split in enumerate(bench.splits)]
    given = []
    counted = registry.fit_grid

    def spied(family, candidates, X, y, **options):
        given.append((family, options["sample_weight"], len(y)))
        return counted(family, candidates, X, y, **options)

    monkeypatch.setattr(registry, "fit_grid", spied)
    summary = bench.train()
    assert summary.notes == ("take no sample weights, so all samples count alike in them: knn",)
    assert summary.num_recalled == 0, "weights are part of the key of a fit"
    for family, weight, num in given:
        assert (weight is None) == (family == "knn")
        assert weight is None or (len(weight) == num and set(weight) <= {1.0, 2.0})
    changed = bench.outputs()
    assert changed["p.parquet"] != plain["p.parquet"]


def test_a_sample_that_counts_nothing_is_one_without_a_label(make_bench):
    bench = make_bench(baselines=("majority", "shuffled_labels"))
    train = [i for i, split in enumerate(bench.splits) if split == "train"]
    bench.weights = [None if split != "train" else 1.0 for split in bench.splits]
    for i in train[::5]:
        bench.weights[i] = 0.0
    bench.train()
    weighed = bench.scores()["arms"]
    bench.weights = None
    bench.labels = [None if i in train[::5] else label for i, label in enumerate(bench.labels)]
    bench.train()
    for one, other in zip(weighed, bench.scores()["arms"], strict=True):
        assert one["arm"] == other["arm"]
        for mine, theirs in zip(one.get("candidates", ()), other.get("candidates", ()), strict=True):
            assert mine["val"] == pytest.approx(theirs["val"], abs=1e-6)
