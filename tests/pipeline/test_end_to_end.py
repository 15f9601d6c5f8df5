"""The whole pipeline on a small project: what is written, what is read, what reruns."""

import json
import shutil

import numpy as np
import projects
import pytest
import zarr

from embedpipe.manifest.files import read_parquet

METRICS = {"accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "brier", "ece"}


@pytest.fixture
def project(finished, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(finished, tmp_path / "project")


def leaderboard(root):
    return json.loads((root / "data/leaderboard.json").read_text())


def test_every_row_of_the_leaderboard_has_the_promised_shape(finished):
    rows = leaderboard(finished)
    assert rows
    for row in rows:
        assert {
            "task",
            "arm",
            "backbone",
            "tap",
            "head",
            "k_shot",
            "draws",
            "selected",
            "val",
            "test",
        } <= set(row)
        assert set(row["val"]) == METRICS
        for figure in row["val"].values():
            assert figure["ci_low"] <= figure["value"] <= figure["ci_high"]
        assert row["test"] is None
        assert row["draws"] == (1 if row["k_shot"] == "all" and row["arm"] != "shuffled_labels" else 3)


def test_one_arm_a_task_is_selected_at_all_labels_and_it_is_no_baseline(finished):
    for task in ("shape", "round"):
        selected = [
            r for r in leaderboard(finished) if r["task"] == task and r["selected"] and r["k_shot"] == "all"
        ]
        assert len(selected) == 1 and not selected[0]["baseline"]


def test_baselines_stand_beside_the_arms(finished):
    arms = {row["arm"] for row in leaderboard(finished) if row["baseline"]}
    assert {"majority", "shuffled_labels"} <= arms and any("pixels" in arm for arm in arms)


def test_the_published_store_is_plain_zarr_with_the_features_of_each_key(finished):
    group = zarr.open_group(finished / "data/features/net", mode="r")
    manifest = read_parquet(finished / "data/manifests/shapes/samples.parquet", "")
    keys = {bytes(key) for key in group["keys"][:]}
    assert keys == set(manifest["key"].to_pylist())
    assert group["block3.grid2"].shape[0] == len(keys)
    assert np.isfinite(group["block3.grid2"][:]).all() and group["block1.gap"].dtype == np.float16


def test_predictions_hold_no_targets(finished):
    table = read_parquet(finished / "data/predictions/shape.parquet", "")
    assert table.column_names == ["task", "arm", "k_shot", "draw", "sample_id", "split", "scores"]
    assert set(table["split"].to_pylist()) == {"val", "test"}


def test_metrics_are_nested_dicts_of_numbers_as_dvc_reads_them(finished):
    def leaves(value):
        return [leaf for v in value.values() for leaf in leaves(v)] if isinstance(value, dict) else [value]

    found = leaves(json.loads((finished / "data/metrics.json").read_text()))
    assert found and all(isinstance(leaf, (int, float)) for leaf in found)


def test_running_every_step_again_writes_the_same_bytes(project, cli):
    before = {p: p.read_bytes() for p in sorted((project / "data").rglob("*")) if p.is_file()}
    for step in ("ingest", "extract", "train", "select", "compare", "report"):
        assert cli(project, step)[0] == 0
    after = {p: p.read_bytes() for p in sorted((project / "data").rglob("*")) if p.is_file()}
    assert [str(p) for p in before if after.get(p) != before[p]] == []
    assert set(after) == set(before)


def test_a_second_extraction_embeds_nothing(project, cli):
    _, _, err = cli(project, "extract", "net")
    assert "net: 0 embedded, 72 already there" in err


def test_new_images_alone_are_embedded_and_a_copy_of_an_old_one_is_not(project, cli):
    projects.draw("circle", np.random.default_rng(99)).save(project / "images/circle/new.png")
    shutil.copy(project / "images/cross/cross000.png", project / "images/cross/copy.png")
    assert cli(project, "ingest")[0] == 0
    _, _, err = cli(project, "extract", "net")
    assert "net: 1 embedded, 72 already there" in err


def test_a_new_tap_embeds_that_tap_and_refits_no_head_of_another(project, cli):
    before = (project / "data/features/net/store.json").read_text()
    params = projects.small_params()
    params["backbones"]["net"]["taps"]["block2"] = ["gap"]
    projects.write_params(project, params)
    assert cli(project, "extract", "net")[0] == 0
    assert "block2.gap" in (project / "data/features/net/store.json").read_text()
    old, new = json.loads(before), json.loads((project / "data/features/net/store.json").read_text())
    files = lambda store: {k: v for k, v in store["files"].items() if k.startswith("block1.gap/c/")}  # noqa: E731
    assert files(old) == files(new) and files(old)
    _, _, err = cli(project, "train", "shape")
    # two heads on one tap, all labels and k = 3, and the shuffled baseline is kept
    assert "4 fits done now" in err


def test_changing_one_heads_grid_refits_that_head_alone(project, cli):
    params = projects.small_params()
    params["heads"]["ridge"]["alpha"] = [1.0, 10.0, 100.0]
    projects.write_params(project, params)
    _, _, err = cli(project, "train", "round")
    fitted = int(err.split(" fits done now")[0].split()[-1])
    # four taps at all labels, and once more where the shuffled baseline was ridge's
    assert 4 <= fitted <= 9


def test_a_changed_preprocessing_opens_a_group_beside_and_going_back_embeds_nothing(project, cli):
    params = projects.small_params()
    params["backbones"]["net"]["image_px"] = 24
    projects.write_params(project, params)
    _, _, err = cli(project, "extract", "net")
    assert "net: 72 embedded" in err and "expected architecture" in err and "a group of its own" in err
    projects.write_params(project, projects.small_params())
    _, _, err = cli(project, "extract", "net")
    assert "net: 0 embedded, 72 already there" in err


def test_editing_one_tasks_labels_changes_that_tasks_targets_alone(project, cli):
    before = {t: (project / f"data/targets/{t}.parquet").read_bytes() for t in ("shape", "round")}
    labels = project / "round.csv"
    train = read_parquet(project / "data/targets/round.parquet", "")["sample_id"][0].as_py()
    flipped = [
        line.replace(",yes", ",X").replace(",no", ",yes").replace(",X", ",no")
        if line.startswith(train)
        else line
        for line in labels.read_text().splitlines()
    ]
    labels.write_text("\n".join(flipped) + "\n")
    assert cli(project, "ingest")[0] == 0
    after = {t: (project / f"data/targets/{t}.parquet").read_bytes() for t in ("shape", "round")}
    assert after["shape"] == before["shape"] and after["round"] != before["round"]


def test_training_gives_the_same_bytes_whatever_the_test_targets_say(project, cli):
    def outputs():
        return [
            (project / f"data/{n}").read_bytes() for n in ("predictions/shape.parquet", "scores/shape.json")
        ]

    before = outputs()
    (project / "data/sealed/shape.parquet").write_bytes(b"poison")
    shutil.rmtree(project / ".embedpipe/heads")
    assert cli(project, "train", "shape")[0] == 0
    assert cli(project, "select")[0] == 0
    assert cli(project, "compare")[0] == 0
    assert outputs() == before


def test_opening_the_test_is_logged_and_shown_until_predictions_change(project, cli):
    code, out, err = cli(project, "test", "--task", "shape")
    assert code == 0 and "accuracy" in out and "read 1 time" in err
    log = [json.loads(line) for line in (project / "test_log.jsonl").read_text().splitlines()]
    assert log and all(record["task"] == "shape" for record in log)
    assert cli(project, "compare")[0] == 0
    shown = [row for row in leaderboard(project) if row["test"] is not None]
    assert {row["arm"] for row in shown} == {record["arm"] for record in log}
    params = projects.small_params()
    params["heads"]["logistic"]["C"] = [0.001]
    params["heads"]["ridge"]["alpha"] = [5.0]
    projects.write_params(project, params)
    for step in ("train", "select", "compare"):
        assert cli(project, step)[0] == 0
    assert not [row for row in leaderboard(project) if row["test"] is not None and row["k_shot"] == "all"]


def test_a_changed_test_label_hides_the_figures_read_before_and_trains_nothing(project, cli):
    _, before, _ = cli(project, "info")
    assert before.rstrip().splitlines()[-2] == "The test is sealed: `embedpipe test` opens it."
    assert cli(project, "test", "--task", "round")[0] == 0
    assert "The test was opened 1 time." in cli(project, "info")[1]  # before any comparison has seen the log
    from embedpipe.manifest.targets import Targets

    sample = Targets.read(project / "data/sealed/round.parquet").sample_ids[0]
    opened = (project / "data/targets/round.parquet").read_bytes()
    lines = (project / "round.csv").read_text().splitlines()
    swap = {"yes": "no", "no": "yes"}
    lines = [
        f"{sample},{swap[line.split(',')[1]]}" if line.startswith(f"{sample},") else line for line in lines
    ]
    (project / "round.csv").write_text("\n".join(lines) + "\n")
    assert cli(project, "ingest")[0] == 0
    assert (
        project / "data/targets/round.parquet"
    ).read_bytes() == opened  # so no stage but compare runs again
    assert "The test was opened 1 time, but not for these predictions" in cli(project, "info")[1]
    assert cli(project, "compare")[0] == 0
    assert all(row["test"] is None for row in leaderboard(project))


def test_a_saved_head_predicts_the_stored_predictions_to_the_bit(finished):
    from embedpipe.features.table import open_features
    from embedpipe.heads.registry import load_head
    from embedpipe.manifest.table import Manifest

    manifest = Manifest.read(finished / "data/manifests/shapes/samples.parquet")
    head = load_head(finished / "data/heads/shape/ridge@net/block3.grid2")
    rows = read_parquet(finished / "data/predictions/shape.parquet", "").to_pylist()
    stored = [row for row in rows if row["arm"] == "ridge@net/block3.grid2" and row["k_shot"] == 0]
    row_of = {sample_id: i for i, sample_id in enumerate(manifest.sample_ids)}
    X = open_features(finished / "data/features/net").read("block3.grid2", manifest.keys)
    found = head.predict_proba(X.reshape(len(X), -1)).astype(np.float32)
    assert stored
    for row in stored:
        np.testing.assert_array_equal(found[row_of[row["sample_id"]]], np.float32(row["scores"]))
