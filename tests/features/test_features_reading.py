"""Features over manifests, splits, tasks, subsets, taps and stores; in memory, lazily, in batches and blocks."""

import hashlib
import os
import pickle
import threading
import time

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from embedpipe.errors import ConfigError, DataError, StoreError
from embedpipe.features.features import Features
from embedpipe.manifest.kshot import k_shot_indices
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets
from embedpipe.spec import BackboneSpec, TapSpec
from embedpipe.store import FeatureStore, open_group, publish

SPEC = BackboneSpec("tiny", "a" * 32, "pillow 1", "{}", "float32", "cpu")
OTHER = BackboneSpec("other", "b" * 32, "pillow 1", "{}", "float32", "cpu")
GAP = TapSpec("layer1", "gap")
MAP = TapSpec("layer2", "none", "float32")
SHAPES = {GAP: (3,), MAP: (2, 2, 2)}
NAMES = [f"s{i:03d}" for i in range(40)]
SPLITS = ["train"] * 24 + ["val"] * 8 + ["test"] * 8


def key_of(name):
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def value(name, tap, part=0, spec=SPEC):
    rng = np.random.default_rng([*key_of(name), part, len(spec.architecture)])
    return rng.standard_normal(SHAPES[tap]).astype(tap.dtype)


def manifest_of(names, splits=None):
    return Manifest.from_rows(
        "photos",
        {"kind": "folder"},
        "image",
        sample_ids=[f"id-{name}" for name in names],
        keys=[key_of(name) for name in names],
        domain="target",
        groups=names,
        splits=splits or ["train"] * len(names),
        locators=names,
    )


@pytest.fixture
def make(tmp_path):
    """Publish a store: `make([(name, part), ...], ...)`, one growth a list."""

    def publish_store(*growths, spec=SPEC, failing=(), folder="tiny"):
        group = open_group(tmp_path / "stores", spec)
        for pairs in growths:
            pairs = [pair if isinstance(pair, tuple) else (pair, 0) for pair in pairs]
            with group.lock():
                group.recover()
                group.ensure_taps(SHAPES, shard_nbytes=192)
                keys = np.frombuffer(b"".join(key_of(name) for name, _ in pairs), np.uint8).reshape(-1, 16)
                plan = group.plan(keys, np.array([part for _, part in pairs], np.int32))
                for block in plan.blocks:
                    with group.writer(plan, block, batch=1000) as writer:
                        for segment in block.segments:
                            named = {int(row): pairs[plan.wanted_of_row[row]] for row in segment.rows}
                            bad = [
                                row for row, pair in named.items() if pair[0] in failing or pair in failing
                            ]
                            good = [row for row in named if row not in bad]
                            values = {
                                tap.name: np.stack([value(*_of(named[r], tap), spec) for r in good])
                                for tap in SHAPES
                                if good
                            }
                            writer.append(good, values, dict.fromkeys(bad, "cut short"))
                        writer.commit()
        out = tmp_path / "features" / folder
        out.parent.mkdir(exist_ok=True)
        publish(group, [tap.name for tap in SHAPES], out)
        for path in out.rglob("*"):
            os.utime(path, (1e9, 1e9)) if path.is_file() else None
        return out

    return publish_store


def _of(pair, tap):
    return pair[0], tap, pair[1]


@pytest.fixture
def store(make):
    return make(NAMES[20:], NAMES)  # rows are not in the order of ids


def expected(names, tap=GAP):
    return np.stack([value(name, tap) for name in names]).astype(np.float32)


@pytest.fixture
def targets():
    labels = [["cat", "dog", None][i % 3] for i in range(40)]
    return Targets.from_rows(
        "animal",
        "classes",
        ["cat", "dog"],
        sample_ids=[f"id-{name}" for name in NAMES],
        splits=SPLITS,
        labels=labels,
    )


LIMITS = pytest.mark.parametrize("memory_nbytes", [10**9, 64], ids=["in memory", "out of core"])


@LIMITS
def test_rows_come_in_any_order_asked_with_their_ids(store, memory_nbytes):
    features = Features.of(manifest_of(NAMES), [(store, GAP.name)], memory_nbytes=memory_nbytes)
    order = [f"id-{name}" for name in (NAMES[39], NAMES[0], NAMES[20], NAMES[0])]
    some = features.where(sample_ids=order)
    (batch,) = some.batches(10)
    assert batch.sample_ids.tolist() == order
    assert batch.X.dtype == np.float32
    np.testing.assert_array_equal(batch.X, expected([NAMES[39], NAMES[0], NAMES[20], NAMES[0]]))


