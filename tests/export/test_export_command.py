"""`embedpipe export` on a project: what it writes, and what it says when it cannot."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from embedpipe.cli.app import run

sys.path.insert(0, str(Path(__file__).parent))
from conftest import GAP, NAMES, manifest_of, values


@pytest.fixture
def project(make, tmp_path, monkeypatch):
    root = tmp_path / "project"
    (root / "data" / "manifests" / "photos").mkdir(parents=True)
    manifest_of(NAMES).write(root / "data" / "manifests" / "photos" / "samples.parquet")
    make(NAMES)
    (root / "data" / "features").symlink_to(tmp_path / "features")
    params = {
        "seed": 0,
        "datasets": {"photos": {"source": {"kind": "folder", "path": "images"}}},
        "tasks": {"kind": {"on": "photos", "labels": "label", "kind": "classes"}},
        "source": {},
        "backbones": {"tiny": {"model": "pixels", "taps": {"pixels": ["flatten"]}}},
        "extract": {},
        "heads": {"ridge": {"alpha": 1.0}},
        "baselines": [],
        "select": {},
        "compare": {"k_shot": ["all"]},
        "transfer": {},
        "report": {},
    }
    (root / "params.yaml").write_text(json.dumps(params))
    monkeypatch.chdir(root)
    return root


def test_it_writes_features_with_ids_and_says_what_it_did(project, capsys):
    assert (
        run(["export", "tiny", "out", "--format", "npy", "--tap", GAP.name, "--split", "val", "--json"]) == 0
    )
    done = json.loads(capsys.readouterr().out)
    assert (done["num_rows"], done["num_written"], done["num_absent"]) == (4, 4, 0)
    ids = np.load(project / "out" / "sample_id.npy")
    names = [one.removeprefix("id-") for one in ids.tolist()]
    np.testing.assert_array_equal(np.load(project / "out" / f"{GAP.name}.npy"), values(names, GAP))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["tiny", "out", "--format", "parket"],
            "expected hdf5, parquet, npy, safetensors, hdf5-view, found 'parket'",
        ),
        (["tyny", "out", "--format", "npy"], "no backbone is named 'tyny'"),
        (["tiny", "out", "--format", "npy", "--split", "dev"], "no split is named 'dev'"),
        (["tiny", "out", "--format", "npy", "--tap", "layer1.gp"], "did you mean 'layer1.gap'?"),
        (["tiny", "s3://b/v.h5", "--format", "hdf5-view"], "a view shows whole local stores"),
    ],
)
def test_mistakes_are_one_sentence(project, capsys, arguments, words):
    assert run(["export", *arguments]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert words in said and "Traceback" not in said
