"""Samples that have an image and a text: each backbone reads its own, and one head may learn from both."""

import hashlib

import numpy as np
import pytest

from embedpipe.errors import ConfigError
from embedpipe.evaluate.predictions import Predictions

BOTH = {"both": {"family": "ridge", "alpha": [1.0], "join": [["net/b.*", "words/*"]]}}


@pytest.fixture
def captioned(make_bench):
    """The bench with a text for each image; of the texts there are forty, each of several images."""

    def make(**fields):
        bench = make_bench(baselines=(), compare={"k_shot": ["all"]}, **fields)
        captions = [f"text {i % 40}" for i in range(bench.num)]
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in captions]
        bench.also = {"text": (keys, captions)}
        rng = np.random.default_rng(1)
        bench.of_text = rng.standard_normal((40, 5)).astype(np.float32)
        features = type(bench.stores["net"])
        bench.stores["words"] = features("words", "transferred", {"c.cls": bench.of_text}, keys[:40], "text")
        return bench

    return make


def predictions(bench, arm):
    found = Predictions.read(bench.paths.predictions).scores(arm)
    return found.sample_ids.tolist(), found.scores


def test_one_head_joins_an_image_and_a_text_by_id(captioned):
    bench = captioned(heads=BOTH)
    bench.train()
    (arm,) = {row["arm"] for row in bench.scores()["arms"]}
    assert arm == "both@net+words/b.gap+c.cls"
    ids, scores = predictions(bench, arm)

    beside = np.hstack([bench.stores["net"].taps["b.gap"], bench.of_text[np.arange(bench.num) % 40]])
    features = type(bench.stores["net"])
    bench.stores = {"all": features("all", "transferred", {"b.gap": beside}, bench.keys)}
    bench.heads = {"ridge": {"alpha": [1.0]}}
    bench.train()
    reference_ids, reference = predictions(bench, "ridge@all/b.gap")
    assert ids == reference_ids
    np.testing.assert_array_equal(scores, reference)


def test_each_backbone_is_trained_on_alone_too(captioned):
    bench = captioned(heads={"ridge": {"alpha": [1.0]}})
    summary = bench.train()
    assert {row["backbone"] for row in bench.scores()["arms"]} == {"net", "blank", "pixels", "words"}
    assert not summary.notes


def test_a_sample_without_text_features_leaves_every_arm(captioned):
    bench = captioned(heads=BOTH)
    bench.stores["words"].absent = {bytes(bench.also["text"][0][3])}
    (note,) = bench.train().notes
    assert "3 samples left out of every arm: no features in 'words' (s003, s043, s083)" in note


def test_backbones_of_texts_are_left_out_of_a_task_on_images(captioned):
    bench = captioned(heads={"ridge": {"alpha": [1.0]}})
    bench.also = {}
    assert "left out, since photos has images: backbones 'words' (texts)" in bench.train().notes
    assert "words" not in {row["backbone"] for row in bench.scores()["arms"]}


def test_a_text_backbone_that_a_task_on_images_names_is_refused(captioned):
    bench = captioned()
    bench.also = {}
    with pytest.raises(
        ConfigError,
        match=r"tasks\.colour\.backbones: photos has images: expected backbones that embed those, found 'words' "
        r"\(texts\); name others, or put the task on another data set",
    ):
        bench.train(task_backbones=["words"])
