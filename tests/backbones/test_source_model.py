import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from embedpipe.backbones import SourceModelOptions
from embedpipe.backbones.source_model import _with_interval, shift_by_a_pixel, train_source
from embedpipe.errors import ConfigError, DataError
from embedpipe.manifest.table import Manifest

CLASSES = ("bar", "dash", "dot")


class Shapes:
    """Bars, dashes and dots with noise, 8×8, three classes in turn."""

    def read(self, locator):
        number = int(locator)
        rng = np.random.default_rng(number)
        image = rng.integers(0, 60, (8, 8))
        at = rng.integers(2, 6)
        if number % 3 == 0:
            image[1:7, at] = 255
        elif number % 3 == 1:
            image[at, 1:7] = 255
        else:
            image[at - 1 : at + 1, at - 1 : at + 1] = 255
        return Image.fromarray(image.astype(np.uint8))


@pytest.fixture(scope="module")
def manifest():
    ids = [f"{i:04d}" for i in range(420)]
    return Manifest.from_rows(
        "shapes", {}, "image", sample_ids=ids, keys=[i.encode().rjust(16) for i in ids], domain="source",
        groups=ids, splits=["val" if i % 7 == 0 else "test" if i % 7 == 1 else "train" for i in range(420)],
        locators=ids,
    )  # fmt: skip


@pytest.fixture(scope="module")
def labels(manifest):
    names = [CLASSES[int(i) % 3] for i in manifest.locators]
    return pa.table({"sample_id": manifest.sample_ids.tolist(), "shape": names})


def options(**changes):
    return SourceModelOptions(on="shapes", labels="shape", width=8, epochs=3, batch=32, **changes)


