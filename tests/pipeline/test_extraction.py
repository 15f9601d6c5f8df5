"""Extraction on a small project: what `auto` stands for, and what is kept of it."""

import json
import shutil

import numpy as np
import projects
import pytest
from PIL import Image

from embedpipe.extract.jpeg import tensor_decoder
from embedpipe.sources.decode import DECODER
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


def test_auto_is_float32_for_pixels_which_are_multiplied_by_nothing(cli, ingested, monkeypatch):
    monkeypatch.setattr("embedpipe.extract.device.has_bfloat16", lambda device: True)
    monkeypatch.setattr("embedpipe.extract.device.MAX_PRECISION_ERROR", 1.0)
    set_extract(ingested, precision="auto")
    for backbone in ("net", "pixels"):
        code, _, err = cli(ingested, "extract", backbone)
        assert code == 0, err
    found = {
        name: json.loads((ingested / f"data/features/{name}/card.json").read_text())["spec"]["precision"]
        for name in ("net", "pixels")
    }
    assert found == {"net": "bfloat16", "pixels": "float32"}


@pytest.fixture
def photographs(tmp_path):
    """A project over a folder of JPEG files, one of them damaged, listed and not embedded."""
    root = tmp_path / "photographs"
    generator = np.random.default_rng(0)
    (root / "photos").mkdir(parents=True)
    for i in range(9):
        pixels = generator.integers(0, 256, (40 + i, 50, 3) if i % 2 else (40, 50 + i), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"photos/{i}.jpg", quality=95)
    (root / "photos/5.jpg").write_bytes((root / "photos/6.jpg").read_bytes()[:-40])
    params = projects.small_params()
    params["datasets"] = {"photos": {"source": {"kind": "folder", "path": "photos"}}}
    params["tasks"] = {"which": {"on": "photos", "labels": "labels.csv", "column": "label"}}
    params["backbones"]["net"] = {
        "model": "torchvision:resnet18",
        "weights": "random:0",
        "taps": {"layer1": ["gap"]},
        "preprocess": {"resize_px": 32, "crop_px": 32},
    }
    params["extract"].update(precision="bfloat16", max_failed=0.2)
    projects.write_params(root, params)
    ingest_dataset(Workspace(root, root / ".embedpipe"), "photos")
    return root, params


@pytest.mark.skipif(tensor_decoder() is None, reason="torchcodec is not installed")
def test_torchcodec_and_pillow_give_the_same_bytes_and_each_is_named_in_the_spec(cli, photographs):
    root, params = photographs
    extract(cli, root)
    by_torchcodec, failed = card(root)["spec"], (root / "data/features/net/failed.csv").read_text()
    expected = shards(root)
    assert by_torchcodec["decoder"] == tensor_decoder() and "5.jpg,truncated" in failed
    params["extract"]["decoder"] = "pillow"
    projects.write_params(root, params)
    _, err = extract(cli, root)
    assert "expected decoder torchcodec" in err and "8 embedded" in err
    assert card(root)["spec"] == {**by_torchcodec, "decoder": DECODER}
    assert (root / "data/features/net/failed.csv").read_text() == failed
    found = shards(root)
    blocks = [path for path in expected if path.startswith("layer1.gap/")]
    assert blocks
    assert {path: found[path] for path in blocks} == {path: expected[path] for path in blocks}


@pytest.mark.skipif(tensor_decoder() is None, reason="torchcodec is not installed")
def test_auto_keeps_the_decoder_that_a_store_was_made_with(cli, photographs):
    root, params = photographs
    params["extract"]["decoder"] = "pillow"
    projects.write_params(root, params)
    extract(cli, root)
    made = card(root)["spec"]
    params["extract"]["decoder"] = "auto"
    projects.write_params(root, params)
    _, err = extract(cli, root)
    assert card(root)["spec"] == made and "0 embedded" in err


