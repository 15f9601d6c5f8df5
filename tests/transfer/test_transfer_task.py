"""Arms of a small project: on the heads' samples, in the heads' tables, started from the selected head."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from embedpipe.cli.app import run
from embedpipe.evaluate.arms import PER_DRAW
from embedpipe.evaluate.predictions import Predictions
from embedpipe.features.table import open_features
from embedpipe.manifest.kshot import k_shot_indices
from embedpipe.manifest.targets import Targets
from embedpipe.training import Checkpoints
from embedpipe.training.processes import World
from embedpipe.transfer import arms as fits
from embedpipe.transfer import task, training
from embedpipe.transfer.saved import load_arm, read_arm
from embedpipe.transfer.start import Starts

QUICK = {"epochs": 2, "min_steps": 0, "batch": 16}
EVERY = {
    "direct": {"estimate": ["eep", "hard"]},
    "frozen": {},
    "scratch": QUICK,
    "lp_ft": QUICK,
    "full": {**QUICK, "ema": 0.9, "augment": {"RandomHorizontalFlip": {}}},
    "two_phase": QUICK,
    "discriminative": QUICK,
    "gradual": {**QUICK, "epochs": 4},
    "surgical": {**QUICK, "layers": ["block1"]},
    "l2_sp": {**QUICK, "optimiser": "sgd", "learning_rate": [0.01, 0.1], "accumulate": 2, "clip_norm": 1.0},
    "wise_ft": {**QUICK, "alphas": [0.0, 0.5, 1.0]},
}


def scores(root):
    return json.loads((root / "data/transfer/shape/scores.json").read_text())


def rows(root):
    return {(row["head"], row["k_shot"]): row for row in scores(root)["arms"]}


def predictions(root):
    return Predictions.read(root / "data/transfer/shape/predictions.parquet")


def of_heads(root):
    return Predictions.read(root / "data/predictions/shape.parquet")


def outputs(root):
    folder = root / "data/transfer/shape"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_every_recipe_writes_the_heads_table_with_the_heads_samples(project):
    root = project(EVERY)
    assert run(["transfer", "shape"]) == 0
    written, heads = predictions(root), of_heads(root)
    assert written.arms() == sorted((f"{name}@net", 0) for name in EVERY)
    first = heads.scores(*heads.arms()[0])
    for arm, k in written.arms():
        of_arm = written.scores(arm, k)
        assert of_arm.sample_ids.tolist() == first.sample_ids.tolist()
        np.testing.assert_allclose(of_arm.scores.sum(axis=2), 1.0, atol=1e-5)
    found = rows(root)
    assert {name for name, _ in found} == set(EVERY)
    assert found["scratch", "all"]["role"] == "random"
    assert len(found["l2_sp", "all"]["candidates"]) == 2 and len(found["wise_ft", "all"]["candidates"]) == 3
    assert found["direct", "all"]["leep"] <= 0 and set(found["direct", "all"]["map"].values()) <= {
        "circle", "cross", "square",
    }  # fmt: skip
    history = (root / "data/transfer/shape/history.csv").read_text().splitlines()
    assert history[0] == "arm,epoch,train_loss,val_score,learning_rate"
    assert sum(line.startswith("lp_ft@net,") for line in history) == 2
    _select_reads_none_of_it_and_compare_lists_all(root, written)


def _select_reads_none_of_it_and_compare_lists_all(root, written):
    before = (root / "data/selection.json").read_bytes()
    assert run(["select"]) == 0
    assert (root / "data/selection.json").read_bytes() == before
    assert run(["compare"]) == 0 and run(["report"]) == 0
    board = json.loads((root / "data/leaderboard.json").read_text())
    listed = {row["arm"]: row for row in board if row["recipe"] is not None}
    assert {arm for arm, _ in written.arms()} == set(listed)
    assert all(row["val"]["balanced_accuracy"]["ci_low"] is not None for row in listed.values())
    told = json.loads((root / "data/comparison.json").read_text())["tasks"]["shape"]["transfer"]
    assert {row["name"] for row in told["arms"]} == {*EVERY, "selected head"}
    (winner,) = told["winners"]
    best = max(row["value"] for row in told["arms"])
    assert [row["value"] for row in told["arms"] if row["arm"] == winner["arm"]] == [best]
    page = (root / "data/report/index.html").read_text()
    assert "Adapting the source model itself" in page
    assert run(["test", "--arm", "lp_ft@net"]) == 0
    (record,) = map(json.loads, (root / "test_log.jsonl").read_text().splitlines())
    assert record["arm"] == "lp_ft@net" and record["predictions_digest"] == written.digest("lp_ft@net")


def test_the_frozen_arm_is_the_selected_head_and_wise_ft_at_nought_too(project):
    root = project(
        {"frozen": None, "wise_ft": {**QUICK, "alphas": [0.0]}}, compare={"k_shot": [3, "all"], "draws": 2}
    )
    assert run(["transfer", "shape"]) == 0
    selected = json.loads((root / "data/selection.json").read_text())["tasks"]["shape"]["by_backbone"]["net"][
        "arm"
    ]
    expected = of_heads(root).scores(selected).scores
    for arm in ("frozen@net", "wise_ft@net"):
        np.testing.assert_allclose(predictions(root).scores(arm).scores, expected, atol=2e-3)
    assert rows(root)["frozen", "all"]["start"] == selected


def test_at_k_labels_the_frozen_arm_is_the_head_that_the_draws_own_labels_chose(project):
    compare = {"k_shot": [3, "all"], "draws": 3}
    few = {"k_shot": [3], "draws": 2}
    root = project(
        {"frozen": {"k_shot": [3]}, "lp_ft": {**QUICK, **few}, "full": {**QUICK, **few, "tap": "block3.gap"}},
        compare=compare,
    )
    assert run(["transfer", "shape"]) == 0
    expected = of_heads(root).scores("selected@net", 3).scores
    np.testing.assert_allclose(predictions(root).scores("frozen@net", 3).scores, expected, atol=2e-3)
    row = rows(root)["lp_ft", 3]
    assert row["draws"] == 2 and row["note"].endswith("nothing chooses among epochs")
    assert all(draw["inner"] is None for draw in row["per_draw"])
    assert (rows(root)["full", 3]["tap"], rows(root)["full", 3]["node"]) == ("block3.gap", "block3")
    for row in rows(root).values():
        taps = {draw["tap"] for draw in row["per_draw"]}
        assert row["tap"] == (taps.pop() if len(taps) == 1 else PER_DRAW)


def test_no_target_but_those_of_its_draw_reaches_an_arm_of_k_labels(project):
    quick = {**QUICK, "k_shot": [3], "draws": 1}
    root = project(
        {"lp_ft": quick, "full": quick, "direct": {"k_shot": [3], "draws": 1}},
        compare={"k_shot": [3, "all"], "draws": 3},
    )
    for path in (root / "data/sealed").iterdir():
        path.unlink()
    assert run(["transfer", "shape"]) == 0
    assert "val" not in rows(root)["lp_ft", 3]
    expected = {arm: predictions(root).scores(arm, 3).scores for arm, _ in predictions(root).arms()}
    assert set(expected) == {"lp_ft@net", "full@net", "direct@net"}
    path = root / "data/targets/shape.parquet"
    targets = Targets.read(path)
    train = targets.where(split="train")
    drawn = k_shot_indices(
        train.sample_ids.tolist(), train.codes(), 3, draw=0, seed=0, classes=targets.classes
    )
    kept = set(train.sample_ids[drawn])
    labels = targets.table["label"].to_pylist()
    told = zip(targets.sample_ids, targets.splits, labels, strict=True)
    turned = dict(zip(targets.classes, targets.classes[1:] + targets.classes[:1], strict=True))
    changed = [
        turned.get(label) if split == "val" else label if one in kept else None for one, split, label in told
    ]
    ids, splits = targets.sample_ids.tolist(), targets.splits.tolist()
    Targets.of(targets.task, targets.spec, sample_ids=ids, splits=splits, labels=changed).write(path)
    assert run(["transfer", "shape"]) == 0
    for arm, scores in expected.items():
        np.testing.assert_array_equal(predictions(root).scores(arm, 3).scores, scores)


def test_a_backbone_of_texts_beside_does_not_keep_images_from_being_adapted(project):
    root = project({"frozen": None})
    shutil.copytree(root / "data/features/net", root / "data/features/words")
    card = root / "data/features/words/card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "name": "words", "modality": "text"}))
    params = json.loads((root / "params.yaml").read_text())
    params["backbones"]["words"] = params["backbones"]["net"]
    (root / "params.yaml").write_text(json.dumps(params))
    assert run(["transfer", "shape"]) == 0
    assert predictions(root).arms() == [("frozen@net", 0)]


def test_an_arm_that_is_renamed_is_not_trained_again_and_its_card_has_the_new_name(project, monkeypatch):
    root = project({"full": QUICK})
    assert run(["transfer", "shape"]) == 0
    monkeypatch.setattr(training, "fit", None)
    project({"whole": {"recipe": "full", **QUICK}})
    assert run(["transfer", "shape"]) == 0
    folder = root / "data/transfer/shape/models"
    assert {path.name for path in folder.iterdir()} == {"arms.json", "whole@net"}
    assert json.loads((folder / "arms.json").read_text()) == {"arms": ["whole@net"]}
    assert read_arm(folder / "whole@net").card["arm"] == "whole@net"


def test_processes_meet_as_often_whether_an_arm_was_kept_or_not(project, monkeypatch):
    project({"lp_ft": QUICK, "frozen": None})
    assert run(["transfer", "shape"]) == 0
    met = {}
    for rank in range(2):
        monkeypatch.setattr(task, "world", lambda rank=rank: World(rank, 2))
        monkeypatch.setattr(task, "wait_for_all", lambda rank=rank: met.update({rank: met.get(rank, 0) + 1}))
        assert run(["transfer", "shape"]) == 0
    assert met == {0: 2, 1: 2}


def test_where_folds_chose_the_heads_it_is_said_that_arms_still_choose_on_validation(project):
    root = project({"lp_ft": QUICK}, select={"on": "folds", "by": "balanced_accuracy"})
    assert run(["transfer", "shape"]) == 0
    assert any("those of the best of many" in note for note in scores(root)["notes"])
    project({"lp_ft": QUICK})
    assert run(["transfer", "shape"]) == 0
    assert scores(root)["notes"] == []


def test_heads_that_folds_chose_are_ranked_by_the_folds():
    def row(tap, val, inner):
        candidate = {"val": {"accuracy": val}, "inner": {"accuracy": inner}}
        return {
            "arm": f"h@net/{tap}",
            "k_shot": "all",
            "backbone": "net",
            "tap": tap,
            "candidates": [candidate],
        }

    about = {"metric": "accuracy", "arms": [row("a", 0.9, 0.5), row("b", 0.6, 0.8)]}
    stores = {"net": SimpleNamespace(taps=("a", "b"))}
    chosen = {"by_backbone": {"net": {"arm": "knn@net/a"}}}
    starts = Starts(None, stores, {}, about, chosen, None, seed=0, memory_nbytes=0)
    assert starts._ranked_full("net", None, "x") == ["knn@net/a", "h@net/b", "h@net/a"]


def test_what_is_finished_is_kept_and_the_same_bytes_are_written_anew(project, monkeypatch):
    root = project({"lp_ft": QUICK, "scratch": QUICK})
    assert run(["transfer", "shape"]) == 0
    first = outputs(root)
    calls = []
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *args, **more: calls.append(1) or fit(*args, **more))
    assert run(["transfer", "shape"]) == 0
    assert outputs(root) == first and not calls
    project({"lp_ft": {**QUICK, "epochs": 3}, "scratch": QUICK})
    assert run(["transfer", "shape"]) == 0
    assert len(calls) == 1  # the other arm is as it was
    monkeypatch.setenv("EMBEDPIPE_CACHE", str(root / "elsewhere"))  # nothing is remembered there
    project({"lp_ft": QUICK, "scratch": QUICK})
    shutil.copytree(root / ".embedpipe" / "stores", root / "elsewhere" / "stores")
    assert run(["transfer", "shape"]) == 0
    assert outputs(root) == first


def test_a_killed_arm_goes_on_and_ends_the_same(project, monkeypatch):
    root = project({"lp_ft": {**QUICK, "epochs": 4}})
    assert run(["transfer", "shape"]) == 0
    expected = outputs(root)
    shutil.rmtree(root / ".embedpipe" / "transfer")

    class Killed(BaseException):
        pass

    seen = []
    say = training.Setting.say

    def dying(self, model, places):
        seen.append(1)
        if len(seen) == 3:
            raise Killed
        return say(self, model, places)

    monkeypatch.setattr(training.Setting, "say", dying)
    monkeypatch.setattr(fits, "Checkpoints", lambda folder: Checkpoints(folder, 0.0))
    with pytest.raises(Killed):
        run(["transfer", "shape"])
    monkeypatch.setattr(training.Setting, "say", say)
    assert list((root / ".embedpipe" / "runs").rglob("last.safetensors"))
    assert run(["transfer", "shape"]) == 0
    assert outputs(root) == expected
    assert not list((root / ".embedpipe" / "runs").rglob("last.safetensors"))


def test_a_saved_arm_gives_the_network_that_predicted(project):
    from embedpipe.backbones import BackboneOptions, load_backbone

    root = project({"full": QUICK})
    assert run(["transfer", "shape"]) == 0
    arm = read_arm(root / "data/transfer/shape/models/full@net")
    raw = json.loads((root / "params.yaml").read_text())["backbones"]["net"]
    backbone = load_backbone("net", BackboneOptions(**raw), root, source_dir=root)
    model = load_arm(arm, backbone, open_features(root / "data/features/net"))
    from PIL import Image

    of_arm = predictions(root).scores("full@net")
    image = Image.open(root / "images" / of_arm.sample_ids[0]).convert("RGB")
    with torch.no_grad():
        shown = model.probabilities(backbone.pixels(image)[None])[0].numpy()
    np.testing.assert_allclose(shown, of_arm.scores[0, 0], atol=1e-5)
    assert arm.spec.classes == ("circle", "cross", "square") and arm.backbone == "net"


def test_without_arms_the_stage_says_so_and_imports_no_torch(project):
    import subprocess
    import sys

    root = project({})
    code = (
        "import sys; from embedpipe.steps.transfer import transfer_arms; from embedpipe.workspace import "
        "find_workspace; transfer_arms(find_workspace(), 'shape'); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
    assert scores(root)["arms"] == [] and predictions(root).arms() == []
    assert run(["compare"]) == 0


def said(capsys, *arguments):
    assert run(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ({"lp_ft": {"tap": "block3.gep"}}, "has no tap 'block3.gep' (did you mean 'block3.gap'?)"),
        (
            {"surgical": {"layers": ["blok1"]}},
            "surgical.layers: up to its tap: the model has no layer 'blok1'",
        ),
        ({"full": {"load": {"weights": "none.pth"}}}, "no such file"),
        ({"direct": {"map": {"zz": "circle"}}}, "no source class is named 'zz'"),
        (
            {"full": {**QUICK, "learning_rate": 1e30, "optimiser": "sgd"}},
            "lower learning_rate, set clip_norm",
        ),
        ({"ridge": {"recipe": "full"}}, "transfer.ridge: a head has that name too"),
        ({"selected": {"recipe": "full"}}, "transfer.selected: the arm that draws choose anew has that name"),
        ({"full": {"k_shot": [7]}}, "transfer.full.k_shot: 7: expected numbers of compare.k_shot"),
        ({"full": {"backbones": ["nett"]}}, "transfer.full.backbones: no backbone is named 'nett'"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(project, capsys, arms, expected):
    project(arms)
    assert expected in said(capsys, "transfer", "shape")


def test_weights_of_another_architecture_and_pickles_are_refused(project, capsys):
    root = project({"full": {**QUICK, "load": {"weights": "other.safetensors"}}})
    save_file({"a.weight": torch.ones(3, 3)}, root / "other.safetensors")
    found = said(capsys, "transfer", "shape")
    assert "a checkpoint of another architecture" in found and "lower at_least" in found
    torch.save(torch.nn.Linear(2, 2), root / "other.pth")
    project({"full": {**QUICK, "load": {"weights": "other.pth"}}})
    assert "since a pickle can run code" in said(capsys, "transfer", "shape")


def test_part_of_the_weights_is_loaded_and_the_leaderboard_says_what(project):
    root = project({"full": {**QUICK, "load": {"by": "prefix", "names": ["block1"], "at_least": 0.0}}})
    assert run(["transfer", "shape"]) == 0
    row = rows(root)["full", "all"]
    assert row["load"]["loaded"] == 12 and "block2.conv1.weight" in row["note"]


def test_a_rate_at_which_the_loss_explodes_is_reported_and_never_chosen(project):
    root = project({"full": {**QUICK, "learning_rate": [1e30, 1e-3], "optimiser": "sgd"}})
    assert run(["transfer", "shape"]) == 0
    row = rows(root)["full", "all"]
    assert row["params"] == {"learning_rate": 0.001} and "not finite at learning rate 1e+30" in row["note"]


def test_a_live_model_that_is_not_the_cached_one_trains_nothing(project, capsys, monkeypatch):
    root = project({"lp_ft": QUICK, "frozen": None})
    path = root / "params.yaml"
    params = json.loads(path.read_text())
    params["backbones"]["net"]["weights"] = "random:1"
    path.write_text(json.dumps(params))
    assert "is not the one of its store: expected weights" in said(capsys, "transfer", "shape")
    params["backbones"]["net"]["weights"] = "random:0"
    path.write_text(json.dumps(params))
    trained = []
    monkeypatch.setattr(fits, "fit_trained", lambda *args: trained.append(args))
    from embedpipe.backbones.backbone import Backbone

    forward = Backbone.forward

    def off(self, *args, **more):
        run_it = forward(self, *args, **more)
        return lambda x: {name: 1.001 * value for name, value in run_it(x).items()}

    monkeypatch.setattr(Backbone, "forward", off)
    assert "so nothing is trained from it" in said(capsys, "transfer", "shape")
    assert not trained


@pytest.mark.slow
def test_two_processes_train_an_arm_as_one_does(project, monkeypatch):
    import os
    import socket
    import subprocess
    import sys

    root = project({"lp_ft": QUICK, "frozen": None})
    assert run(["transfer", "shape"]) == 0
    alone = predictions(root).scores("lp_ft@net").scores
    monkeypatch.setenv("EMBEDPIPE_CACHE", str(root / "elsewhere"))
    for _ in range(2):  # the second time all is kept
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        given = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "embedpipe", "transfer", "shape"],
                env={
                    **os.environ,
                    **given,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "OMP_NUM_THREADS": "1",
                },
            )
            for rank in range(2)
        ]
        assert [process.wait(timeout=200) for process in started] == [0, 0]
    np.testing.assert_allclose(predictions(root).scores("lp_ft@net").scores, alone, atol=1e-3)


def test_only_the_named_arm_is_trained_and_the_finished_ones_are_kept(project):
    root = project({"lp_ft": QUICK, "scratch": QUICK})
    assert run(["transfer", "shape", "scratch"]) == 0
    assert predictions(root).arms() == [("scratch@net", 0)]
    assert run(["transfer", "shape", "lp_ft"]) == 0
    assert predictions(root).arms() == [("lp_ft@net", 0), ("scratch@net", 0)]
