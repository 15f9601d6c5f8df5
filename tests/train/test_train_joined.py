"""Arms on several taps or stores, and on maps: how they are planned, named, read and reported."""

import shutil

import numpy as np
import pytest

from embedpipe.errors import ConfigError
from embedpipe.evaluate.arms import joined_name
from embedpipe.evaluate.predictions import Predictions
from embedpipe.features.card import TapCard
from embedpipe.heads.registry import fit_grid, head_options, load_head
from embedpipe.train.plan import plan_units, spatial_shape


def plan(bench, heads, **more):
    cards = {name: store.card for name, store in bench.stores.items()}
    options = {name: head_options(name, raw) for name, raw in heads.items()}
    return plan_units("colour", "classes", options, cards, **more)


def test_taps_of_each_backbone_are_joined(bench):
    units, _ = plan(bench, {"ridge": {"join": "taps"}})
    assert [unit.arm for unit in units] == [
        "ridge@net/a.gap+b.gap",
        "ridge@blank/a.gap",
        "ridge@pixels/pixels.flatten",
    ]
    assert [part.place for part in units[0].parts] == ["net/a.gap", "net/b.gap"]


def test_taps_of_several_stores_are_joined_by_list(bench):
    join = [["net/b.*", "pixels/*"], ["net/*", "blank/*"]]
    units, _ = plan(bench, {"both": {"family": "ridge", "join": join}})
    assert [unit.arm for unit in units] == [
        "both@net+blank/a.gap+b.gap+a.gap~" + units[0].arm.rpartition("~")[2],
        "both@net+pixels/b.gap+pixels.flatten",
    ]
    assert units[1].role == "transferred"
    assert units[0].tap.shape == (18,) and units[0].tap.depth == 1


def test_units_on_one_tap_come_before_those_on_several(bench):
    units, _ = plan(bench, {"all": {"family": "ridge", "join": "taps"}, "ridge": {}})
    assert [unit.is_joined for unit in units] == [False] * 4 + [True, False, False]


def test_names_of_joins_are_short_and_tell_them_apart():
    assert joined_name(["n/a", "n/b"], ["a", "b"]) == "a+b"
    deep = [f"blocks.{i}.cls" for i in range(12)]
    name = joined_name([f"vit/{tap}" for tap in deep], deep)
    assert name.startswith("blocks.0.cls..blocks.11.cls(12)~")
    other = joined_name([f"vit/{tap}" for tap in [deep[0], *deep[2:], "x", deep[-1]][:12]], deep)
    assert other != name
    assert joined_name(["a/x", "a/y", "b/z"], ["x", "y", "z"]) != joined_name(
        ["a/x", "b/y", "b/z"], ["x", "y", "z"]
    )


def test_a_join_of_what_is_not_there_is_explained(bench):
    with pytest.raises(
        ConfigError, match=r"heads\.r\.join: 'net/c\.gap' matches no tap .*did you mean 'net/"
    ):
        plan(bench, {"r": {"family": "ridge", "join": [["net/c.gap"]]}})
    with pytest.raises(ConfigError, match=r"heads\.conv\.join: conv learns from maps of one tap"):
        plan(bench, {"conv": {"join": "taps"}})
    units, notes = plan(
        bench,
        {"ridge": {}, "r": {"family": "ridge", "join": [["net/*", "pixels/*"]]}},
        task_backbones=["net"],
    )
    assert {unit.head for unit in units} == {"ridge"}
    assert "'r' is left out: the task has not all backbones of its join" in notes[0]


def test_the_shape_of_a_grid_is_known():
    def tap(reduction, *shape):
        return TapCard("x", "n", reduction, 1.0, shape)

    assert spatial_shape(tap("grid:2", 12)) == (3, 2, 2)
    assert spatial_shape(tap("none", 3, 5, 4)) == (3, 5, 4)
    assert spatial_shape(tap("none", 7, 16)) == (7, 16)
    assert spatial_shape(tap("gap", 12)) is None and spatial_shape(tap("none", 12)) is None


def test_a_joined_arm_learns_from_the_features_side_by_side(make_bench):
    heads = {"both": {"family": "ridge", "alpha": 10.0, "join": [["net/b.gap", "pixels/*"]]}}
    bench = make_bench(heads=heads, compare={"k_shot": ["all"]})
    bench.train()
    arm = "both@net+pixels/b.gap+pixels.flatten"
    X = np.concatenate(
        [bench.stores["net"].taps["b.gap"], bench.stores["pixels"].taps["pixels.flatten"]], axis=1
    )
    train = np.array(bench.splits) == "train"
    codes = np.array([bench.classes.index(label) for label in bench.labels])
    (head,) = fit_grid("ridge", [{"alpha": 10.0}], X[train], codes[train], kind="classes", seed=0)
    found = Predictions.read(bench.paths.predictions).scores(arm)
    rows = [bench.ids.index(one) for one in found.sample_ids]
    np.testing.assert_allclose(found.scores[0], head.predict_proba(X[rows]), atol=1e-6)
    row = next(one for one in bench.scores()["arms"] if one["arm"] == arm)
    assert (row["backbone"], row["tap"], row["depth"]) == ("net+pixels", "b.gap+pixels.flatten", None)
    assert [part["backbone"] for part in row["parts"]] == ["net", "pixels"]
    saved = load_head(bench.paths.heads_dir / "both@net+pixels" / "b.gap+pixels.flatten")
    np.testing.assert_allclose(saved.predict_proba(X), head.predict_proba(X), atol=1e-6)