def test_a_decoder_that_is_not_installed_is_refused_and_auto_does_without(cli, photographs, monkeypatch):
    root, params = photographs
    monkeypatch.setattr("embedpipe.extract.resolve.tensor_decoder", lambda: None)
    monkeypatch.setattr("embedpipe.extract.computer.tensor_decoder", lambda: None)
    params["extract"]["decoder"] = "torchcodec"
    projects.write_params(root, params)
    code, _, err = cli(root, "extract", "net")
    assert code == 2 and "extract.decoder: expected torchcodec 0.16 or newer, found none" in err
    params["extract"]["decoder"] = "auto"
    projects.write_params(root, params)
    extract(cli, root)
    assert card(root)["spec"]["decoder"] == DECODER


@pytest.mark.skipif(tensor_decoder() is None, reason="torchcodec is not installed")
def test_a_torchcodec_that_does_not_fit_torch_is_done_without_and_that_is_said(cli, photographs, monkeypatch):
    root, _ = photographs
    monkeypatch.setattr("embedpipe.extract.resolve.unusable", lambda: "it belongs to another torch")
    _, err = extract(cli, root)
    assert "net: Pillow decodes: it belongs to another torch" in err
    assert card(root)["spec"]["decoder"] == DECODER


def test_samples_that_are_no_files_are_decoded_by_none_of_them(cli, ingested):
    set_extract(ingested, precision="bfloat16")
    extract(cli, ingested)
    assert card(ingested)["spec"]["decoder"] == DECODER


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
    remembered = json.loads((ingested / ".embedpipe/stores/batches.json").read_text())
    assert list(remembered.values()) == [8]
    tried = []
    monkeypatch.setattr(
        Backbone, "forward", lambda *args, **kwargs: tried_by(tried, forward(*args, **kwargs))
    )
    shutil.rmtree(ingested / "data/features")
    for group in (ingested / ".embedpipe/stores").glob("*/group.json"):
        shutil.rmtree(group.parent)
    _, err = extract(cli, ingested)
    assert max(tried) <= 8 and "memory ran out" not in err, "the next run begins with what fits"
    for path in expected:
        if path.startswith("block"):
            a, b = (
                np.frombuffer(data[:1000], np.float16).astype(float) for data in (expected[path], found[path])
            )
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3)


def tried_by(tried, run):
    """A forward pass that notes how many samples it was given."""

    def noting(x):
        tried.append(len(x))
        return run(x)

    return noting


def small_blocks(monkeypatch, rows):
    """Blocks of so many rows, so that a small project has several."""
    from embedpipe.store import layout

    monkeypatch.setattr(layout, "MAX_SHARD_ROWS", rows)


def test_a_limited_run_goes_on_to_the_bytes_of_a_whole_one(cli, ingested, tmp_path, monkeypatch):
    other = shutil.copytree(ingested, tmp_path / "other")
    extract(cli, other)
    code, _, err = cli(ingested, "extract", "net", "--limit", "20")
    assert code == 75 and "52 are left" in err and not (ingested / "data/features/net").exists()
    assert json.loads(cli(ingested, "plan", "net", "--json")[1])[0]["num_to_embed"] == 52
    assert cli(ingested, "extract", "net", "--limit", "20")[0] == 75
    out, err = extract(cli, ingested, "--json")
    done = json.loads(out)[0]
    assert done["num_embedded"] == 32 and done["num_samples"] == 72
    assert shards(ingested) == shards(other)


def test_a_run_whose_time_is_up_finishes_its_block_and_the_next_goes_on(cli, ingested, tmp_path, monkeypatch):
    other = shutil.copytree(ingested, tmp_path / "other")
    small_blocks(monkeypatch, 16)
    extract(cli, other)
    import embedpipe.extract.run as run

    now = [0.0]

    class Late(run.Stopping):
        def __init__(self, after_s):
            super().__init__(after_s, clock=lambda: now[0])

        def due(self):
            now[0] += 20.0
            return super().due()

    monkeypatch.setattr(run, "Stopping", Late)
    code, _, err = cli(ingested, "extract", "net", "--stop-after", "30s")
    assert code == 75 and "32 of 72 samples" in err and "stop_after" in err
    _, err = extract(cli, ingested)
    assert "40 embedded" in err and shards(ingested) == shards(other)