def test_every_way_of_reading_gives_the_same(store):
    features = Features.of(manifest_of(NAMES), [(store, MAP.name)])
    whole = features.numpy()
    np.testing.assert_array_equal(whole, expected(NAMES, MAP))
    small = Features.of(manifest_of(NAMES), [(store, MAP.name)], memory_nbytes=64)
    assert features.in_memory and not small.in_memory
    for one in (features, small):
        np.testing.assert_array_equal(one.where(split="train").shape, (40, 2, 2, 2))
        np.testing.assert_array_equal(np.concatenate([b.X for b in one.batches(7)]), whole)
        np.testing.assert_array_equal(
            np.concatenate([b.X for b in one.block_iter(9, read_ahead=True)]), whole
        )
    lazy = features.dask(rows=6)
    assert lazy.shape == (40, 2, 2, 2) and lazy.dtype == np.float32
    np.testing.assert_array_equal(lazy.compute(scheduler="threads"), whole)
    np.testing.assert_array_equal(lazy[33, :, 1].compute(scheduler="sync"), whole[33, :, 1])


def test_two_histories_give_the_same_rows_to_the_bit(make, tmp_path):
    at_once = Features.of(manifest_of(NAMES), [(make(NAMES), GAP.name)]).numpy()
    (tmp_path / "stores").rename(tmp_path / "first")
    grown = make(NAMES[30:], NAMES[:7], NAMES)
    assert at_once.tobytes() == Features.of(manifest_of(NAMES), [(grown, GAP.name)]).numpy().tobytes()


def test_a_matrix_that_fits_is_read_once_and_shared(store, monkeypatch):
    features = Features.of(manifest_of(NAMES, SPLITS), [(store, GAP.name)])
    train = features.where(split="train").numpy()
    monkeypatch.setattr(FeatureStore, "read", None)  # from here nothing may be read
    assert np.shares_memory(features.numpy(), train)
    np.testing.assert_array_equal(features.where(split="val").numpy(), expected(NAMES[24:32]))
    with pytest.raises(ValueError, match="read-only"):
        features.numpy()[0] = 0


def test_a_matrix_beyond_the_limit_is_refused_whole_and_read_in_part(store):
    features = Features.of(manifest_of(NAMES), [(store, GAP.name)], memory_nbytes=100)
    with pytest.raises(DataError, match=r"found 4\.8e-07 GB; use batches\(\), block_iter\(\) or dask\(\)"):
        features.numpy()
    np.testing.assert_array_equal(features.take([3, 1]).numpy(), expected([NAMES[3], NAMES[1]]))


@LIMITS
def test_missing_labels_are_masked_and_never_filled(store, targets, memory_nbytes):
    manifest = manifest_of(NAMES, SPLITS)
    features = Features.of(manifest, [(store, GAP.name)], targets=targets, memory_nbytes=memory_nbytes)
    assert features.classes == ("cat", "dog")
    for batch in features.batches(16, shuffle=True, seed=3):
        number = np.array([int(name[-3:]) for name in batch.sample_ids])
        np.testing.assert_array_equal(batch.labelled, number % 3 != 2)
        np.testing.assert_array_equal(batch.y, np.where(number % 3 == 2, -1, number % 3))
    labelled = features.where(split=["train", "val"], labelled=True)
    assert len(labelled) == sum(i % 3 != 2 for i in range(32))


def test_samples_that_the_task_does_not_name_have_no_label(store):
    targets = Targets.from_rows("size", "number", (), sample_ids=["id-s001"], splits=["train"], labels=[2.5])
    features = Features.of(manifest_of(NAMES[:3]), [(store, GAP.name)], targets=targets)
    np.testing.assert_array_equal(features.y, [np.nan, 2.5, np.nan])
    assert features.labelled.tolist() == [False, True, False]


