"""Every example runs as its page says, and shows what it is there to show."""

import json
import shutil
import subprocess
import sys

import projects
import pytest

EXAMPLES = projects.REPOSITORY / "examples"
STEPS = ("ingest", "extract", "train", "select", "compare")


@pytest.fixture
def run(tmp_path, cli):
    """Copy an example, make its data and run every step; gives its folder and a reader of its leaderboard."""

    def call(name):
        root = tmp_path / name
        shutil.copytree(EXAMPLES / name, root)
        subprocess.run([sys.executable, "make_data.py"], cwd=root, check=True, capture_output=True)
        for step in STEPS:
            code, _, err = cli(root, step)
            assert code == 0, err
        rows = json.loads((root / "data" / "leaderboard.json").read_text())
        return root, lambda metric: {
            row["arm"]: row["val"][metric]["value"] for row in rows if metric in row["val"]
        }

    return call


@pytest.mark.slow
def test_a_folder_of_images(run):
    root, scores = run("image-folder")
    assert max(scores("balanced_accuracy").values()) > 0.9
    assert len((root / "ink.csv").read_text().splitlines()) == 601


@pytest.mark.slow
def test_an_hdf5_file(run):
    _, scores = run("hdf5")
    assert max(scores("balanced_accuracy").values()) > 0.9


@pytest.mark.slow
def test_tar_shards_and_one_more(run, cli):
    root, scores = run("tar")
    assert max(scores("balanced_accuracy").values()) > 0.9
    subprocess.run([sys.executable, "make_data.py", "5"], cwd=root, check=True, capture_output=True)
    code, _, err = cli(root, "ingest")
    assert code == 0 and "300 read now" in err
    code, _, err = cli(root, "extract", "net")
    assert code == 0 and "300 embedded, 1,200 already there" in err


@pytest.mark.slow
def test_an_image_and_its_text_tell_more_together(run):
    _, scores = run("image-text")
    found = scores("balanced_accuracy")
    (both,) = (value for arm, value in found.items() if arm.startswith("both@"))
    alone = [value for arm, value in found.items() if arm.startswith("logistic@")]
    assert len(alone) == 2 and both > max(alone) + 0.2
