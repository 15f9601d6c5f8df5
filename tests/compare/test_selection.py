"""Selection: jointly on validation, baselines apart, ties named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from embedpipe.errors import DataError
from embedpipe.evaluate.candidates import Candidates
from embedpipe.evaluate.predictions import ArmScores, Predictions
from embedpipe.select.selection import select

BASELINES = ["majority", "shuffled_labels", "random_weights", "pixels"]


def chosen_of(results, baselines=BASELINES, **more):
    return select({results.task: results.write()}, baselines=baselines, **more)["tasks"][results.task]


def test_the_best_arm_that_is_no_baseline_is_selected(results):
    chosen = chosen_of(results)
    assert chosen["best"]["arm"] == "ridge@net/b.gap"  # pixels reach more, and are a baseline
    assert chosen["num_arms"] == 3
    assert chosen["k_shot"] == {"5": "selected@net"}


def test_the_best_within_each_backbone_is_named_baselines_included(results):
    by_backbone = chosen_of(results)["by_backbone"]
    assert {name: entry["arm"] for name, entry in by_backbone.items()} == {
        "net": "ridge@net/b.gap",
        "blank": "ridge@blank/b.gap",
        "pixels": "ridge@pixels/p.gap",
    }
    assert by_backbone["blank"]["role"] == "random"


def test_a_role_that_is_not_named_as_a_baseline_competes(results):
    assert chosen_of(results, ["majority", "shuffled_labels"])["best"]["arm"] == "ridge@pixels/p.gap"


def test_arms_that_validation_cannot_tell_from_the_best_are_ties(results):
    chosen = chosen_of(results)
    (tie,) = chosen["ties"]  # 0.88 ties with 0.9 on 100 samples, 0.6 does not
    assert tie["arm"] == "knn@net/b.gap"
    assert tie["value"] < 0 <= tie["ci_high"]


def test_lower_is_better_for_metrics_of_error(numbers):
    files = numbers.write()
    about = json.loads(files.scores.read_text())
    files.scores.write_text(json.dumps({**about, "metric": "mae"}))
    chosen = select({"slant": files}, baselines=BASELINES)["tasks"]["slant"]
    assert chosen["best"]["arm"] == "ridge@net/b.gap"
    assert "ridge@net/a.gap" not in [tie["arm"] for tie in chosen["ties"]]


def test_when_every_backbone_is_a_baseline_the_best_is_selected_all_the_same(make_results):
    results = make_results().add("ridge@blank/a.gap", "random", 0.6).add("majority", "none", 0.3)
    chosen = chosen_of(results)
    assert chosen["best"]["arm"] == "ridge@blank/a.gap"
    assert "every backbone is a baseline: the best of them is selected" in chosen["notes"]


def test_an_arm_with_scores_that_are_not_finite_is_left_out_and_said(results):
    scores = np.full((1, 200, 3), np.nan, np.float32)
    results.add("mlp@net/b.gap", "transferred", scores=scores)
    chosen = chosen_of(results)
    assert chosen["best"]["arm"] == "ridge@net/b.gap"
    assert any(
        "1 arms have scores that are not finite" in note and "mlp@net" in note for note in chosen["notes"]
    )


def test_an_arm_without_predictions_is_left_out_and_said(results):
    results.arms = [arm for arm in results.arms if (arm.arm, arm.k_shot) != ("knn@net/b.gap", 0)]
    chosen = chosen_of(results)
    assert chosen["ties"] == []
    assert any("1 arms have no predictions" in note for note in chosen["notes"])


def test_a_selected_head_that_did_not_converge_is_said(results):
    results.rows[0]["note"] = "not converged"
    assert "the selected arm ridge@net/b.gap: not converged" in chosen_of(results)["notes"]


def test_the_figure_of_the_selected_arm_is_called_optimistic(results):
    assert any(
        "selected among 3 candidates on 100 validation samples" in note and "optimistic" in note
        for note in chosen_of(results)["notes"]
    )


def test_the_selection_is_written_the_same_every_time(results, tmp_path):
    for name in ("1.json", "2.json"):
        chosen_of(results, path=tmp_path / name)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_no_arm_with_finite_scores_is_an_error(make_results):
    scores = np.full((1, 200, 3), np.nan, np.float32)
    results = make_results().add("mlp@net/b.gap", "transferred", scores=scores)
    with pytest.raises(DataError, match="'colour': no arm has finite predictions"):
        chosen_of(results)


def test_targets_of_other_classes_than_the_predictions_are_an_error(results):
    files = results.write()
    results.arms = [
        ArmScores(one.arm, one.k_shot, one.sample_ids, one.splits, one.scores[..., :2])
        for one in results.arms
    ]
    Predictions.from_arms("colour", "classes", ("x", "y"), results.arms).write(files.predictions)
    with pytest.raises(
        DataError, match=r"expected scores of 3 classes.*found 2 classes.*run `embedpipe train colour`"
    ):
        select({"colour": files})


def test_optimism_is_what_the_choice_among_rivals_adds(make_results):
    results = make_results(num=400)
    rng = np.random.default_rng(0)
    for place in range(20):  # equally good, and wrong on different samples
        right = rng.random(400) < 0.8
        predicted = np.where(right, results.codes, (results.codes + 1) % 3)
        scores = (0.1 + 0.7 * np.eye(3)[predicted]).astype(np.float32)[None]
        results.add(f"ridge@net/t{place}.gap", "transferred", scores=scores)
    chosen = chosen_of(results)
    found = chosen["optimism"]
    assert found["num_arms"] == 20 and found["num_winners"] > 3
    assert found["naive"] == chosen["best"]["value"]
    assert found["bias"] == pytest.approx(found["naive"] - found["value"]) and found["bias"] > 0.02
    assert found["ci_low"] < 0.8 < found["ci_high"]
    assert len(chosen["ties"]) >= 15


def test_ties_come_with_both_tests_and_their_corrected_p_values(results):
    (tie,) = chosen_of(results)["ties"]
    assert tie["p"] <= tie["p_holm"] and tie["p_holm"] >= 0.05
    counts = tie["mcnemar"]
    val = results.splits == "val"
    lead, near = (results.scores_of(share).argmax(axis=1) == results.codes for share in (0.9, 0.88))
    assert (counts["better"], counts["worse"]) == ((near & ~lead)[val].sum(), (lead & ~near)[val].sum())


def test_optimism_counts_every_candidate_where_they_are_known(results, tmp_path):
    """Twenty coin tosses within one arm: its best looks good, and nothing else competes."""
    rng = np.random.default_rng(1)
    ids = results.ids[results.splits == "val"]
    tosses = rng.dirichlet(np.ones(3), (20, len(ids))).astype(np.float32)
    files = results.write()
    known = {
        row["arm"]: results.arms[place].scores[:, results.splits == "val"]
        for place, row in enumerate(results.rows)
        if row["k_shot"] == "all"
    }
    shown = {**known, "ridge@net/b.gap": np.concatenate([known["ridge@net/b.gap"], tosses])}
    Candidates(ids, shown).write(tmp_path / "c.safetensors")
    files = replace(files, candidates=tmp_path / "c.safetensors")
    chosen = select({"colour": files}, baselines=BASELINES)["tasks"]["colour"]
    assert chosen["optimism"]["num_candidates"] == 3 + 20
    assert not any("within each arm" in note for note in chosen["notes"])
    assert any("within each arm" in note for note in chosen_of(results)["notes"])


def test_candidates_of_other_samples_are_refused(results, tmp_path):
    files = replace(results.write(), candidates=tmp_path / "c.safetensors")
    scores = np.full((1, 1, 3), 1 / 3, np.float32)
    Candidates(np.array(["s999"]), {"ridge@net/b.gap": scores}).write(files.candidates)
    with pytest.raises(DataError, match="candidates say nothing of 100 samples that are judged"):
        select({"colour": files}, baselines=BASELINES)
    files.candidates.write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"expected scores of candidates.*run `embedpipe train`"):
        select({"colour": files}, baselines=BASELINES)


def test_where_folds_chose_validation_does_not(results):
    """Validation would take ridge: knn was better on the folds, and its figure needs no correction."""
    files = results.write()
    about = json.loads(files.scores.read_text())
    for row in about["arms"]:
        row["inner"] = {about["metric"]: 0.8 if row["arm"].startswith("knn") else 0.7, "nll": 1.0}
    files.scores.write_text(json.dumps({**about, "on": "folds"}))
    chosen = select({results.task: files}, baselines=BASELINES)["tasks"][results.task]
    assert chosen["best"]["arm"] == "knn@net/b.gap"
    assert chosen["best"]["value"] == pytest.approx(0.88, abs=0.05)  # of validation all the same
    assert chosen["optimism"]["value"] is None and chosen["optimism"]["bias"] is None
    assert any(
        "on folds of the training samples: validation took no part" in note for note in chosen["notes"]
    )
