"""`gc` and `forget` say what they will do before they do it; growth is counted in forward passes."""

import json
import shutil

import numpy as np
import projects
import pytest

from embedpipe.manifest.files import read_parquet
from embedpipe.steps.ingest import ingest_dataset
from embedpipe.store.reader import FeatureStore
from embedpipe.workspace import Workspace


@pytest.fixture
def project(finished, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(finished, tmp_path / "project")


@pytest.fixture
def embedded(cli, monkeypatch):
    """List the samples and extract `net`; gives the samples that went through the network and what was said."""
    import embedpipe.extract.run as run

    passes = []
    real = run.embed

    def counting(batches, *args, **kwargs):
        listed = list(batches)
        passes.extend(int(i) for batch in listed for i in batch.samples)
        return real(listed, *args, **kwargs)

    monkeypatch.setattr(run, "embed", counting)

    def call(root):
        passes.clear()
        ingest_dataset(Workspace(root, root / ".embedpipe"), "shapes")
        code, _, err = cli(root, "extract", "net")
        assert code == 0, err
        return len(passes), err

    return call


def changed(root, change):
    params = projects.small_params()
    change(params)
    projects.write_params(root, params)


def add_image(root, name="new", seed=99):
    projects.draw("circle", np.random.default_rng(seed)).save(root / f"images/circle/{name}.png")


def test_one_new_sample_is_one_forward_pass(project, embedded):
    assert embedded(project)[0] == 0
    add_image(project)
    assert embedded(project)[0] == 1


def test_a_new_tap_computes_that_tap_alone(project, embedded):
    store = project / "data/features/net"
    before = {p: p.stat().st_ino for p in (project / ".embedpipe/stores").glob("*/*/c/**/*") if p.is_file()}
    changed(project, lambda p: p["backbones"]["net"]["taps"].update(block2=["gap"]))
    assert embedded(project)[0] == 72
    assert {p: p.stat().st_ino for p in before} == before
    assert "block2.gap" in FeatureStore.open(store).taps


@pytest.mark.parametrize("what", ["splits", "tasks", "labels", "ids"])
def test_splits_tasks_labels_and_ids_embed_nothing(project, embedded, what):
    if what == "splits":
        changed(project, lambda p: p["datasets"]["shapes"].update(split={"val": 0.1, "test": 0.4}))
    elif what == "tasks":
        changed(
            project, lambda p: p["tasks"].update(again={"on": "shapes", "labels": "label", "kind": "classes"})
        )
    elif what == "labels":
        text = (project / "round.csv").read_text()
        (project / "round.csv").write_text(text.replace("circle000.png,yes", "circle000.png,no"))
    else:
        image = project / "images/circle/circle000.png"
        image.rename(image.with_name("renamed.png"))
    assert embedded(project)[0] == 0


def test_a_sample_named_twice_or_in_two_data_sets_is_embedded_once(project, embedded):
    shutil.copytree(project / "images/circle", project / "others/circle")
    add_image(project, "a")
    shutil.copy(project / "images/circle/a.png", project / "images/circle/b.png")
    shutil.copy(project / "images/circle/a.png", project / "others/circle/c.png")
    changed(
        project,
        lambda p: p["datasets"].update(
            others={"source": {"kind": "folder", "path": "others"}, "split": {"val": 0.3, "test": 0.2}}
        ),
    )
    ingest_dataset(Workspace(project, project / ".embedpipe"), "others")
    assert embedded(project)[0] == 1


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("weights_digest", lambda p: p["backbones"]["net"].update(weights="random:1")),
        (
            "preprocessing",
            lambda p: p["backbones"]["net"].update(preprocess={"mean": [0.4]}),
        ),
        ("precision", lambda p: p["extract"].update(precision="bfloat16")),
    ],
)
def test_another_spec_opens_a_group_beside_says_the_field_and_going_back_embeds_nothing(
    project, embedded, field, change
):
    changed(project, change)
    passes, said = embedded(project)
    assert passes == 72 and f"expected {field}" in said and "a group of its own beside the old one" in said
    projects.write_params(project, projects.small_params())
    assert embedded(project)[0] == 0


def test_another_dtype_opens_arrays_beside_and_going_back_embeds_nothing(project, embedded):
    changed(project, lambda p: p["extract"].update(dtype="float32"))
    assert embedded(project)[0] == 72
    assert len([p for p in (project / ".embedpipe/stores").glob("*/block1.gap*") if p.is_dir()]) == 2
    projects.write_params(project, projects.small_params())
    assert embedded(project)[0] == 0


