"""The predictions table: one shape for every arm, byte for byte the same for the same contents."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedpipe.errors import DataError
from embedpipe.evaluate.predictions import ArmScores, Predictions

IDS = np.array(["s3", "s1", "s2", "s0"])
SPLITS = np.array(["val", "test", "val", "test"])


def arm(name="logistic@net/a.gap", k_shot=0, draws=1, seed=0, ids=IDS, splits=SPLITS):
    scores = np.random.default_rng(seed).dirichlet([1, 1, 1], (draws, len(ids))).astype(np.float32)
    return ArmScores(name, k_shot, ids, splits, scores)


def table(*arms):
    return Predictions.from_arms("digit", "classes", ("a", "b", "c"), arms)


def test_what_is_read_is_what_was_written(tmp_path):
    written = arm(k_shot=5, draws=3)
    table(arm(), written).write(tmp_path / "p.parquet")
    found = Predictions.read(tmp_path / "p.parquet")
    assert (found.task, found.kind, found.classes) == ("digit", "classes", ("a", "b", "c"))
    assert found.arms() == [(written.arm, 0), (written.arm, 5)]
    scores = found.scores(written.arm, 5)
    assert scores.num_draws == 3
    np.testing.assert_array_equal(scores.at(IDS), written.scores)


def test_rows_are_sorted_and_hold_no_targets(tmp_path):
    table(arm(k_shot=5, draws=2)).write(tmp_path / "p.parquet")
    found = pq.read_table(tmp_path / "p.parquet")
    assert found.column_names == ["task", "arm", "k_shot", "draw", "sample_id", "split", "scores"]
    assert found["sample_id"].to_pylist()[:4] == ["s0", "s1", "s2", "s3"]
    assert found["draw"].to_pylist() == [0] * 4 + [1] * 4


def test_bytes_do_not_depend_on_the_order_in_which_arms_come(tmp_path):
    first, second = arm("a@b/c", seed=1), arm("d@b/c", seed=2, k_shot=5, draws=2)
    table(first, second).write(tmp_path / "1.parquet")
    table(second, first).write(tmp_path / "2.parquet")
    Predictions.read(tmp_path / "1.parquet").write(tmp_path / "3.parquet")
    contents = [(tmp_path / f"{i}.parquet").read_bytes() for i in (1, 2, 3)]
    assert contents[0] == contents[1] == contents[2]


def test_a_digest_changes_with_any_score_and_with_nothing_else(tmp_path):
    one = arm()
    nudged = ArmScores(one.arm, 0, IDS, SPLITS, np.nextafter(one.scores, np.float32(1)))
    assert table(one, arm("z@b/c", seed=9)).digest(one.arm) == table(one).digest(one.arm)
    assert table(one).digest(one.arm) != table(nudged).digest(one.arm)


def test_an_unknown_arm_names_the_nearest():
    with pytest.raises(
        DataError, match=r"'logistc@net/a\.gap' is not among.*did you mean 'logistic@net/a\.gap'"
    ):
        table(arm()).scores("logistc@net/a.gap")


def test_an_unknown_k_shot_lists_those_there_are():
    with pytest.raises(DataError, match="has no k_shot 20; it has all, 5"):
        table(arm(), arm(k_shot=5)).scores(arm().arm, 20)


def test_a_sample_without_prediction_is_an_error_that_names_it():
    with pytest.raises(DataError, match="expected a prediction for 2 samples, found none for 1: s9"):
        arm().at(["s1", "s9"])


def test_one_split_can_be_taken_out():
    kept = table(arm()).scores(arm().arm).of_split("test")
    assert kept.sample_ids.tolist() == ["s0", "s1"]


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "p.parquet").write_text("not a table")
    with pytest.raises(DataError, match="expected a Parquet file"):
        Predictions.read(tmp_path / "p.parquet")
