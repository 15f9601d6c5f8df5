"""Train on one domain, test on the other: the whole pipeline over two sources in one data set."""

import json

import projects
from PIL import Image, ImageOps

from embedpipe.manifest.table import Manifest
from embedpipe.workspace import find_workspace


def test_heads_of_one_domain_are_tested_on_the_other(tmp_path, cli):
    root = projects.make_project(tmp_path / "p", num_per_class=16)
    for path in sorted((root / "images").rglob("*.png")):
        flipped = root / "flipped" / path.relative_to(root / "images")
        flipped.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.mirror(Image.open(path)).save(flipped)
    of = {"plain": {"kind": "folder", "path": "images"}, "mirrored": {"kind": "folder", "path": "flipped"}}
    params = projects.small_params()
    params["datasets"]["shapes"] = {
        "source": {"kind": "several", "of": of},
        "domain": {"column": "source", "source": ["plain"]},
        "split": {"by": "domain", "val": 0.3},
    }
    params["tasks"] = {"shape": {"on": "shapes", "labels": "label", "kind": "classes"}}
    params["backbones"] = {"pixels": {"model": "pixels", "taps": {"pixels": ["flatten"]}}}
    params["heads"] = {"ridge": {"alpha": [1.0]}}
    params["compare"] = {"k_shot": ["all"], "draws": 2}
    projects.write_params(root, params)
    for step in ("ingest", "extract", "train", "select", "compare", "test"):
        code, _, err = cli(root, step)
        assert code == 0, err
    manifest = Manifest.read(find_workspace(root).manifest("shapes"))
    assert (manifest.domains == "target").sum() == 48
    assert set(manifest.splits[manifest.domains == "target"]) == {"test"}
    assert set(manifest.splits[manifest.domains == "source"]) == {"train", "val"}
    assert cli(root, "compare")[0] == 0
    rows = json.loads((root / "data" / "leaderboard.json").read_text())
    (selected,) = [row for row in rows if row["selected"]]
    assert selected["test"]["balanced_accuracy"]["value"] > 0.34