def test_a_k_shot_subset_is_the_one_that_training_draws(store, targets):
    manifest = manifest_of(NAMES, SPLITS)
    features = Features.of(manifest, [(store, GAP.name)], targets=targets)
    train = features.where(split="train", labelled=True)
    chosen = k_shot_indices(train.sample_ids.tolist(), train.y, 3, draw=2, seed=5)
    some = features.k_shot(3, draw=2, seed=5)
    assert some.sample_ids.tolist() == train.sample_ids[chosen].tolist()
    with pytest.raises(DataError, match="k_shot: expected the targets of a task of classes"):
        Features.of(manifest, [(store, GAP.name)]).k_shot(3)


def test_taps_and_stores_are_joined_by_sample(store, make):
    other = make(NAMES[::-1], spec=OTHER, folder="other")
    features = Features.of(manifest_of(NAMES), [(store, GAP.name), (other, MAP.name), (store, MAP.name)])
    X_ND = features.numpy()
    assert X_ND.shape == (40, 3 + 8 + 8)
    np.testing.assert_array_equal(X_ND[:, :3], expected(NAMES))
    theirs = np.stack([value(name, MAP, spec=OTHER) for name in NAMES]).reshape(40, -1)
    np.testing.assert_array_equal(X_ND[:, 3:11], theirs)
    np.testing.assert_array_equal(X_ND[:, 11:], expected(NAMES, MAP).reshape(40, -1))


def test_samples_that_a_store_lacks_are_named_or_left_out_and_listed(store, make):
    fewer = make(NAMES[:30], spec=OTHER, folder="other", failing=("s004",))
    columns = [(store, GAP.name), (fewer, GAP.name)]
    with pytest.raises(
        DataError, match=r"features of 40 samples, found none for 11 \(id-s004, id-s030, id-s031, …\)"
    ):
        Features.of(manifest_of(NAMES), columns)
    features = Features.of(manifest_of(NAMES), columns, absent="drop")
    assert len(features) == 29 and not np.isnan(features.numpy()).any()
    assert features.absent == ("id-s004", *(f"id-{name}" for name in NAMES[30:]))


@LIMITS
def test_windows_of_a_sample_are_averaged_or_kept(make, memory_nbytes):
    windows = {"a": 3, "b": 1, "c": 2}
    pairs = [(name, part) for part in range(3) for name, num in windows.items() if part < num]
    path = make(pairs[::-1], folder="windows")
    manifest = manifest_of(["a", "b", "c"])
    mean = Features.of(manifest, [(path, GAP.name)], memory_nbytes=memory_nbytes)
    every = {n: np.stack([value(n, GAP, p) for p in range(num)]) for n, num in windows.items()}
    want = np.stack([every[name].astype(np.float64).mean(0) for name in "abc"]).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([b.X for b in mean.batches(2)]), want)
    kept = Features.of(manifest, [(path, GAP.name)], parts="all", memory_nbytes=memory_nbytes)
    assert kept.sample_ids.tolist() == ["id-a"] * 3 + ["id-b"] + ["id-c"] * 2
    assert kept.parts.tolist() == [0, 1, 2, 0, 0, 1]
    np.testing.assert_array_equal(
        np.concatenate([b.X for b in kept.batches(4)]), np.concatenate([every[n] for n in "abc"])
    )
    assert kept.where(sample_ids=["id-c", "id-a"]).parts.tolist() == [0, 1, 0, 1, 2]
    largest = Features.of(manifest, [(path, GAP.name)], parts="max", memory_nbytes=memory_nbytes)
    np.testing.assert_array_equal(largest.take([2, 0]).numpy(), [every["c"].max(0), every["a"].max(0)])


def test_windows_have_the_label_split_and_draw_of_their_sample(make):
    pairs = [(name, part) for name in NAMES for part in range(1 + int(name[1:]) % 3)]
    labels = [["cat", "dog"][i % 2] for i in range(40)]
    task = Targets.from_rows(
        "animal",
        "classes",
        ["cat", "dog"],
        sample_ids=[f"id-{n}" for n in NAMES],
        splits=SPLITS,
        labels=labels,
    )
    features = Features.of(
        manifest_of(NAMES, SPLITS), [(make(pairs), GAP.name)], targets=task, parts="all", memory_nbytes=64
    )
    assert len(features) == len(pairs)
    number = np.array([int(name[-3:]) for name in features.sample_ids])
    np.testing.assert_array_equal(features.y, number % 2)
    assert (features.splits == np.array(SPLITS)[number]).all()
    drawn = features.k_shot(2, seed=1)
    every = features.where(sample_ids=np.unique(drawn.sample_ids).tolist())
    assert len(np.unique(drawn.sample_ids)) == 4 and len(drawn) == len(every)
    for batch in features.batches(7, shuffle="chunks", seed=2):
        at = [
            (str(n)[3:], int(p))
            for n, p in zip(batch.sample_ids, features.parts[batch.positions], strict=True)
        ]
        np.testing.assert_array_equal(batch.X, [value(n, GAP, p).astype(np.float32) for n, p in at])


