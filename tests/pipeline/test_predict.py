"""`embedpipe predict` against the predictions that training wrote, on known, new and unreadable inputs."""

import csv
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedpipe.evaluate.predictions import Predictions

ARM = "logistic@net/block3.gap"


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def scores_of(rows, task, classes):
    return np.array([[float(row[f"p({task}={name})"]) for name in classes] for row in rows])


def written(project, task, arm, sample_ids):
    predictions = Predictions.read(project / f"data/predictions/{task}.parquet")
    return predictions.scores(arm).at(sample_ids)[0], predictions.classes


def judged_ids(project, task="shape"):
    arm = Predictions.read(project / f"data/predictions/{task}.parquet").scores(ARM)
    return sorted(arm.sample_ids.tolist())


def test_known_inputs_get_the_predictions_of_training_without_a_forward_pass(finished, cli, passes):
    code, out, err = cli(finished, "predict", "images", "--arm", ARM)
    assert code == 0, err
    rows = {row["sample_id"]: row for row in rows_of(out)}
    ids = judged_ids(finished)
    assert len(rows) == 72 and set(ids) <= set(rows)
    for task in ("shape", "round"):
        wanted, classes = written(finished, task, ARM, ids)
        np.testing.assert_allclose(scores_of([rows[one] for one in ids], task, classes), wanted, atol=1e-6)
        best = [classes[place] for place in wanted.argmax(axis=1)]
        assert [rows[one][task] for one in ids] == best
    assert passes == []
    assert "72 inputs; net: 0 computed, 72 known" in err


def test_a_new_file_of_the_same_pixels_gets_the_same_answer(finished, cli, passes, tmp_path):
    ids = judged_ids(finished)[:5]
    for name in ids:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(finished / "images" / name).save((tmp_path / name).with_suffix(".bmp"))
    code, out, err = cli(finished, "predict", str(tmp_path), "--arm", ARM, "--task", "shape")
    assert code == 0, err
    rows = {row["sample_id"]: row for row in rows_of(out)}
    wanted, classes = written(finished, "shape", ARM, ids)
    found = scores_of([rows[name.replace(".png", ".bmp")] for name in ids], "shape", classes)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert sum(passes) == 16 and "round" not in out  # one padded batch


def test_selected_arms_answer_by_default_and_a_backbone_runs_once_for_all_tasks(
    finished, cli, passes, tmp_path
):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    out = tmp_path / "answers.parquet"
    code, said, err = cli(finished, "predict", str(tmp_path / "a.png"), "--out", str(out), "--json")
    assert code == 0, err
    summary = json.loads(said)
    selected = json.loads((finished / "data/selection.json").read_text())["tasks"]
    assert summary["arms"] == {task: selected[task]["best"]["arm"] for task in ("shape", "round")}
    assert set(summary["computed"].values()) == {1} and len(passes) == len(summary["computed"])
    table = pq.read_table(out)
    assert table["sample_id"].to_pylist() == ["a.png"] and table["error"].to_pylist() == [None]
    assert table.schema.field("p(shape=circle)").type == pa.float32()
    assert sum(
        table[f"p(shape={name})"][0].as_py() for name in ("circle", "square", "cross")
    ) == pytest.approx(1)


def test_what_cannot_be_read_is_a_row_with_an_error(finished, cli, tmp_path):
    whole = (finished / "images/cross/cross000.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "good.png").write_bytes(whole)
    (tmp_path / "again.png").write_bytes(whole)
    code, out, err = cli(finished, "predict", str(tmp_path), "--arm", ARM, "--task", "shape")
    assert code == 0, err
    rows = {row["sample_id"]: row for row in rows_of(out)}
    assert rows["cut.png"]["error"].startswith("truncated") and rows["cut.png"]["shape"] == ""
    assert rows["text.png"]["error"].startswith("not an image") and rows["text.png"]["p(shape=cross)"] == ""
    assert rows["good.png"]["error"] == "" and rows["good.png"]["shape"]
    assert {**rows["again.png"], "sample_id": ""} == {**rows["good.png"], "sample_id": ""}
    assert "4 inputs, 2 of them with an error" in err


def test_a_table_of_paths_is_answered_row_by_row(finished, cli, tmp_path):
    shutil.copy(finished / "images/cross/cross001.png", tmp_path / "one.png")
    (tmp_path / "list.csv").write_text("name,file\nfirst,one.png\nsecond,none.png\nthird,one.png\n")
    arguments = ("predict", str(tmp_path / "list.csv"), "--arm", ARM, "--id", "name", "--task", "shape")
    code, out, err = cli(finished, *arguments)
    assert code == 0, err
    rows = rows_of(out)
    assert [row["sample_id"] for row in rows] == ["first", "second", "third"]
    assert [row["error"] for row in rows] == ["", "no such file", ""]
    assert rows[0]["shape"] == rows[2]["shape"] != ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "expected a folder of images, an image or a table, found nothing there"),
        (["images", "--arm", "logistik@net/block3.gap"], "did you mean 'logistic@net/block3.gap'?"),
        (["images", "--arm", "shape:majority"], "no head or network of that arm is saved for shape"),
        (
            ["images", "--arm", ARM, "--arm", "ridge@net/block3.gap"],
            "expected one arm a task, found logistic@net",
        ),
        (["images", "--task", "shap"], "no task is named 'shap' (did you mean 'shape'?)"),
        (["images", "--out", "answers.xlsx"], "expected a file that ends in .csv or .parquet, found .xlsx"),
        (["images", "--json"], "expected --out beside it"),
        (["images", "--column", "file"], "--column and --id name columns of a table, and this is none"),
        (["round.csv", "--arm", ARM], "expected a column of images named image or path or file or filename"),
        (["round.csv", "--arm", ARM, "--column", "rund"], "no column 'rund' (did you mean 'round'?)"),
        (["params.yaml", "--arm", ARM], "found a file of another kind"),
        (["images", "--device", "gpu"], "expected auto, cpu or cuda, found 'gpu'"),
    ],
)
def test_a_mistake_is_one_sentence(finished, cli, arguments, words):
    code, out, err = cli(finished, "predict", *arguments)
    assert code == 2 and out == ""
    assert words in err.replace("\n", " "), err


def test_heads_of_other_features_are_refused(finished, cli, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(finished, project)
    params = json.loads((project / "params.yaml").read_text())
    params["backbones"]["net"]["weights"] = "random:1"
    (project / "params.yaml").write_text(json.dumps(params))
    code, _, err = cli(project, "predict", "images", "--arm", ARM)
    assert code == 2
    assert "backbones.net: expected weights_digest" in err and "run `dvc repro`" in err
