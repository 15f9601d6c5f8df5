"""Extraction on a small project: what `auto` stands for, and what is kept of it."""

import json
import shutil

import numpy as np
import projects
import pytest

from embedpipe.steps.ingest import ingest_dataset
from embedpipe.workspace import Workspace


@pytest.fixture(scope="session")
def ingested_template(tmp_path_factory):
    root = projects.make_project(tmp_path_factory.mktemp("ingested"))
    ingest_dataset(Workspace(root, root / ".embedpipe"), "shapes")
    return root


@pytest.fixture
def ingested(ingested_template, tmp_path):
    """The small project with its samples listed and nothing embedded."""
    return shutil.copytree(ingested_template, tmp_path / "project")


def set_extract(root, **options):
    params = projects.small_params()
    params["extract"].update(options)
    projects.write_params(root, params)


def card(root):
    return json.loads((root / "data/features/net/card.json").read_text())


def extract(cli, root, *arguments):
    code, out, err = cli(root, "extract", "net", *arguments)
    assert code == 0, err
    return out, err


def shards(root):
    folder = root / "data/features/net"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("c/*/*"))
        if path.is_file()
    }


def test_float32_resizes_as_pillow_does_and_has_no_errors_to_record(cli, ingested):
    extract(cli, ingested)
    found = card(ingested)
    assert "precision_errors" not in found and "resampler" not in found["spec"]["preprocessing"]


def test_the_error_of_reduced_precision_is_recorded_a_tap(cli, ingested):
    extract(cli, ingested)
    exact = card(ingested)
    set_extract(ingested, precision="bfloat16")
    extract(cli, ingested)
    found = card(ingested)
    assert set(found["precision_errors"]) == set(exact["taps"])
    assert all(0 < error < 0.2 for error in found["precision_errors"].values())
    assert "torchvision tensor" in found["spec"]["preprocessing"]
    extract(cli, ingested)  # adopted, and recorded all the same
    assert card(ingested)["precision_errors"] == found["precision_errors"]


def test_auto_keeps_the_resampling_that_a_store_was_made_with(cli, ingested):
    set_extract(ingested, precision="bfloat16", resample="pillow")
    extract(cli, ingested)
    made = card(ingested)["spec"]
    set_extract(ingested, precision="bfloat16")
    _, err = extract(cli, ingested)
    assert card(ingested)["spec"] == made and "0 embedded" in err
    set_extract(ingested, precision="bfloat16", resample="tensor")
    _, err = extract(cli, ingested)
    assert "expected preprocessing" in err and card(ingested)["spec"] != made


def test_a_batch_is_searched_once_and_remembered(cli, ingested):
    set_extract(ingested, batch="auto")
    _, err = extract(cli, ingested)
    known = json.loads((ingested / ".embedpipe/stores/batches.json").read_text())
    (name,) = known
    assert "glyphnet" in name and "float32" in name and "batches of" in err
    _, err = extract(cli, ingested)
    assert "batches of" not in err


def test_running_out_of_memory_costs_a_smaller_pass_and_no_sample(cli, ingested, monkeypatch):
    import torch

    from embedpipe.backbones.backbone import Backbone

    extract(cli, ingested)
    expected = shards(ingested)
    real = Backbone.forward

    def forward(self, *args, **kwargs):
        run = real(self, *args, **kwargs)

        def small(x):
            if len(x) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(x)

        return small

    monkeypatch.setattr(Backbone, "forward", forward)
    shutil.rmtree(ingested / ".embedpipe/stores")
    shutil.rmtree(ingested / "data/features")
    _, err = extract(cli, ingested)
    assert "passes of 8" in err
    found = shards(ingested)
    for path in expected:
        if path.startswith("block"):
            a, b = (
                np.frombuffer(data[:1000], np.float16).astype(float) for data in (expected[path], found[path])
            )
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3)
