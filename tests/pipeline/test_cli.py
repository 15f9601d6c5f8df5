"""The command line as a person meets it: answers, one-sentence errors, exit codes."""

import json
import shutil
import subprocess
import sys

import projects
import pytest
from PIL import Image


@pytest.fixture
def project(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "project")


def change(root, path, value):
    """Set one key of params.yaml, ``a.b.c``."""
    params = projects.small_params()
    *parents, last = path.split(".")
    section = params
    for key in parents:
        section = section[key]
    section[last] = value
    projects.write_params(root, params)


def test_help_lists_every_step_and_question(cli, tmp_path):
    code, out, _ = cli(tmp_path, "--help")
    assert code == 0
    for command in (
        "ingest",
        "source",
        "extract",
        "train",
        "select",
        "compare",
        "report",
        "test",
        "plan",
        "info",
        "taps",
        "verify",
    ):
        assert command in out


def test_a_folder_without_params_is_one_sentence(cli, tmp_path):
    code, out, err = cli(tmp_path, "info")
    assert code == 2 and out == "" and "expected params.yaml, found none" in err and "Traceback" not in err


def test_every_problem_of_params_is_in_one_message(cli, tmp_path):
    params = projects.small_params()
    params["datasets"]["shapes"]["source"]["pth"] = "x"
    params["backbones"]["net"]["taps"]["block1"] = ["gapp"]
    params["heads"]["logistc"] = {}
    params["tasks"]["shape"]["on"] = "shpes"
    params["extract"]["bach"] = 3
    projects.write_params(tmp_path, params)
    code, _, err = cli(tmp_path, "info")
    assert code == 2
    for piece in ("'path'", "did you mean 'gap'", "did you mean 'logistic'", "did you mean 'batch'"):
        assert piece in err, err


def test_names_that_do_not_exist_across_sections_are_said_with_the_near_one(cli, tmp_path):
    params = projects.small_params()
    params["tasks"]["shape"]["on"] = "shpes"
    params["tasks"]["round"]["heads"] = ["ridg"]
    params["compare"]["heads"] = ["logistik"]
    params["baselines"].append("random_weights")
    params["backbones"]["net"]["weights"] = "source:letters"
    projects.write_params(tmp_path, params)
    code, _, err = cli(tmp_path, "info")
    assert code == 2
    for piece in (
        "tasks.shape.on: no dataset is named 'shpes' (did you mean 'shapes'?)",
        "tasks.round.heads: no head is named 'ridg' (did you mean 'ridge'?)",
        "compare.heads: no head is named 'logistik' (did you mean 'logistic'?)",
        "'random_weights' needs a backbone of that role",
        "backbones.net.weights: no source is named 'letters'",
    ):
        assert piece in err, err


def test_a_section_that_dvc_needs_is_named_when_it_is_missing(cli, tmp_path):
    params = projects.small_params()
    del params["source"]
    projects.write_params(tmp_path, params)
    code, _, err = cli(tmp_path, "info")
    assert code == 2 and "params.yaml: source: required, but missing" in err


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["extract", "nett"], "did you mean 'net'"),
        (["train", "shap"], "did you mean 'shape'"),
        (["ingest", "shape"], "did you mean 'shapes'"),
        (["taps", "pixel"], "did you mean 'pixels'"),
        (["test", "--arm", "ridge@net/block3.grid"], "did you mean 'ridge@net/block3.grid2'"),
    ],
)
def test_an_unknown_name_suggests_the_near_one(cli, finished, arguments, near):
    code, _, err = cli(finished, *arguments)
    assert code == 2 and near in err