def test_windows_of_one_backbone_are_averaged_beside_the_rows_of_another(make):
    windows = make([(name, part) for name in NAMES for part in range(2)], folder="windows")
    other = make(NAMES[::-1], spec=OTHER, folder="other")
    X_ND = Features.of(manifest_of(NAMES), [(windows, GAP.name), (other, GAP.name)]).numpy()
    mean = [np.mean([value(n, GAP, p).astype(np.float64) for p in range(2)], axis=0) for n in NAMES]
    np.testing.assert_array_equal(X_ND[:, :3], np.float32(mean))
    np.testing.assert_array_equal(X_ND[:, 3:], [value(n, GAP, spec=OTHER).astype(np.float32) for n in NAMES])


def test_a_sample_that_lacks_a_window_has_no_mean(make):
    path = make([("a", 0), ("b", 0), ("b", 1), ("a", 1)], failing=(("b", 1),))
    manifest = manifest_of(["a", "b"])
    with pytest.raises(DataError, match="expected features of 2 samples, found none for 1 \\(id-b\\)"):
        Features.of(manifest, [(path, GAP.name)])
    assert Features.of(manifest, [(path, GAP.name)], parts="max", absent="drop").absent == ("id-b",)
    kept = Features.of(manifest, [(path, GAP.name)], parts="all")
    assert list(zip(kept.sample_ids, kept.parts, strict=True)) == [("id-a", 0), ("id-a", 1), ("id-b", 0)]


def test_ids_of_one_content_have_the_same_features(store):
    manifest = Manifest.from_rows(
        "photos", {}, "image", sample_ids=["x", "y"], keys=[key_of("s007")] * 2, domain="target",
        groups=["g", "g"], splits=["train", "train"], locators=["x", "y"],
    )  # fmt: skip
    X = Features.of(manifest, [(store, GAP.name)]).numpy()
    np.testing.assert_array_equal(X, expected(["s007", "s007"]))


@pytest.mark.parametrize("shuffle", [True, "global", "chunks"])
def test_a_shuffled_epoch_has_every_sample_once_in_an_order_of_its_seed(store, shuffle):
    orders = []
    for memory_nbytes in (10**9, 64):
        features = Features.of(manifest_of(NAMES), [(store, GAP.name)], memory_nbytes=memory_nbytes)
        for seed in (0, 0, 1):
            batches = list(features.batches(9, shuffle=shuffle, seed=seed))
            assert [len(b.X) for b in batches] == [9, 9, 9, 9, 4]
            ids = np.concatenate([b.sample_ids for b in batches])
            names = [one.removeprefix("id-") for one in ids]
            np.testing.assert_array_equal(np.concatenate([b.X for b in batches]), expected(names))
            assert sorted(names) == NAMES != names
            orders.append(names)
    assert orders[0] == orders[1] == orders[3] != orders[2]
    assert len(list(features.batches(9, shuffle=shuffle, drop_last=True))) == 4


def test_a_global_shuffle_does_not_depend_on_how_the_store_grew(make, tmp_path):
    first = Features.of(manifest_of(NAMES), [(make(NAMES), GAP.name)], memory_nbytes=64)
    one = [b.X.tobytes() for b in first.batches(8, shuffle=True, seed=4)]
    (tmp_path / "stores").rename(tmp_path / "first")
    other = Features.of(manifest_of(NAMES), [(make(NAMES[9:], NAMES), GAP.name)], memory_nbytes=64)
    assert one == [b.X.tobytes() for b in other.batches(8, shuffle=True, seed=4)]


def test_damage_met_by_the_thread_that_reads_ahead_is_raised_to_who_asked(store):
    features = Features.of(manifest_of(NAMES), [(store, GAP.name)], memory_nbytes=64)
    (store / GAP.name / "c" / "1" / "0").unlink()
    with pytest.raises(StoreError, match="c/1/0: damaged: the file is missing"):
        list(features.batches(4, read_ahead=True))


