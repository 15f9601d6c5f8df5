"""What training says beside its scores: screens of every tap, and what each arm cost."""

import json
import shutil

import numpy as np
import pytest

from embedpipe.evaluate.candidates import Candidates
from embedpipe.evaluate.cost import frontier
from embedpipe.evaluate.metrics import point_metrics
from embedpipe.heads.registry import load_head
from embedpipe.manifest.targets import Targets
from embedpipe.train import task as task_module
from embedpipe.train.cost import num_parameters
from embedpipe.train.screening import screen_task


def costs(bench):
    return json.loads(bench.paths.cost.read_text())["arms"]


def test_every_tap_is_screened_by_its_training_samples(bench):
    bench.train()
    rows = bench.scores()["screen"]
    assert {(row["backbone"], row["tap"]) for row in rows} == {
        ("net", "a.gap"),
        ("net", "b.gap"),
        ("blank", "a.gap"),
        ("pixels", "pixels.flatten"),
    }
    assert {row["num_rows"] for row in rows} == {bench.splits.count("train")}
    by_tap = {(row["backbone"], row["tap"]): row for row in rows}
    for name in ("knn", "ridge", "logme"):  # less noise ranks higher
        assert by_tap["net", "b.gap"][name] > by_tap["blank", "a.gap"][name]


def test_screens_see_no_label_but_those_of_training_samples(bench):
    bench.train()
    expected = bench.scores()["screen"]
    other = {"a": "b", "b": "c", "c": "a"}
    bench.labels = [
        one if split == "train" else other[one] for one, split in zip(bench.labels, bench.splits, strict=True)
    ]
    bench.train()
    assert bench.scores()["screen"] == expected


def test_ranking_before_training_says_what_training_says(bench, monkeypatch):
    from embedpipe.train import screening

    monkeypatch.setattr(screening, "open_features", lambda path: bench.stores[path.name])
    bench.write_targets()
    found = screen_task(
        features={name: bench.root / name for name in bench.stores},
        manifest=bench.manifest,
        targets_path=bench.root / "open.parquet",
        memo_dir=bench.paths.memo_dir,
        by="balanced_accuracy",
        seed=0,
    )
    assert not bench.fits  # no head was trained
    bench.train()
    assert found == bench.scores()["screen"]


def test_training_handed_poisoned_test_targets_gives_the_same_bytes(bench):
    """They stand in the very file that training reads, and lie."""
    bench.train()
    expected = bench.outputs()
    other = {"a": "b", "b": "c", "c": "a"}
    poisoned = [
        other[one] if split == "test" else one for one, split in zip(bench.labels, bench.splits, strict=True)
    ]
    whole = Targets.from_rows(
        "colour", "classes", bench.classes, sample_ids=bench.ids, splits=bench.splits, labels=poisoned
    )
    bench.write_targets = lambda: whole.write(bench.root / "open.parquet")
    shutil.rmtree(bench.paths.memo_dir)
    bench.train()
    found = bench.outputs()
    assert {k: v for k, v in found.items() if k != "open.parquet"} == {
        k: v for k, v in expected.items() if k != "open.parquet"
    }


def test_each_arm_says_what_it_cost(bench):
    bench.train()
    rows = {(row["arm"], row["k_shot"]): row for row in costs(bench)}
    assert len(rows) == 12  # 8 at all labels, 4 at two a class
    ridge = rows["ridge@net/b.gap", "all"]
    assert ridge["seconds"] > 0
    assert ridge["nbytes"] == 120 * 6 * 2  # every sample of the task, six float16 a row
    head = load_head(bench.root / "heads" / "ridge@net" / "b.gap")
    assert ridge["num_parameters"] == sum(one.size for one in head.state().tensors.values())
    assert rows["centroid@net/b.gap", 2]["num_parameters"] is None


def test_what_is_recalled_keeps_the_seconds_that_it_took(bench):
    bench.train()
    first = bench.paths.cost.read_bytes()
    bench.train()
    assert bench.paths.cost.read_bytes() == first


def test_a_head_without_tensors_has_no_number_of_parameters(tmp_path):
    assert num_parameters(tmp_path) is None


def test_the_frontier_holds_what_nothing_cheaper_beats():
    points = {"a": (1.0, 0.5), "b": (2.0, 0.4), "c": (2.0, 0.7), "d": (3.0, 0.7), "e": (4.0, 0.9)}
    assert frontier(points) == ["a", "c", "e"]
    random = {i: tuple(row) for i, row in enumerate(np.random.default_rng(0).random((50, 2)))}
    brute = {
        i
        for i, (cost, score) in random.items()
        if not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in random.values())
    }
    assert set(frontier(random)) == brute
    assert frontier({}) == []


@pytest.mark.parametrize("kind", ["classes", "number"])
def test_both_kinds_of_targets_are_screened(make_bench, kind):
    bench = make_bench(kind=kind, baselines=())
    bench.train()
    assert {row["metric"] for row in bench.scores()["screen"]} == {
        "balanced_accuracy" if kind == "classes" else "r2"
    }


@pytest.mark.parametrize("by", ["auroc", "brier"])
def test_heads_can_be_selected_by_what_needs_probabilities(bench, by):
    bench.select = {"by": by}
    bench.baselines = ()
    bench.train()
    sign = 1 if by == "auroc" else -1
    for row in bench.scores()["arms"]:
        if row["k_shot"] == "all":
            best = max(row["candidates"], key=lambda one: sign * one["val"][by])
            assert row["params"] == best["params"]
    assert {row["metric"] for row in bench.scores()["screen"]} == {"balanced_accuracy"}


def test_every_candidate_says_what_it_said_when_it_was_scored(bench):
    bench.train()
    shown = Candidates.read(bench.paths.candidates)
    codes = np.array([bench.classes.index(bench.labels[bench.ids.index(one)]) for one in shown.sample_ids])
    rows = [row for row in bench.scores()["arms"] if row["k_shot"] == "all" and row["role"] != "none"]
    assert set(shown.scores) == {row["arm"] for row in rows}
    for row in rows:
        for candidate, scores in zip(row["candidates"], shown.scores[row["arm"]], strict=True):
            assert point_metrics("classes", codes, scores) == pytest.approx(candidate["val"])


def test_too_many_candidates_are_not_kept(bench, monkeypatch):
    monkeypatch.setattr(task_module, "MOST_NBYTES", 100)
    bench.train()
    assert Candidates.read(bench.paths.candidates).scores == {}