@pytest.fixture(scope="module")
def trained(manifest, labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "S"
    return out, train_source(options(), manifest, labels, Shapes(), out)


def test_a_model_of_the_target_domain_is_refused(manifest, labels, tmp_path):
    domain = manifest.table.schema.get_field_index("domain")
    target = replace(
        manifest, table=manifest.table.set_column(domain, "domain", pa.array(["target"] * len(manifest)))
    )
    with pytest.raises(
        DataError, match="expected a data set of domain source, found samples of domain target"
    ):
        train_source(options(), target, labels, Shapes(), tmp_path)


def test_two_runs_write_the_same_bytes(trained, manifest, labels, tmp_path):
    out, card = trained
    again = train_source(options(), manifest, labels, Shapes(), tmp_path)
    assert again["weights_digest"] == card["weights_digest"]
    for name in ("weights.safetensors", "card.json", "history.csv"):
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()


def test_another_seed_gives_other_weights(trained, manifest, labels, tmp_path):
    other = train_source(options(seed=1), manifest, labels, Shapes(), tmp_path)
    assert other["weights_digest"] != trained[1]["weights_digest"]


def test_the_card_says_what_was_trained_and_how_well(trained):
    out, card = trained
    assert json.loads((out / "card.json").read_text()) == card
    assert card["classes"] == list(CLASSES)
    assert card["num_samples"] == {"train": 300, "val": 60, "test": 60}
    assert card["accuracy"]["val"]["value"] > 0.9
    assert (
        card["accuracy"]["test"]["ci_low"]
        <= card["accuracy"]["test"]["value"]
        <= card["accuracy"]["test"]["ci_high"]
    )
    assert not [key for key in card if "second" in key or "time" in key]


def test_history_is_flat_and_its_best_epoch_is_the_cards(trained):
    out, card = trained
    header, *rows = (out / "history.csv").read_text().splitlines()
    assert header == "epoch,train_loss,val_accuracy"
    accuracies = [float(row.split(",")[2]) for row in rows]
    assert len(rows) == 3
    assert accuracies[card["best_epoch"] - 1] == max(accuracies) == card["accuracy"]["val"]["value"]


def test_a_backbone_loads_what_was_trained(trained, make, monkeypatch):
    out, card = trained
    from embedpipe.backbones import BackboneOptions, load_backbone

    raw = BackboneOptions(model="glyphnet", weights="source:S", taps={"blocks": ["gap"]})
    backbone = load_backbone("b", raw, out, source_dir=out.parent)
    assert backbone.weights_digest == card["weights_digest"]
    assert (backbone.role, backbone.architecture) == ("transferred", "glyphnet:width=8,image_px=8")
    assert json.loads(backbone.preprocessing) == card["preprocessing"]
    wrong = raw.model_copy(update={"width": 9})
    with pytest.raises(
        ConfigError, match=r"backbones\.b\.width: source model 'S' has 8, found 9; leave the key out"
    ):
        load_backbone("b", wrong, out, source_dir=out.parent)


def test_samples_without_a_label_are_left_out(manifest, labels, tmp_path):
    names = labels["shape"].to_pylist()
    names[:42] = [None] * 42
    fewer = pa.table({"sample_id": labels["sample_id"], "shape": pa.array(names, pa.string())})
    card = train_source(options(), manifest, fewer, Shapes(), tmp_path)
    assert sum(card["num_samples"].values()) == 420 - 42


def test_an_absent_label_column_is_answered_with_the_near_one(manifest, labels, tmp_path):
    wrong = SourceModelOptions(on="shapes", labels="shapes")
    with pytest.raises(
        DataError, match=r"no label column 'shapes' \(did you mean 'shape'\?\); columns: shape"
    ):
        train_source(wrong, manifest, labels, Shapes(), tmp_path)


def test_one_class_alone_cannot_be_learnt(manifest, labels, tmp_path):
    same = pa.table({"sample_id": labels["sample_id"], "shape": ["dot"] * 420})
    with pytest.raises(
        DataError, match=r"expected at least two classes of 'shape' in the training split, found 1"
    ):
        train_source(options(), manifest, same, Shapes(), tmp_path)


def test_without_validation_samples_it_says_which_option_to_raise(manifest, labels, tmp_path):
    with pytest.raises(DataError, match=r"validation split, found none; raise datasets\.shapes\.split\.val"):
        train_source(options(), manifest.where(split=["train", "test"]), labels, Shapes(), tmp_path)


def test_shifts_move_whole_images_by_at_most_a_pixel():
    x = torch.zeros(200, 1, 8, 8)
    x[:, 0, 3, 4] = 1.0
    moved = shift_by_a_pixel(x, torch.Generator().manual_seed(0))
    places = moved.flatten(1).argmax(dim=1)
    rows, columns = places // 8, places % 8
    assert torch.equal(moved.flatten(1).sum(dim=1), torch.ones(200))
    assert set(rows.tolist()) == {2, 3, 4} and set(columns.tolist()) == {3, 4, 5}
    assert len(set(places.tolist())) == 9


def test_the_interval_is_wilsons():
    from scipy.stats import binomtest

    found = _with_interval(37, 50)
    expected = binomtest(37, 50).proportion_ci(method="wilson")
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.slow
def test_letters_transfer_to_digits(tmp_path):
    """Five labels a class: at least 5 points over pixels and 10 over the untrained network, at one tap."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from embedpipe.backbones import BackboneOptions, load_backbone
    from embedpipe.sources.base import open_source

    source = open_source({"kind": "glyphs"}, tmp_path)
    scanned = list(source.scan({}))
    ids = [item.sample_id for item in scanned]
    letters = Manifest.from_rows(
        "letters", {}, "image", sample_ids=ids, keys=[item.key for item in scanned], domain="source", groups=ids,
        splits=["val" if i % 7 == 0 else "train" for i in range(len(ids))],
        locators=[item.locator for item in scanned],
    )  # fmt: skip
    table = pa.table({"sample_id": ids, "letter": [item.labels["letter"] for item in scanned]})
    train_source(SourceModelOptions(on="letters", labels="letter"), letters, table, source, tmp_path / "S")
    digits = load_digits()
    images = [Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)) for image in digits.images]

    def accuracies(**raw):
        backbone = load_backbone("b", BackboneOptions(**raw), tmp_path, source_dir=tmp_path)
        x = torch.stack([backbone.preprocess(image) for image in images])
        (features,) = backbone.forward(backbone.tap_specs())(x).values()
        out = []
        for draw in range(10):
            rng = np.random.default_rng(draw)
            few = np.concatenate([rng.permutation(np.flatnonzero(digits.target == c))[:5] for c in range(10)])
            rest = np.setdiff1d(np.arange(len(images)), few)
            head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            head.fit(features[few].numpy(), digits.target[few])
            out.append(100 * head.score(features[rest].numpy(), digits.target[rest]))
        return np.array(out)

    transferred = accuracies(model="glyphnet", weights="source:S", taps={"block3": ["grid:2"]})
    random = accuracies(model="glyphnet", weights="random:0", taps={"block3": ["grid:2"]})
    pixels = accuracies(model="pixels", taps={"pixels": ["flatten"]})
    assert (transferred - pixels).mean() >= 5 and (transferred - pixels).min() > 0
    assert (transferred - random).mean() >= 10 and (transferred - random).min() > 0