@pytest.mark.parametrize("arguments", [["--debug", "train", "shap"], ["train", "shap", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(cli, tmp_path, arguments):
    projects.write_params(tmp_path, projects.small_params())
    code, _, err = cli(tmp_path, *arguments)
    assert code == 2 and "Traceback" in err and "did you mean 'shape'" in err


def test_an_unknown_option_is_a_usage_error(cli, finished):
    code, _, err = cli(finished, "info", "--jsn")
    assert code == 2 and "--jsn" in err


def test_taps_lists_nodes_with_shapes_and_bytes(cli, finished):
    code, out, _ = cli(finished, "taps", "net", "--json")
    nodes = {node["name"]: node for node in json.loads(out)}
    assert (
        code == 0 and nodes["block1"]["shape"] == [8, 16, 16] and nodes["block1"]["nbytes"] == 8 * 16 * 16 * 2
    )
    assert [node["depth"] for node in nodes.values()] == sorted(node["depth"] for node in nodes.values())


def test_plan_says_what_extraction_would_do_and_stores_nothing(cli, tmp_path):
    root = projects.make_project(tmp_path)
    assert cli(root, "ingest")[0] == 0
    code, out, _ = cli(root, "plan", "net", "--json")
    plan = json.loads(out)[0]
    assert code == 0 and plan["num_samples"] == plan["num_to_embed"] == 72
    # block1.gap and block3.gap are 8 values a sample, block3.grid2 32, two bytes each
    assert plan["new_nbytes"] == 72 * 2 * (8 + 8 + 32) and plan["fits"] and plan["time_s"] > 0
    assert not (root / "data/features/net").exists()
    assert json.loads(cli(root, "plan", "net", "--json")[1])[0]["num_to_embed"] == 72


def test_info_shows_stores_and_the_selected_arm(cli, finished):
    code, out, _ = cli(finished, "info", "--json")
    found = json.loads(out)
    assert code == 0 and found["datasets"]["shapes"]["samples"] == 72
    assert set(found["backbones"]["net"]["store"]["taps"]) == {"block1.gap", "block3.gap", "block3.grid2"}
    assert cli(finished, "info")[1].count("shape:") >= 1


def test_verify_reads_published_and_working_files(cli, finished):
    code, out, _ = cli(finished, "verify", "net")
    assert code == 0 and out.count("all as written") == 2


def test_verify_names_a_flipped_byte_and_exits_1(cli, project):
    shard = project / "data/features/net/block1.gap/c/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.unlink()
    shard.write_bytes(data)
    code, out, _ = cli(project, "verify", "net", "--json")
    damages = [d for one in json.loads(out) for d in one["damages"]]
    assert code == 1 and len(damages) == 1
    assert damages[0]["kind"] == "checksum" and damages[0]["path"].endswith("block1.gap/c/0/0")


def test_an_unknown_tap_lists_the_near_ones(cli, project):
    change(project, "backbones.net.taps", {"blok1": ["gap"]})
    code, _, err = cli(project, "extract", "net")
    assert code == 2 and "unknown node 'blok1'" in err and "block1" in err


def test_a_truncated_image_is_quarantined_by_name_and_ids_stay_aligned(cli, project):
    change(project, "extract.max_failed", 0.05)
    image = project / "images/circle/circle000.png"
    Image.new("RGB", (200, 200), "red").save(image)
    image.write_bytes(image.read_bytes()[:-60])
    assert cli(project, "ingest")[0] == 0
    code, _, err = cli(project, "extract", "net")
    assert code == 0 and "1 unreadable" in err
    assert "shapes/circle/circle000.png" in (project / "data/features/net/failed.csv").read_text()
    code, _, err = cli(project, "train", "shape")
    assert code == 0 and "circle/circle000.png" in err


def test_more_unreadable_images_than_allowed_stop_the_run_and_keep_what_was_done(cli, project):
    for i in range(3):
        image = project / f"images/circle/circle00{i}.png"
        Image.new("RGB", (200, 200 + i), "red").save(image)
        image.write_bytes(image.read_bytes()[:-60])
    assert cli(project, "ingest")[0] == 0
    code, _, err = cli(project, "extract", "net")
    assert code == 2 and "extract.max_failed" in err and "circle/circle000.png" in err


def test_a_store_of_another_spec_is_named_before_training(cli, project):
    card = project / "data/features/net/card.json"
    content = json.loads(card.read_text())
    content["spec"]["precision"] = "bfloat16"
    card.write_text(json.dumps(content))
    code, _, err = cli(project, "train", "shape")
    assert code == 2 and "precision" in err and "bfloat16" in err and "embedpipe extract net" in err


@pytest.mark.parametrize(
    ("file", "command", "hint"),
    [
        ("comparison.json", "report", "compare"),
        ("comparison.json", "info", "compare"),
        ("leaderboard.json", "report", "compare"),
        ("leaderboard.json", "info", "compare"),
        ("selection.json", "compare", "select"),
        ("selection.json", "test", "select"),
        ("scores/shape.json", "select", "train"),
        ("features/net/card.json", "report", "extract net"),
        ("features/net/card.json", "train", "extract net"),
    ],
)
def test_a_damaged_result_is_one_sentence_that_says_what_makes_it(cli, project, file, command, hint):
    path = project / "data" / file
    for content in ("", "{}", "[1]", None):
        path.unlink()
        if content is not None:
            path.write_text(content)
        elif command == "info" or (command, path.name) == ("report", "card.json"):
            break  # what is not there yet is no mistake
        code, _, err = cli(project, command)
        assert code == 2 and path.name in err and f"run `embedpipe {hint}" in err, (content, err)


def test_what_a_source_model_has_seen_of_validation_and_test_is_said(cli, project):
    params = projects.small_params()
    seen = {"domain": "source", "source": {"kind": "folder", "path": "images"}}
    params["datasets"]["seen"] = {**seen, "split": {"val": 0.3, "test": 0.0}}
    params["source"] = {"own": {"on": "seen", "labels": "label"}}
    projects.write_params(project, params)
    assert cli(project, "ingest", "seen")[0] == 0
    code, out, err = cli(project, "compare")
    said = "22 of val and 11 of test in shapes are also in seen, where source model own learnt from them"
    assert code == 0 and said in err and said[:60] in out
    assert said in (project / "data/comparison.json").read_text()


def test_a_damaged_note_of_the_last_spec_counts_as_none(cli, project):
    for path in project.glob(".embedpipe/stores/*.last.json"):
        path.write_text('{"half')
    assert cli(project, "extract", "net")[0] == 0
    assert cli(project, "verify")[0] == 0


def test_the_page_is_about_the_backbones_that_were_compared(cli, project):
    shutil.copytree(project / "data/features/net", project / "data/features/former")
    assert cli(project, "report")[0] == 0
    page = (project / "data/report/index.html").read_text()
    assert page.count('class="card backbone"') == 2


def test_cuda_is_not_replaced_silently(cli, project, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    change(project, "extract.device", "cuda")
    code, _, err = cli(project, "extract", "net")
    assert code == 2 and "expected a CUDA device, found none" in err


def test_a_full_disk_is_said_before_anything_is_computed(cli, tmp_path, monkeypatch):
    root = projects.make_project(tmp_path)
    assert cli(root, "ingest")[0] == 0
    usage = shutil.disk_usage(root)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10))
    code, _, err = cli(root, "extract", "net")
    assert code == 2 and "EMBEDPIPE_CACHE" in err and "free" in err


def test_a_cache_on_another_filesystem_is_found_before_the_first_forward_pass(cli, tmp_path, monkeypatch):
    from pathlib import Path

    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.fail("this test needs two filesystems: /dev/shm and the temporary folder")
    root = projects.make_project(tmp_path)
    assert cli(root, "ingest")[0] == 0
    moved = shared / f"embedpipe-test-{tmp_path.name}"
    monkeypatch.setenv("EMBEDPIPE_CACHE", str(moved))
    try:
        code, _, err = cli(root, "extract", "net")
    finally:
        shutil.rmtree(moved, ignore_errors=True)
    assert (
        code == 2
        and "cannot be linked" in err
        and "EMBEDPIPE_CACHE" in err
        and not (root / "data/features/net").exists()
    )


def test_the_packages_top_level_imports_no_torch():
    code = "import embedpipe, sys; assert 'torch' not in sys.modules and 'dvc' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stage_prints_one_sentence_and_exits_2(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 0\ndatasets: {}\n")
    done = subprocess.run(
        [sys.executable, "-m", "stages.ingest", "photos"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(projects.REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 2 and "no entry is named 'photos'" in done.stderr
    assert "Traceback" not in done.stderr


def test_asking_what_there_is_imports_no_torch(finished):
    code = "import sys; from embedpipe.cli.app import run; run(['info']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=finished, capture_output=True)


def test_a_section_that_is_null_is_one_sentence_in_a_stage_too(finished, tmp_path):
    params = projects.small_params()
    params["heads"] = None
    projects.write_params(tmp_path, params)
    done = subprocess.run(
        [sys.executable, "-m", "stages.train", "shape"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(projects.REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 2 and "heads: expected a mapping by name, found None" in done.stderr
