"""Labels, boxes and masks through the whole pipeline: from tables and files to the sealed test and the page."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw

from embedpipe.cli.app import run
from embedpipe.evaluate.predictions import Predictions
from embedpipe.manifest.targets import Targets

NUM = 60
STEPS = ("ingest", "extract", "train", "select", "compare", "report")
METRICS = {
    "tags": ["map", "macro_f1", "micro_f1", "auroc", "nll"],
    "marks": ["map", "macro_f1", "micro_f1", "auroc", "nll"],
    "box": ["r2", "mae", "mean_iou"],
    "parts": ["mean_iou", "accuracy", "macro_f1"],
}


def make(root):
    """A bright box on a dark ground: red or not, wide or not, where it is, and which pixels it has."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    rows = []
    for i in range(NUM):
        x, y, w, h = (int(v) for v in rng.integers((2, 2, 8, 8), (12, 12, 18, 18)))
        red = bool(rng.integers(2))
        image = Image.fromarray(rng.integers(0, 40, (32, 32, 3), np.uint8))
        place = (x, y, x + w, y + h)
        ImageDraw.Draw(image).rectangle(place, fill=(220, 60, 60) if red else (60, 200, 60))
        image.save(root / f"images/{i:02d}.png")
        mask = Image.new("L", (32, 32), 0)
        ImageDraw.Draw(mask).rectangle(place, fill=100)
        ImageDraw.Draw(mask).line((0, 0, 31, 0), fill=255)
        if i != 7:
            mask.save(root / f"masks/{i:02d}.png")
        tags = [name for name, has in (("red", red), ("wide", w > h), ("left", x < 7)) if has]
        rows.append(
            {
                "image": f"images/{i:02d}.png",
                "tags": "" if i == 3 else ";".join(tags) or ";",
                "red": "" if i % 9 == 4 else int(red),
                "low": int(y > 6),
                **dict(zip(("x", "y", "w", "h"), (x, y, w, h if i != 5 else ""), strict=True)),
            }
        )
    with (root / "samples.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    params = {
        "seed": 0,
        "datasets": {
            "shapes": {
                "source": {"kind": "table", "path": "samples.csv", "image": "image"},
                "split": {"val": 0.3, "test": 0.2},
            }
        },
        "tasks": {
            "tags": {"on": "shapes", "labels": "tags", "kind": "multilabel", "separator": ";"},
            "marks": {
                "on": "shapes",
                "labels": ["red", "low"],
                "kind": "multilabel",
                "heads": ["ridge", "knn"],
            },
            "box": {"on": "shapes", "labels": ["x", "y", "w", "h"], "kind": "number", "box": "xywh"},
            "parts": {
                "on": "shapes",
                "labels": "./masks",
                "kind": "dense",
                "classes": {"ground": 0, "box": 100},
                "grid": 8,
            },
        },
        "source": {},
        "backbones": {
            "net": {
                "model": "glyphnet",
                "weights": "random:0",
                "width": 8,
                "image_px": 32,
                "taps": {"block1": ["grid:8"], "block2": ["none", "gap"]},
            },
            "pixels": {"model": "pixels", "image_px": 8, "taps": {"pixels": ["none"]}},
        },
        "extract": {"batch": 16, "precision": "float32", "device": "cpu"},
        "heads": {
            "ridge": {"alpha": [10.0]},
            "logistic": {"C": [0.1]},
            "knn": {"k": [5]},
            "conv": {"epochs": [40], "lr": [0.02], "hidden": [8]},
        },
        "transfer": {},
        "baselines": ["majority", "shuffled_labels", "pixels"],
        "select": {"on": "val", "by": "balanced_accuracy"},
        "compare": {"k_shot": [3, "all"], "draws": 2},
        "report": {},
    }
    (root / "params.yaml").write_text(json.dumps(params, indent=1))
    (root / "test_log.jsonl").touch()
    return root


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """The project after every step. Read it; do not change it."""
    root = make(tmp_path_factory.mktemp("kinds"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for step in STEPS:
            assert run([step]) == 0, step
    return root


def rows_of(root, task):
    board = json.loads((root / "data/leaderboard.json").read_text())
    return [row for row in board if row["task"] == task]


def test_selection_calls_metrics_by_the_names_that_people_know(kinds, cli):
    code, _, err = cli(kinds, "select")
    said = " ".join(err.split())
    assert code == 0 and "; mAP " in said and "; mean IoU " in said and "map " not in said


@pytest.mark.parametrize("task", METRICS)
def test_every_kind_is_trained_selected_and_compared_by_its_own_metrics(kinds, task):
    rows = rows_of(kinds, task)
    assert [list(row["val"]) for row in rows] == [METRICS[task]] * len(rows)
    chosen = json.loads((kinds / "data/selection.json").read_text())["tasks"][task]
    assert chosen["metric"] == METRICS[task][0]
    (selected,) = [row for row in rows if row["selected"]]
    figure = selected["val"][chosen["metric"]]
    assert figure["ci_low"] <= figure["value"] <= figure["ci_high"]
    (majority,) = [row for row in rows if row["arm"] == "majority"]
    assert figure["value"] > majority["val"][chosen["metric"]]["value"]


def test_heads_of_a_kind_are_those_that_can_learn_it(kinds):
    families = {
        task: {row["head"] for row in rows_of(kinds, task) if row["role"] != "none"} for task in METRICS
    }
    assert families == {
        "tags": {"ridge", "logistic", "knn", "conv"},
        "marks": {"ridge", "knn"},
        "box": {"ridge", "knn", "conv"},
        "parts": {"conv"},
    }


def test_missing_labels_are_counted_and_what_is_partly_known_is_used(kinds):
    num = {task: json.loads((kinds / f"data/scores/{task}.json").read_text())["num"] for task in METRICS}
    sealed = {task: Targets.read(kinds / f"data/sealed/{task}.parquet").table["label"] for task in METRICS}
    missing = {task: num[task]["missing"] + sealed[task].null_count for task in METRICS}
    assert missing == {"tags": 1, "marks": 0, "box": 1, "parts": 1}
    known = Targets.read(kinds / "data/targets/marks.parquet").truth()
    assert np.isnan(known[:, 0]).any() and not np.isnan(known[:, 1]).any()


def test_every_output_that_dvc_expects_is_there_without_a_task_of_classes(kinds):
    assert list((kinds / "data/plots/confusion").iterdir()) == []
    assert (kinds / "data/plots/confusion.csv").read_text() == "task,actual,predicted\n"


def test_k_shot_is_left_to_classes_and_a_note_says_so(kinds):
    comparison = json.loads((kinds / "data/comparison.json").read_text())
    for task in METRICS:
        assert {row["k_shot"] for row in rows_of(kinds, task)} == {"all"}
        assert any("k_shot counts labels a class" in note for note in comparison["tasks"][task]["notes"])


def test_predictions_of_places_are_codes_on_the_judged_grid_and_hold_no_targets(kinds):
    predictions = Predictions.read(kinds / "data/predictions/parts.parquet")
    assert predictions.spec.grid == 8 and predictions.spec.seen == 1.0
    scores = predictions.scores("conv@net/block2.none").scores
    assert scores.shape[2] == 64 and set(np.unique(scores)) <= {0.0, 1.0}
    assert predictions.table.column_names == ["task", "arm", "k_shot", "draw", "sample_id", "split", "scores"]


def test_a_head_on_a_grid_that_is_judged_finds_the_box(kinds):
    (row,) = [row for row in rows_of(kinds, "parts") if row["arm"] == "conv@pixels/pixels.none"]
    assert row["val"]["mean_iou"]["value"] > 0.6


def test_the_page_and_the_comparison_have_a_table_of_each_label_number_and_class(kinds):
    comparison = json.loads((kinds / "data/comparison.json").read_text())["tasks"]
    names = {
        task: [row.get("class") or row["output"] for row in comparison[task]["per_class"]] for task in METRICS
    }
    assert names == {
        "tags": ["left", "red", "wide"],
        "marks": ["red", "low"],
        "box": ["x", "y", "w", "h"],
        "parts": ["ground", "box"],
    }
    page = (kinds / "data/report/index.html").read_text()
    for words in (
        "validation samples · 3 labels",
        "4 numbers",
        "2 classes at each place",
        "average precision",
        "IoU",
        "mAP",
    ):
        assert words in page, words


def test_training_gives_the_same_bytes_whatever_the_test_targets_of_any_kind_say(kinds, tmp_path, cli):
    root = shutil.copytree(kinds, tmp_path / "project")
    files = [
        root / f"data/{name}"
        for task in METRICS
        for name in (f"predictions/{task}.parquet", f"scores/{task}.json")
    ]
    before = [path.read_bytes() for path in files]
    for task in METRICS:
        (root / f"data/sealed/{task}.parquet").write_bytes(b"poison")
    shutil.rmtree(root / ".embedpipe/heads")
    for step in ("train", "select", "compare"):
        assert cli(root, step)[0] == 0
    assert [path.read_bytes() for path in files] == before


def test_the_test_of_every_kind_is_opened_once_and_shown(kinds, tmp_path, cli):
    root = shutil.copytree(kinds, tmp_path / "project")
    code, out, _ = cli(root, "test")
    records = [json.loads(line) for line in (root / "test_log.jsonl").read_text().splitlines()]
    assert code == 0 and {one["task"]: list(one["test"]) for one in records} == METRICS
    assert all(METRICS[task][0] in out for task in METRICS)
    assert cli(root, "compare")[0] == 0
    for one in records:
        assert [row["arm"] for row in rows_of(root, one["task"]) if row["test"]] == [one["arm"]]


def test_making_targets_again_writes_the_same_bytes_and_opens_no_mask(kinds, tmp_path, cli, monkeypatch):
    root = shutil.copytree(kinds, tmp_path / "project")
    paths = sorted((root / "data").glob("*/*.parquet"))
    before = [path.read_bytes() for path in paths]
    assert cli(root, "ingest")[0] == 0  # whose masks are those of another root
    monkeypatch.setattr("embedpipe.ingest.mask_files.read_values", None)
    assert cli(root, "ingest")[0] == 0
    assert [path.read_bytes() for path in paths] == before


def test_taps_are_ranked_for_all_but_dense_tasks_which_are_refused_in_one_sentence(kinds, cli):
    code, out, err = cli(kinds, "rank", "--json")
    assert code == 0 and "parts: left out, since screens" in " ".join(err.split())
    ranked = [one["task"] for one in json.loads(out)]
    assert ranked and "parts" not in ranked
    code, _, err = cli(kinds, "rank", "parts")
    assert code == 2 and "found kind dense, whose places screens do not look at" in err


def test_new_inputs_are_told_their_labels_and_their_box(kinds, cli):
    code, out, _ = cli(kinds, "predict", "images/00.png", "--task", "tags", "--task", "box")
    (row,) = csv.DictReader(out.splitlines())
    assert code == 0 and {"tags", "p(tags=red)", "box.x", "box.w"} <= set(row)


def test_a_dense_task_is_left_out_of_all_and_refused_by_name(kinds, cli):
    code, out, err = cli(kinds, "predict", "images/00.png")
    why = "it answers for every place of an image, and a table of predictions has a row an image"
    assert code == 0 and f"parts: left out: {why}" in " ".join(err.split())
    (row,) = csv.DictReader(out.splitlines())
    assert {"tags", "box.x"} <= set(row) and not [name for name in row if "parts" in name]
    code, _, err = cli(kinds, "predict", "images/00.png", "--task", "parts", "--task", "tags")
    assert code == 2 and f"cannot be predicted: {why}; name other tasks" in " ".join(err.split())


def test_forgetting_a_sample_forgets_the_masks_that_were_read(kinds, tmp_path, cli):
    root = shutil.copytree(kinds, tmp_path / "project")
    assert list(root.glob(".embedpipe/ingest/shapes/masks-parts-*.parquet"))
    assert cli(root, "forget", "images/00.png", "--yes")[0] == 0
    assert not list(root.glob(".embedpipe/ingest/shapes/masks-*.parquet"))
