"""Dense tasks: each head on the grid of its tap, all judged on the square that every backbone sees."""

import dataclasses

import numpy as np
import pytest

from embedpipe.errors import ConfigError
from embedpipe.evaluate.evidence import TaskFiles, open_evidence
from embedpipe.evaluate.predictions import Predictions
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.manifest.masks import encode_mask, majority
from embedpipe.manifest.targets import Targets
from embedpipe.spec import BackboneSpec
from embedpipe.train.fit import majority_scores
from embedpipe.train.samples import TaskSamples

NUM, SIDE = 24, 32
CONV = {"conv": {"epochs": 80, "lr": 0.03, "hidden": 0, "patience": 0}}


def spec(crop_px):
    preprocessing = f'{{"crop_px":{crop_px},"resize_px":{SIDE}}}'
    return BackboneSpec("tiny", "a" * 32, "pillow 1", preprocessing, "float32", "cpu")


@pytest.fixture
def dense(make_bench, monkeypatch):
    """A bright half of each image is class 1; `net` crops to 28 of 32 pixels, `pixels` sees all."""
    bench = make_bench(num=NUM, heads=CONV, baselines=("majority", "shuffled_labels"), compare={"draws": 1})
    rng = np.random.default_rng(0)
    edges = rng.integers(8, 25, NUM)
    masks = np.zeros((NUM, SIDE, SIDE), np.uint8)
    for mask, edge in zip(masks, edges, strict=True):
        mask[:, edge:] = 1

    def maps(cut, places):
        part = masks[:, cut : SIDE - cut, cut : SIDE - cut].astype(np.float32)
        step = part.shape[1] // places
        pooled = part.reshape(NUM, places, step, places, step).mean(axis=(2, 4))
        return np.stack([pooled, rng.standard_normal(pooled.shape)], axis=1).astype(np.float32)

    stores = {
        "net": ({"a.none": maps(2, 7), "b.none": maps(2, 4)}, 28),
        "pixels": ({"p.none": maps(0, 16)}, 32),
    }
    for name, (taps, crop_px) in stores.items():
        one = bench.stores[name]
        made = type(one)(name, one.card.role, taps, bench.keys)
        made.card = dataclasses.replace(made.card, spec=spec(crop_px))
        bench.stores[name] = made
    del bench.stores["blank"]
    bench.labels = [None, *(encode_mask(mask) for mask in masks[1:])]

    def write_targets():
        rows = {"sample_ids": bench.ids, "splits": bench.splits, "labels": bench.labels}
        whole = Targets.from_rows("colour", "dense", ["dark", "bright"], grid=8, **rows)
        whole.where(split=["train", "val", "excluded"]).write(bench.root / "open.parquet")
        whole.where(split="test").write(bench.root / "sealed.parquet")

    monkeypatch.setattr(bench, "write_targets", write_targets)
    return bench, masks


def test_arms_are_judged_on_the_square_that_every_backbone_sees(dense):
    bench, masks = dense
    summary = bench.train()
    predictions = Predictions.read(bench.paths.predictions)
    assert predictions.spec.seen == 0.875 and predictions.spec.width == 64
    assert any("87.5% of its shorter side" in note for note in summary.notes)
    bench.manifest.write(bench.root / "samples.parquet")
    files = TaskFiles(
        bench.paths.scores,
        bench.paths.predictions,
        bench.root / "open.parquet",
        bench.root / "samples.parquet",
    )
    evidence = open_evidence("colour", files, seed=0)
    first = bench.ids.index(str(evidence.sample_ids[0]))
    np.testing.assert_array_equal(evidence.truth[0].reshape(8, 8), majority(masks[first], (8, 8), 0.875))
    values = {row["arm"]: evidence.value(row["arm"]) for row in evidence.rows()}
    for arm in ("conv@net/a.none", "conv@pixels/p.none"):
        assert values[arm] > 0.9, values
    assert values["majority"] < 0.6
    assert bench.scores()["num"]["missing"] == 1


def test_a_tap_on_whose_grid_there_is_one_class_is_left_out_and_said_so(dense):
    bench, masks = dense
    masks[:, :, :17] = 0  # most pixels of every image are dark
    for i, mask in enumerate(masks):
        if bench.labels[i] is not None:
            bench.labels[i] = encode_mask(mask)
    net = bench.stores["net"]
    made = type(net)(
        "net", net.card.role, {**net.taps, "c.none": np.zeros((NUM, 2, 1, 1), np.float32)}, bench.keys
    )
    made.card = dataclasses.replace(made.card, spec=net.card.spec)
    bench.stores["net"] = made
    summary = bench.train()
    assert any("conv@net/c.none is left out: on its grid of 1 x 1" in note for note in summary.notes)
    assert "conv@net/c.none" not in {row["arm"] for row in bench.scores()["arms"]}


def test_a_backbone_whose_view_is_unknown_is_refused(dense):
    bench, _ = dense
    store = bench.stores["pixels"]
    unknown = dataclasses.replace(store.card.spec, preprocessing="{}")
    store.card = dataclasses.replace(store.card, spec=unknown)
    with pytest.raises(
        ConfigError, match="backbone 'pixels': a dense task needs to know which part of an image"
    ):
        bench.train()


def test_a_changed_mask_refits_and_nothing_changed_does_not(dense):
    bench, masks = dense
    bench.train()
    before = bench.fits["conv"]
    bench.train()
    assert bench.fits["conv"] == before
    bench.labels[1] = encode_mask(masks[1].T.copy())
    bench.train()
    assert bench.fits["conv"] > before


def test_the_majority_of_places_counts_what_their_samples_weigh():
    samples = TaskSamples(
        task="parts",
        spec=TargetSpec("dense", ("sky", "ground"), grid=2),
        sample_ids=np.array(list("abcd")),
        splits=np.array(["train"] * 3 + ["val"]),
        groups=np.array(list("abcd")),
        keys={"image": np.zeros((4, 16), np.uint8)},
        truth=np.array([[0, 0, 0, -1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]),
        num={},
        dropped=(),
    )
    assert set(majority_scores(samples).ravel()) == {0.0}
    weighed = dataclasses.replace(samples, weight=np.array([1.0, 1.0, 3.0, np.nan]))
    assert set(majority_scores(weighed).ravel()) == {1.0}