def test_a_tap_joined_with_nothing_is_screened_once(make_bench):
    heads = {"ridge": {}, "all": {"family": "ridge", "join": "taps"}}
    bench = make_bench(heads=heads, compare={"k_shot": ["all"]})
    bench.train()
    screens = [f"{one['backbone']}/{one['tap']}" for one in bench.scores()["screen"]]
    assert sorted(screens) == ["blank/a.gap", "net/a.gap", "net/b.gap", "pixels/pixels.flatten"]


def test_fused_taps_say_what_they_weigh(make_bench):
    heads = {
        "layerwise": {"backbones": "net", "lr": 0.03},
        "group_lasso": {"backbones": "net", "strength": 0.5},
    }
    bench = make_bench(heads=_lists(heads), compare={"k_shot": ["all"]})
    bench.train()
    rows = {row["head"]: row for row in bench.scores()["arms"] if row["head"] in heads}
    fused, sparse = rows["layerwise"], rows["group_lasso"]
    assert fused["arm"] == "layerwise@net/a.gap+b.gap" and "widths" not in fused["params"]
    assert sum(fused["candidates"][0]["layers"]) == pytest.approx(1, abs=1e-5)
    assert sparse["candidates"][0]["layers"] == [0, 1]  # the second tap has half the noise
    assert sparse["note"] == "taps by weight: b.gap 1.00; 1 of 2 left out"


def test_heads_of_maps_see_maps_and_grids_and_leave_vectors_out(make_bench):
    heads = {"conv": {"hidden": 0, "epochs": 20, "lr": 0.01}, "attentive": {"epochs": 3}, "centroid": {}}
    bench = make_bench(heads=heads, compare={"k_shot": ["all"]})
    net = bench.stores["net"]
    flat = np.repeat(net.taps["b.gap"], 4, axis=1)  # a grid whose four places are alike
    net.taps["b.grid2"] = flat
    net.card.taps["b.grid2"] = TapCard("b.grid2", "b", "grid:2", 1.0, (24,))
    bench.train()
    arms = {row["arm"]: row for row in bench.scores()["arms"]}
    assert {arm for arm in arms if arm.startswith(("conv", "attentive"))} == {
        "conv@net/b.grid2",
        "attentive@net/b.grid2",
    }
    head = load_head(bench.paths.heads_dir / "conv@net" / "b.grid2")
    assert head.input_shape_ == (6, 2, 2)
    found = Predictions.read(bench.paths.predictions).scores("conv@net/b.grid2")
    rows = [bench.ids.index(one) for one in found.sample_ids]
    wanted = head.predict_proba(flat.reshape(-1, 6, 2, 2)[rows])
    np.testing.assert_allclose(found.scores[0], wanted, atol=1e-6)


def test_stacks_joins_and_maps_that_do_not_fit_memory_give_the_same_files_to_the_bit(make_bench):
    heads = {
        "sgd": {"epochs": 3},
        "mlp": {"epochs": 3, "layers": 2, "dropout": 0.1, "hidden": 8},
        "conv": {"epochs": 3},
        "attentive": {"epochs": 3},
        "layerwise": {"epochs": 3},
        "group_lasso": {},
        "both": {"family": "ridge", "join": [["net/*", "pixels/*"]]},
    }
    bench = make_bench(heads=heads, compare={"k_shot": [2, "all"], "draws": 2, "heads": ["sgd", "both"]})
    net = bench.stores["net"]
    net.taps["b.grid2"] = np.repeat(net.taps["b.gap"], 4, axis=1)
    net.card.taps["b.grid2"] = TapCard("b.grid2", "b", "grid:2", 1.0, (24,))
    bench.train()
    whole = bench.outputs()
    shutil.rmtree(bench.paths.memo_dir)
    bench.train(memory_nbytes=1)
    assert bench.outputs() == whole


def test_a_head_without_maps_is_left_out_and_says_why(make_bench):
    bench = make_bench(heads={"conv": {}, "centroid": {}}, compare={"k_shot": ["all"]})
    summary = bench.train()
    assert any(
        "'conv' is left out: its family learns from maps, which taps of the reductions none" in note
        for note in summary.notes
    )


@pytest.mark.parametrize("kind", ["classes", "number"])
def test_a_candidate_that_diverges_is_reported_and_never_selected(make_bench, kind):
    raw = {"lr": [0.01, 1e30], "epochs": 5, "backbones": ["net"], "taps": ["b.gap"]}
    bench = make_bench(kind=kind, heads={"mlp": raw}, compare={"k_shot": ["all"]})
    bench.train()
    row = next(one for one in bench.scores()["arms"] if one["head"] == "mlp")
    good, lost = row["candidates"]
    assert "failure" not in good and lost["failure"].startswith("diverged in epoch")
    assert set(lost["val"].values()) == {None}
    assert row["params"]["lr"] == 0.01
    assert "1 of 2 candidates failed: diverged in epoch" in row["note"]


def _lists(heads):
    return {name: {**raw, "backbones": [raw["backbones"]]} for name, raw in heads.items()}