def test_ctrl_c_finishes_the_batches_in_hand_and_keeps_them(cli, ingested, tmp_path, monkeypatch):
    import os
    import signal

    import embedpipe.extract.run as run

    other = shutil.copytree(ingested, tmp_path / "other")
    extract(cli, other)
    real, seen = run.embed, []

    def interrupted(batches, read, *rest, **options):
        def reading(index):
            seen.append(index)
            if len(seen) == 40:
                os.kill(os.getpid(), signal.SIGINT)
            return read(index)

        return real(batches, reading, *rest, **options)

    monkeypatch.setattr(run, "embed", interrupted)
    monkeypatch.setattr(run, "shares_text", lambda times: "")
    code, _, err = cli(ingested, "extract", "net")
    assert code == 130 and "stopped by Ctrl-C" in err and "same command goes on" in err
    monkeypatch.setattr(run, "embed", real)
    out, _ = extract(cli, ingested, "--json")
    left = json.loads(out)[0]["num_embedded"]
    assert 0 < left < 72 and left % 16 == 72 % 16  # whole batches of the first run were kept
    assert shards(ingested) == shards(other)


def test_a_dry_run_is_the_plan_and_stores_nothing(cli, ingested):
    code, out, _ = cli(ingested, "extract", "net", "--dry-run", "--json")
    plan = json.loads(out)[0]
    assert code == 0 and plan["num_to_embed"] == 72 and plan["refusal"] is None
    assert plan["advice"].startswith(("cache:", "recompute")) and plan["reread_s"] > 0
    assert not (ingested / "data/features/net").exists()
    assert not list(ingested.glob(".embedpipe/stores/*/journal/*.tmp"))


def test_a_plan_that_the_disk_will_not_hold_is_refused_after_it_is_shown(cli, ingested, monkeypatch):
    import shutil as system

    full = type("usage", (), {"free": 1000, "total": 10**9, "used": 10**9 - 1000})()
    monkeypatch.setattr(system, "disk_usage", lambda path: full)
    code, out, err = cli(ingested, "plan", "net", "--json")
    assert code == 2 and json.loads(out)[0]["fits"] is False
    assert "GB free" in err and "EMBEDPIPE_CACHE" in err


def test_a_run_ends_with_a_verdict_and_what_the_cache_saved_also_as_json(cli, ingested):
    out, _ = extract(cli, ingested, "--json")
    first = json.loads(out)[0]
    assert first["verdict"]["bottleneck"] in ("decode", "forward", "write") and first["verdict"]["knob"]
    assert set(first["verdict"]["shares"]) == {"decode", "forward", "write"}
    assert first["saved"]["num_reused"] == 0 and first["saved"]["num_embedded"] == 72
    out, err = extract(cli, ingested, "--json")
    again = json.loads(out)[0]
    assert again["saved"]["num_reused"] == 72 and "the cache has saved" in err
    assert again["saved"]["saved_s"] == pytest.approx(72 / first["verdict"]["rate"], rel=1e-6)


def test_a_json_log_has_one_object_a_line_with_the_verdict_and_the_error(cli, ingested):
    code, _, err = cli(ingested, "--log", "json", "extract", "net")
    events = [json.loads(line) for line in err.splitlines()]
    done = next(one for one in events if one["event"] == "extracted")
    assert code == 0 and done["num_embedded"] == 72 and done["verdict"]["rate"] > 0 and done["time"] > 1e9
    code, _, err = cli(ingested, "--log", "json", "extract", "nett")
    (error,) = [json.loads(line) for line in err.splitlines()]
    assert error["event"] == "error" and error["kind"] == "ConfigError" and error["exit_code"] == code == 2
    assert cli(ingested, "--log", "xml", "extract")[0] == 2