def test_an_epoch_that_is_left_early_leaves_no_thread(store):
    features = Features.of(manifest_of(NAMES), [(store, GAP.name)], memory_nbytes=64)
    batches = features.batches(1, read_ahead=True)
    next(batches)
    batches.close()
    deadline = time.monotonic() + 10
    while any(t.name == "embedpipe-read-ahead" for t in threading.enumerate()):
        assert time.monotonic() < deadline


def test_features_travel_to_other_processes_without_their_matrix(store, targets):
    features = Features.of(manifest_of(NAMES, SPLITS), [(store, GAP.name)], targets=targets)
    features.numpy()
    sent = pickle.dumps(features)
    assert len(sent) < len(pickle.dumps(Features.of(manifest_of(NAMES, SPLITS), [(store, GAP.name)]))) + 3000
    np.testing.assert_array_equal(pickle.loads(sent).numpy(), features.numpy())


def test_stored_dtype_is_kept_where_asked(store):
    features = Features.of(manifest_of(NAMES), [(store, GAP.name)], dtype=None)
    assert features.dtype == np.float16 == features.numpy().dtype
    both = Features.of(manifest_of(NAMES), [(store, GAP.name), (store, MAP.name)], dtype=None)
    assert both.dtype == np.float32


def test_mistakes_are_named(store):
    with pytest.raises(ConfigError, match=r"no tap 'layer1\.gp' \(did you mean 'layer1\.gap'\?\)"):
        Features.of(manifest_of(NAMES), [(store, "layer1.gp")])
    features = Features.of(manifest_of(NAMES), [(store, GAP.name)])
    with pytest.raises(DataError, match=r"no features of sample 'id-s0001' \(did you mean"):
        features.where(sample_ids=["id-s0001", "id-s002"])
    with pytest.raises(ValueError, match="shuffle: expected global, chunks, True or False, found 'rows'"):
        features.batches(3, shuffle="rows")


def streamed_ridge(features, alpha):
    """Weights and intercept from one pass: sums and Gram matrix a block, in float64."""
    num, D = 0, features.shape[1]
    gram, cross, mean_x, mean_y = np.zeros((D, D)), np.zeros(D), np.zeros(D), 0.0
    for block in features.block_iter(rows=7):
        X = block.X.astype(np.float64)
        gram += X.T @ X
        cross += X.T @ block.y
        mean_x += X.sum(0)
        mean_y += block.y.sum()
        num += len(X)
    mean_x, mean_y = mean_x / num, mean_y / num
    w = np.linalg.solve(
        gram - num * np.outer(mean_x, mean_x) + alpha * np.eye(D), cross - num * mean_x * mean_y
    )
    return w, mean_y - mean_x @ w


def test_ridge_from_a_streamed_gram_matrix_is_ridge_in_memory(store):
    numbers = Targets.from_rows(
        "n", "number", (), sample_ids=[f"id-{n}" for n in NAMES], splits=["train"] * 40,
        labels=np.random.default_rng(0).standard_normal(40).tolist(),
    )  # fmt: skip
    columns = [(store, GAP.name), (store, MAP.name)]
    features = Features.of(manifest_of(NAMES), columns, targets=numbers, memory_nbytes=64)
    weights, intercept = streamed_ridge(features, alpha=0.5)
    whole = Features.of(manifest_of(NAMES), columns, targets=numbers)
    reference = Ridge(alpha=0.5).fit(whole.numpy().astype(np.float64), whole.y)
    np.testing.assert_allclose(weights, reference.coef_, atol=1e-8)
    assert abs(intercept - reference.intercept_) < 1e-8


def test_a_pass_of_gradient_steps_out_of_core_equals_the_one_in_memory_to_the_bit(store, targets):
    weights = []
    for memory_nbytes in (10**9, 64):
        features = Features.of(
            manifest_of(NAMES, SPLITS), [(store, GAP.name)], targets=targets, memory_nbytes=memory_nbytes
        ).where(split="train", labelled=True)
        w = np.zeros(3, np.float32)
        for epoch in range(3):
            for batch in features.batches(5, shuffle=True, seed=epoch):
                p = 1 / (1 + np.exp(-batch.X @ w))
                w -= np.float32(0.1) * (batch.X.T @ (p - batch.y).astype(np.float32))
        weights.append(w.tobytes())
    assert weights[0] == weights[1]
