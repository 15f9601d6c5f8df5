"""Folds of the training samples choose: validation labels change nothing, and the figures are those of refits."""

import json

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedpipe.errors import DataError
from embedpipe.evaluate.predictions import Predictions
from embedpipe.heads.base import group_codes
from embedpipe.heads.held_out import folds_of_rows

HEADS = {
    "ridge": {"alpha": [1.0, 1e4]},
    "mlp": {"hidden": [2, 8], "epochs": 8, "patience": 2, "taps": ["b.gap"], "backbones": ["net"]},
}


@pytest.fixture
def folded(make_bench):
    return make_bench(heads=HEADS, select={"on": "folds"}, compare={"k_shot": ["all"], "draws": 2})


def rows_of(bench):
    about = json.loads(bench.paths.scores.read_text())
    assert about["on"] == "folds"
    return {row["arm"]: row for row in about["arms"] if row["role"] != "none"}


def test_validation_labels_change_no_fit_and_no_choice(folded):
    folded.train()
    before = rows_of(folded)
    said = Predictions.read(folded.paths.predictions)
    for place, split in enumerate(folded.splits):
        if split == "val":
            folded.labels[place] = folded.classes[place % 3]
    folded.train()
    after = rows_of(folded)
    assert any(
        row["candidates"] != after[arm]["candidates"] for arm, row in before.items()
    )  # they are judged
    for arm, row in before.items():
        assert row["params"] == after[arm]["params"]
        # sums of a perceptron may round another way where its arrays lie elsewhere in memory
        assert row["inner"] == pytest.approx(after[arm]["inner"], abs=1e-6)
        now = Predictions.read(folded.paths.predictions).scores(arm).of_split("test")
        np.testing.assert_allclose(now.scores, said.scores(arm).of_split("test").scores, atol=1e-5)


def test_figures_of_folds_equal_refits_without_each_fold(folded):
    folded.train()
    row = rows_of(folded)["ridge@net/b.gap"]
    train = [place for place, split in enumerate(folded.splits) if split == "train"]
    X = folded.stores["net"].taps["b.gap"][train]
    codes = np.array([folded.classes.index(folded.labels[place]) for place in train])
    folds = folds_of_rows(5, len(train), codes, None, 0)
    for candidate in row["candidates"]:
        predicted = np.empty(len(train), int)
        for fold in range(5):
            reference = make_pipeline(StandardScaler(), RidgeClassifier(alpha=candidate["params"]["alpha"]))
            reference.fit(X[folds != fold].astype(float), codes[folds != fold])
            predicted[folds == fold] = reference.predict(X[folds == fold].astype(float))
        wanted = balanced_accuracy_score(codes, predicted)
        assert candidate["inner"]["balanced_accuracy"] == pytest.approx(wanted, abs=1e-12)
    best = max(row["candidates"], key=lambda one: one["inner"]["balanced_accuracy"])
    assert row["params"] == best["params"]


def test_a_second_run_recalls_and_another_choice_refits(folded):
    first = folded.train()
    assert folded.train().num_recalled == first.num_fitted
    folded.groups = [folded.ids[3], *folded.ids[1:]]
    assert folded.train().num_recalled < first.num_fitted  # other folds
    folded.select = {}
    assert folded.train().num_recalled <= 1  # that of shuffled labels, where the same is best


def test_a_class_of_one_group_cannot_be_held_out(folded):
    folded.groups = [
        "all of a" if label == "a" else one for one, label in zip(folded.ids, folded.labels, strict=True)
    ]
    with pytest.raises(DataError, match="class 'a' has training samples of one group alone"):
        folded.train()


def test_numbers_are_chosen_by_folds_too(make_bench):
    bench = make_bench(
        kind="number", heads={"ridge": {}}, select={"on": "folds"}, compare={"k_shot": ["all"], "draws": 2}
    )
    bench.train()
    assert all(row["inner"]["r2"] is not None for row in rows_of(bench).values())


def test_names_of_groups_become_numbers_unless_each_is_alone():
    assert group_codes(["x", "y", "x"]).tolist() == [0, 1, 0]
    assert group_codes(["x", "y", "z"]) is None
    assert group_codes(["x", "y", "x"], [1.0, 1.0, 0.0]) is None
