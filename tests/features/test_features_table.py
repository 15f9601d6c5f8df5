"""Features of a manifest's samples, read out of a published store."""

import dataclasses
import hashlib

import numpy as np
import pytest

from embedpipe.errors import ConfigError, DataError, SpecMismatch
from embedpipe.features.card import read_card
from embedpipe.features.table import load_features, open_features
from embedpipe.spec import BackboneSpec, TapSpec

NAMES = ["d", "a", "c", "b"]


def feature(name, shape, dtype):
    """As the fixture stores it."""
    rng = np.random.default_rng(list(hashlib.blake2b(name.encode(), digest_size=16).digest()))
    return rng.standard_normal(shape).astype(dtype).astype(np.float32)


def test_rows_come_in_the_order_of_the_manifest(make_store, make_manifest):
    table = load_features(make_store(NAMES), "layer1.gap", make_manifest(NAMES))
    assert table.sample_ids.tolist() == ["a", "b", "c", "d"]
    assert table.present.all()
    assert table.X.dtype == np.float32
    np.testing.assert_array_equal(table.X, [feature(name, 3, "float16") for name in "abcd"])


def test_two_histories_of_growth_read_alike(make_store, make_manifest, tmp_path):
    at_once = load_features(make_store(NAMES), "layer2.none.float32", make_manifest(NAMES)).X
    (tmp_path / "stores").rename(tmp_path / "first")
    in_steps = load_features(
        make_store(["c"], ["b", "a"], NAMES), "layer2.none.float32", make_manifest(NAMES)
    ).X
    assert at_once.shape == (4, 2, 2, 2)
    assert at_once.tobytes() == in_steps.tobytes()


def test_samples_without_features_are_masked_and_never_filled(make_store, make_manifest):
    store = make_store(["a", "b"])
    table = load_features(store, "layer1.gap", make_manifest(["a", "b", "unseen"]))
    assert table.present.tolist() == [True, True, False]
    assert np.isnan(table.X[2]).all()


def test_a_recorded_hole_is_not_present(make_store, make_manifest):
    table = load_features(
        make_store(["a", "b", "c"], failing=("b",)), "layer1.gap", make_manifest(["a", "b", "c"])
    )
    assert table.present.tolist() == [True, False, True]


def test_an_unknown_tap_names_the_nearest(make_store, make_manifest):
    with pytest.raises(ConfigError, match=r"no tap 'layer1\.gp' \(did you mean 'layer1\.gap'\?\)"):
        load_features(make_store(["a"]), "layer1.gp", make_manifest(["a"]))


def test_absent_samples_cannot_be_read_by_accident(make_store, make_manifest):
    features = open_features(make_store(["a"]))
    with pytest.raises(DataError, match="expected features of 2 samples, found none for 1"):
        features.read("layer1.gap", make_manifest(["a", "z"]).keys)


def test_a_store_of_another_spec_than_its_card_names_the_field(make_store):
    spec = BackboneSpec("tiny", "b" * 32, "pillow 1", "{}", "float32", "cpu")
    store = make_store(["a"], changed={"spec": dataclasses.asdict(spec)})
    with pytest.raises(
        SpecMismatch, match=r"expected weights_digest bbbb.*found aaaa.*run `embedpipe extract tiny`"
    ):
        open_features(store)


def test_taps_are_in_order_of_depth(make_store):
    assert open_features(make_store(["a"])).taps == ("layer1.gap", TapSpec("layer2", "none", "float32").name)


def test_a_store_without_a_card_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match=r"card\.json: no such file; run `embedpipe extract r50`"):
        read_card(tmp_path / "r50")


def test_a_card_that_is_cut_short_says_so(tmp_path):
    (tmp_path / "card.json").write_text('{"name": "r50"}')
    with pytest.raises(DataError, match="expected the card of a store"):
        read_card(tmp_path)