def test_two_histories_of_the_same_samples_give_the_same_heads_to_the_bit(tmp_path, cli, embedded):
    whole = projects.make_project(tmp_path / "whole")
    grown = projects.make_project(tmp_path / "grown")
    held = tmp_path / "held"
    held.mkdir()
    for path in sorted((grown / "images").rglob("*0[0-4].png")):
        shutil.move(path, held / f"{path.parent.name}-{path.name}")
    assert embedded(grown)[0] == 57
    for path in held.iterdir():
        folder, name = path.name.split("-")
        shutil.move(path, grown / "images" / folder / name)
    assert embedded(grown)[0] == 15 and embedded(whole)[0] == 72
    for root in (whole, grown):
        assert cli(root, "ingest")[0] == 0
        assert cli(root, "extract", "pixels")[0] == 0
        assert cli(root, "train")[0] == 0
    keys = [FeatureStore.open(root / "data/features/net").keys for root in (whole, grown)]
    assert not np.array_equal(*keys)
    for path in sorted((whole / "data/heads").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (grown / path.relative_to(whole)).read_bytes(), path
    for name in ("predictions/shape.parquet", "scores/shape.json"):
        assert (whole / "data" / name).read_bytes() == (grown / "data" / name).read_bytes()


def test_gc_says_what_it_will_free_and_frees_it_only_then(project, cli, embedded):
    assert "nothing to free" in cli(project, "gc")[2]
    changed(project, lambda p: p["backbones"]["net"].update(image_px=24))
    embedded(project)
    for i in range(5):
        (project / f"images/circle/circle00{i}.png").unlink()
    embedded(project)
    code, out, _err = cli(project, "gc", "--json")
    told = json.loads(out)
    assert code == 0 and len(told["groups"]) == 1 and told["groups"][0]["nbytes"] > 0 and not told["freed"]
    assert {(row["num_dead"], row["num_rows"]) for row in told["rows"]} == {(5, 72)}
    assert "nothing was removed" in cli(project, "gc")[2]
    assert len(list((project / ".embedpipe/stores").glob("*/group.json"))) == 3
    assert cli(project, "gc", "--yes")[0] == 0
    assert "nothing to free" in cli(project, "gc")[2]
    assert len(list((project / ".embedpipe/stores").glob("*/group.json"))) == 2
    assert embedded(project)[0] == 0
    assert FeatureStore.open(project / "data/features/net").num_rows == 67
    assert cli(project, "verify", "net")[0] == 0


def test_a_group_of_an_older_format_is_left_aside_and_freed_by_gc(project, cli, embedded):
    (group,) = (project / ".embedpipe/stores").glob(
        f"{FeatureStore.open(project / 'data/features/net').spec.fingerprint}*"
    )
    plate = json.loads((group / "group.json").read_text())
    old = group.with_name("0" * 32)
    old.mkdir()
    plate["spec"]["format_version"] = plate["format_version"] = 1
    (old / "group.json").write_text(json.dumps(plate))
    add_image(project)
    assert embedded(project)[0] == 1
    told = json.loads(cli(project, "gc", "--json")[1])
    assert [one["group"] for one in told["groups"]] == [old.name]
    assert cli(project, "gc", "--yes")[0] == 0
    assert not old.exists() and group.exists()


def test_gc_frees_kept_fits_that_no_scores_need_and_only_once_every_task_was_trained(project, cli):
    memo = project / ".embedpipe/heads"
    assert memo.is_dir() and "nothing to free" in cli(project, "gc")[2]
    changed(project, lambda p: p["heads"].pop("ridge"))
    (memo / "fits.round.kept.json").unlink()
    assert cli(project, "train", "shape")[0] == 0
    before = {path.name for path in memo.iterdir() if path.is_dir()}
    assert "kept fits are left alone: a task of params.yaml was not trained yet" in cli(project, "gc")[2]
    assert cli(project, "train", "round")[0] == 0
    code, out, _ = cli(project, "gc", "--json")
    told = json.loads(out)["fits"]
    assert code == 0 and told["num"] > 0 and told["nbytes"] > 0 and not told["unknown"]
    assert f"to free: {told['num']} kept fits that no task needed" in cli(project, "gc")[2]
    assert {path.name for path in memo.iterdir() if path.is_dir()} >= before
    assert cli(project, "gc", "--yes")[0] == 0
    assert len(before) > len([path for path in memo.iterdir() if path.is_dir()]) > 0
    for task in ("shape", "round"):
        err = cli(project, "train", task)[2]
        assert " 0 fits done now" in err, err


def test_forget_leaves_none_of_a_samples_bytes(project, cli, embedded):
    add_image(project, "secret")
    embedded(project)
    manifest = read_parquet(project / "data/manifests/shapes/samples.parquet", "").to_pylist()
    (key,) = [row["key"] for row in manifest if "secret" in row["sample_id"]]
    store = FeatureStore.open(project / "data/features/net")
    row = store.rows_of(np.frombuffer(key, np.uint8)[None])
    pieces = [key] + [store.read(name, row).tobytes() for name in store.taps]
    _, _, err = cli(project, "forget", "circle/secret.png")
    assert "to erase: row 72" in err and "nothing was removed" in err and "still listed" in err
    code, out, _ = cli(project, "forget", "circle/secret.png", "--yes", "--json")
    assert code == 0 and json.loads(out)["key"] == key.hex()
    for root in (".embedpipe/stores", "data/features"):
        for path in (project / root).rglob("*"):
            assert not path.is_file() or not any(piece in path.read_bytes() for piece in pieces), path
    (project / "images/circle/secret.png").unlink()
    assert embedded(project)[0] == 0
    assert cli(project, "verify", "net")[0] == 0
    assert cli(project, "forget", "circle/secret.png")[0] == 2
