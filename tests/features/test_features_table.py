"""Features of a manifest's samples, read out of a published store."""

import dataclasses
import hashlib

import numpy as np
import pytest

from embedpipe.errors import ConfigError, DataError, SpecMismatch
from embedpipe.features.card import read_card
from embedpipe.features.table import open_features
from embedpipe.spec import BackboneSpec, TapSpec

from .conftest import feature as stored

NAMES = ["d", "a", "c", "b"]


def feature(name, shape, dtype):
    """As the fixture stores it."""
    rng = np.random.default_rng(list(hashlib.blake2b(name.encode(), digest_size=16).digest()))
    return rng.standard_normal(shape).astype(dtype).astype(np.float32)


def test_rows_come_in_the_order_of_the_manifest(make_store, make_manifest):
    features, manifest = open_features(make_store(NAMES)), make_manifest(NAMES)
    assert manifest.sample_ids.tolist() == ["a", "b", "c", "d"]
    assert features.present(manifest.keys).all()
    found = features.read("layer1.gap", manifest.keys)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [feature(name, 3, "float16") for name in "abcd"])


def test_two_histories_of_growth_read_alike(make_store, make_manifest, tmp_path):
    keys = make_manifest(NAMES).keys
    at_once = open_features(make_store(NAMES)).read("layer2.none.float32", keys)
    (tmp_path / "stores").rename(tmp_path / "first")
    in_steps = open_features(make_store(["c"], ["b", "a"], NAMES)).read("layer2.none.float32", keys)
    assert at_once.shape == (4, 2, 2, 2)
    assert at_once.tobytes() == in_steps.tobytes()


def test_samples_without_features_are_not_present(make_store, make_manifest):
    features = open_features(make_store(["a", "b"]))
    assert features.present(make_manifest(["a", "b", "unseen"]).keys).tolist() == [True, True, False]


def test_a_recorded_hole_is_not_present(make_store, make_manifest):
    features = open_features(make_store(["a", "b", "c"], failing=("b",)))
    assert features.present(make_manifest(["a", "b", "c"]).keys).tolist() == [True, False, True]


def test_windows_are_averaged_and_a_sample_that_lacks_one_is_not_present(make_store, make_manifest):
    windows = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2), ("c", 0), ("c", 1)]
    features = open_features(make_store(windows, failing=(("c", 1),)))
    assert features.present(make_manifest(["a", "b", "c", "z"]).keys).tolist() == [True, True, False, False]
    keys = make_manifest(["a", "b"]).keys
    found = features.read("layer1.gap", keys)
    tap = TapSpec("layer1", "gap")
    every = [[stored(name, tap, part) for part in range(n)] for name, n in (("a", 2), ("b", 3))]
    np.testing.assert_array_equal(found, np.float32([np.mean(np.float64(one), axis=0) for one in every]))
    rows = features.rows(
        "layer1.gap", keys, cut=lambda shape: [slice(0, 1), slice(1, 2)], mapped_nbytes=1 << 20
    )
    np.testing.assert_array_equal(np.concatenate([X for _, X in rows.blocks()]), found)


def test_an_unknown_tap_names_the_nearest(make_store, make_manifest):
    with pytest.raises(ConfigError, match=r"no tap 'layer1\.gp' \(did you mean 'layer1\.gap'\?\)"):
        open_features(make_store(["a"])).read("layer1.gp", make_manifest(["a"]).keys)


def test_absent_samples_cannot_be_read_by_accident(make_store, make_manifest):
    features = open_features(make_store(["a"]))
    with pytest.raises(DataError, match="expected features of 2 samples, found them for 1"):
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
