"""Comparison: leaderboard, headline, curves, plots, the table in the terminal."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from embedpipe.compare.comparison import compare
from embedpipe.compare.plots import write_plots
from embedpipe.compare.table import render
from embedpipe.errors import DataError
from embedpipe.select.selection import select

BASELINES = ["majority", "shuffled_labels", "random_weights", "pixels"]


def compared(*many, **more):
    files = {one.task: one.write() for one in many}
    selection = select(files, baselines=BASELINES)
    return compare(files, selection, baselines=BASELINES, **more)


def test_rows_are_sorted_by_task_then_labels_then_quality(results, numbers):
    rows = compared(results, numbers).leaderboard
    assert [row["task"] for row in rows] == ["colour"] * 12 + ["slant"] * 7
    colour = rows[:12]
    assert [row["k_shot"] for row in colour] == ["all"] * 7 + [5] * 5
    values = [row["val"]["balanced_accuracy"]["value"] for row in colour[:7]]
    assert values == sorted(values, reverse=True)
    assert colour[7]["arm"] == "selected@net"  # equal to the arm it always chose, and stands first


def test_a_row_has_every_metric_with_its_interval_and_no_test(results):
    row = next(row for row in compared(results).leaderboard if row["selected"])
    assert set(row["val"]) == {"accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "brier", "ece"}
    right = results.scores_of(0.9).argmax(axis=1)[results.splits == "val"]
    expected = (right == results.codes[results.splits == "val"]).mean()
    one = row["val"]["accuracy"]
    assert one["value"] == pytest.approx(expected)
    assert one["ci_low"] < expected < one["ci_high"]
    assert row["test"] is None


def test_selected_arms_and_baselines_are_marked(results):
    rows = compared(results).leaderboard
    assert {(row["arm"], row["k_shot"]) for row in rows if row["selected"]} == {
        ("ridge@net/b.gap", "all"),
        ("selected@net", 5),
    }
    assert {row["arm"] for row in rows if row["baseline"]} == {
        "majority",
        "shuffled_labels",
        "ridge@blank/b.gap",
        "ridge@pixels/p.gap",
        "selected@blank",
        "selected@pixels",
    }


def test_the_headline_says_how_far_transfer_is_ahead(results):
    head = compared(results).comparison["headline"]
    named = {one["name"]: one for one in head["differences"]}
    arms = {one["role"]: one["value"] for one in head["arms"]}
    assert named["transferred - random"]["value"] == pytest.approx(arms["transferred"] - arms["random"])
    assert named["transferred - pixels"]["value"] == pytest.approx(arms["transferred"] - arms["pixels"])
    assert named["transferred - pixels"]["ci_low"] > 0
    assert (head["task"], head["k_shot"], head["draws"], head["num_samples"], head["num_classes"]) == (
        "colour",
        5,
        3,
        100,
        3,
    )
    gain, low, high = (
        f"{100 * named['transferred - random'][n]:.1f}" for n in ("value", "ci_low", "ci_high")
    )
    assert head["sentence"].startswith(
        f"With 5 labels a class on `colour`, transferred features (net) reach {100 * arms['transferred']:.1f} %: "
        f"{gain} points [{low}, {high}] ahead of random weights and "
    )
    assert head["sentence"].endswith(
        "ahead of pixels (balanced accuracy, validation, 3 draws; 95 % bootstrap over samples and draws)."
    )


def test_a_loss_is_called_behind(results):
    for arm, k_shot, share in (("selected@pixels", 5, 0.95),):
        place = next(i for i, one in enumerate(results.arms) if (one.arm, one.k_shot) == (arm, k_shot))
        results.arms[place].scores[:] = results.scores_of(share)
    assert "behind pixels" in compared(results).comparison["headline"]["sentence"]


def test_without_k_shot_the_headline_speaks_of_all_labels(results):
    results.arms = [one for one in results.arms if one.k_shot == 0]
    results.rows = [row for row in results.rows if row["k_shot"] == "all"]
    sentence = compared(results).comparison["headline"]["sentence"]
    assert sentence.startswith("With all labels on `colour`, transferred features (net) reach")
    assert sentence.endswith("(balanced accuracy, validation, 95 % bootstrap over samples).")


def test_without_baseline_backbones_the_headline_says_what_is_lacking(make_results):
    results = make_results().add("ridge@net/a.gap", "transferred", 0.8)
    head = compared(results).comparison["headline"]
    assert "there is no baseline backbone (random weights or pixels) to compare with" in head["sentence"]
    assert head["differences"] == []


def test_without_learnt_weights_the_headline_says_what_is_lacking(make_results):
    results = make_results().add("ridge@blank/a.gap", "random", 0.8)
    sentence = compared(results).comparison["headline"]["sentence"]
    assert "random weights (blank) reach" in sentence
    assert "; no backbone has learnt weights, so nothing is transferred (" in sentence


def test_where_all_arms_are_baselines_the_headline_speaks_of_each(make_results):
    results = make_results().add("ridge@blank/a.gap", "random", 0.8).add("ridge@raw/a.gap", "pixels", 0.6)
    found = compared(results)
    sentence = found.comparison["headline"]["sentence"]
    assert re.search(
        r"random weights \(blank\) reach [\d.]+ % \[.*\] and pixels \(raw\) [\d.]+ % \[.*\];", sentence
    )
    assert any(
        "every backbone is a baseline" in note for note in found.comparison["tasks"]["colour"]["notes"]
    )


def test_without_a_task_of_classes_the_headline_speaks_of_numbers(numbers):
    sentence = compared(numbers).comparison["headline"]["sentence"]
    assert sentence.startswith("With all labels on `slant`, transferred features (net) reach R² 0.")


def test_confusion_counts_every_validation_sample_once(results):
    table = compared(results).comparison["tasks"]["colour"]["confusion"]
    counts = np.array(table["counts"])
    val = results.splits == "val"
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(results.codes[val], minlength=3))
    right = (results.scores_of(0.9).argmax(axis=1) == results.codes)[val].sum()
    assert np.trace(counts) == right


def test_paired_differences_are_to_the_selected_arm(results):
    paired = compared(results).comparison["tasks"]["colour"]["paired"]
    assert "ridge@net/b.gap" not in [one["arm"] for one in paired]
    assert [one["value"] for one in paired] == sorted((one["value"] for one in paired), reverse=True)


def test_the_learning_curve_follows_the_arm_selected_within_each_backbone(results):
    points = compared(results).comparison["tasks"]["colour"]["learning_curves"]
    assert {(one["backbone"], one["k_shot"], one["num_labels"]) for one in points} == {
        (backbone, k_shot, num)
        for backbone in ("net", "blank", "pixels")
        for k_shot, num in ((5, 15), ("all", 60))
    }


def test_the_layer_curve_takes_the_head_that_the_draws_own_labels_prefer(results):
    # knn is worse on inner folds; make it better on validation, where nothing may look
    place = next(i for i, one in enumerate(results.arms) if (one.arm, one.k_shot) == ("knn@net/b.gap", 5))
    results.arms[place].scores[:] = results.scores_of(1.0)
    points = compared(results).comparison["tasks"]["colour"]["layer_curves"]
    heads = {(one["backbone"], one["tap"], one["k_shot"]): one["head"] for one in points}
    assert heads["net", "b.gap", 5] == "ridge"


def test_files_are_the_same_every_time_and_plots_are_flat(results, numbers, tmp_path):
    found = compared(results, numbers)
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        found.write(
            leaderboard=folder / "leaderboard.json",
            metrics=folder / "metrics.json",
            comparison=folder / "comparison.json",
            plots_dir=folder / "plots",
        )
        contents.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
        found = compared(results, numbers)
    assert contents[0] == contents[1]
    with (tmp_path / "one/plots/confusion/colour.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    assert set(rows[0]) == {"task", "actual", "predicted"}
    with (tmp_path / "one/plots/learning_curve.csv").open() as file:
        assert {row["task"] for row in csv.DictReader(file)} == {"colour", "slant"}


def test_the_confusion_of_a_task_that_is_gone_is_gone_too(results, tmp_path):
    stale = tmp_path / "one/plots/confusion/former.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("task,actual,predicted\n")
    write_plots(tmp_path / "one/plots", compared(results).comparison)
    assert [path.name for path in stale.parent.iterdir()] == ["colour.csv"]


def test_metrics_hold_nested_dicts_and_numbers_alone(results):
    def leaves(value):
        return (
            [leaf for one in value.values() for leaf in leaves(one)] if isinstance(value, dict) else [value]
        )

    metrics = compared(results).metrics
    assert all(isinstance(leaf, float) for leaf in leaves(metrics))
    assert set(metrics["headline"]) == {"transferred_minus_random", "transferred_minus_pixels"}
    assert set(metrics["colour"]["selected"]) == {"all", "5_shot"}
    assert "pixels" in metrics["colour"]


def test_a_selection_of_other_predictions_is_refused(results):
    files = {"colour": results.write()}
    selection = select(files, baselines=BASELINES)
    results.arms[0].scores[:] = results.scores_of(0.2)
    results.write()
    with pytest.raises(DataError, match=r"the selection is not of these predictions.*run `embedpipe select`"):
        compare(files, selection)


def test_groups_are_resampled_whole(make_results):
    """Groups that are right or wrong as one carry less information than their samples would alone."""

    def width(grouped):
        results = make_results().add("ridge@net/b.gap", "transferred", 0.8)
        if grouped:
            results.groups = [f"g{place // 20}" for place in results.order]
        one = compared(results).leaderboard[0]["val"]["accuracy"]
        return one["ci_high"] - one["ci_low"]

    assert width(grouped=True) > 1.5 * width(grouped=False)


def test_the_table_shows_headline_selected_arms_and_baselines(results):
    found = compared(results)
    lines = render(found.leaderboard, found.comparison, width=400).splitlines()
    assert lines[0] == found.comparison["headline"]["sentence"]
    ends = {word: line.split()[-1] for line in lines for word in line.split() if "@" in word}
    assert ends["ridge@net/b.gap"] == "selected"
    (few,) = [line for line in lines if "selected@net" in line]
    assert few.endswith("selected, backbone chosen with all labels")
    assert ends["ridge@pixels/p.gap"] == ends["selected@pixels"] == "baseline"
    assert lines[-1] == "The test is sealed: `embedpipe test` opens it."


def test_figures_are_json_without_nan(results):
    results.add("mlp@net/b.gap", "transferred", scores=np.full((1, 200, 3), np.nan, np.float32))
    found = compared(results)
    row = next(row for row in found.leaderboard if row["arm"] == "mlp@net/b.gap")
    assert row["val"]["accuracy"] == {"value": None, "ci_low": None, "ci_high": None}
    assert row["note"] == "scores are not finite"
    json.dumps([found.leaderboard, found.comparison, found.metrics], allow_nan=False)


def test_costs_stand_beside_scores_in_a_file_of_their_own(results, tmp_path):
    files = replace(results.write(), cost=tmp_path / "cost.json")
    seconds = {"ridge@net/b.gap": 2.0, "knn@net/b.gap": 1.0, "ridge@net/a.gap": 3.0}
    rows = [
        {"arm": arm, "k_shot": k, "seconds": s, "nbytes": 10, "num_parameters": None}
        for arm, s in seconds.items()
        for k in ("all", 5)
    ]
    files.cost.write_text(json.dumps({"task": "colour", "arms": rows}))
    selection = select({"colour": files}, baselines=BASELINES)
    found = compare({"colour": files}, selection, baselines=BASELINES)
    assert [(row["arm"], row["frontier"]) for row in found.costs] == [
        ("knn@net/b.gap", 1),
        ("ridge@net/b.gap", 1),
        ("ridge@net/a.gap", 0),  # dearer and worse
    ]
    assert "seconds" not in json.dumps([found.leaderboard, found.metrics, found.comparison])


def test_a_screen_is_shown_beside_what_trained_heads_got(results):
    files = results.write()
    taps = {"net/b.gap": 0.9, "net/a.gap": 0.7, "blank/b.gap": 0.8, "pixels/p.gap": 0.6}
    rows = [
        {"backbone": b, "role": "pixels", "tap": t, "depth": 0.5, "knn": v, "ridge": v, "logme": v}
        for place, v in taps.items()
        for b, t in [place.split("/")]
    ]
    about = json.loads(files.scores.read_text())
    about["screen"] = [{**row, "metric": "balanced_accuracy", "num_rows": 60} for row in rows]
    files.scores.write_text(json.dumps(about))
    selection = select({"colour": files}, baselines=BASELINES)
    found = compare({"colour": files}, selection).comparison["tasks"]["colour"]["screen"]
    board = compare({"colour": files}, selection).leaderboard
    val = {row["arm"]: row["val"]["balanced_accuracy"]["value"] for row in board if row["k_shot"] == "all"}
    assert found["num_taps"] == 4
    shown = {f"{row['backbone']}/{row['tap']}": (row["trained"], row["head"]) for row in found["taps"]}
    assert shown["net/b.gap"] == (val["ridge@net/b.gap"], "ridge")
    knn = found["screens"]["knn"]
    assert knn["first"] == {"backbone": "net", "tap": "b.gap"}
    assert knn["regret"] == pytest.approx(val["ridge@pixels/p.gap"] - val["ridge@net/b.gap"])
    assert compared(results).comparison["tasks"]["colour"]["screen"] is None  # where nothing was screened


def test_the_table_says_what_the_choice_adds_and_how_screens_agreed(results):
    found = compared(results)
    about = found.comparison["tasks"]["colour"]
    about["screen"] = {"screens": {"knn": {"kendall": 0.5}, "logme": {"kendall": None}}}
    text = render(found.leaderboard, found.comparison)
    corrected = f"{100 * about['optimism']['value']:.1f}"
    assert f"{corrected} without what choosing among 3 candidates adds" in text
    assert "Kendall's tau: knn 0.50" in text
