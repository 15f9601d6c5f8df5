"""Greedy choice of layers: exact scores, and the planted layers found."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedpipe.errors import ConfigError, DataError
from embedpipe.heads.gram import Gram
from embedpipe.heads.greedy import greedy_layers
from embedpipe.heads.held_out import folds_of_rows, one_in
from embedpipe.heads.registry import fit_grid, load_head, save_head

LAYERS = {"a": slice(0, 5), "b": slice(5, 12), "c": slice(12, 16)}


def moments(X, Y, folds):
    gram = Gram(4)
    gram.add(X, {"y": Y}, folds=folds)
    return gram


@pytest.fixture
def planted():
    """Targets made of layer b, and a little of layer a."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 16)) + 3.0
    Y = X[:, 5:12] @ rng.normal(size=(7, 2)) + 0.5 * X[:, :5] @ rng.normal(size=(5, 2))
    return X, Y + 0.1 * rng.normal(size=Y.shape), np.arange(200) % 4


def test_planted_layers_are_chosen_in_order_and_the_others_left_out(planted):
    X, Y, folds = planted
    steps = greedy_layers(moments(X, Y, folds), "y", LAYERS)
    assert [step.layer for step in steps] == ["b", "a"]
    assert steps[0].r2 < steps[1].r2 < 1


def test_scores_equal_those_of_refits_without_each_fold(planted):
    X, Y, folds = planted
    (step,) = greedy_layers(moments(X, Y, folds), "y", LAYERS, alphas=[3.0], most=1, standardise=False)
    error = spread = 0.0
    for fold in range(4):
        kept, held = folds != fold, folds == fold
        reference = Ridge(alpha=3.0, solver="svd").fit(X[kept, 5:12], Y[kept])
        error += np.square(Y[held] - reference.predict(X[held, 5:12])).sum()
        spread += np.square(Y[held] - Y[kept].mean(axis=0)).sum()
    assert step.layer == "b" and step.r2 == pytest.approx(1 - error / spread, abs=1e-10)


def test_one_fold_holds_nothing_out(planted):
    X, Y, _ = planted
    gram = Gram()
    gram.add(X, {"y": Y})
    with pytest.raises(DataError, match="two folds or more"):
        greedy_layers(gram, "y", LAYERS)


def test_the_head_is_ridge_on_the_layers_that_were_planted(planted):
    X, Y, _ = planted
    y = Y[:, 0]
    (head,) = fit_grid("greedy", [{"widths": (5, 7, 4)}], X, y, kind="number", seed=0)
    assert head.kept_layers_.tolist() == [1, 0]
    assert head.layer_weights_[2] == 0 and head.layer_weights_.sum() == pytest.approx(1)
    reference = make_pipeline(StandardScaler(), Ridge(alpha=head.alpha_, solver="svd")).fit(X[:, :12], y)
    np.testing.assert_allclose(head.predict(X), reference.predict(X[:, :12]), atol=1e-9)


def test_classes_are_told_by_the_planted_layers_and_probabilities_are_calibrated(planted, tmp_path):
    X, Y, _ = planted
    codes = Y.argmax(axis=1)
    (head,) = fit_grid("greedy", [{"widths": (5, 7, 4)}], X, codes, kind="classes", seed=0)
    assert head.kept_layers_[0] == 1
    reference = fit_grid(
        "ridge", [{"alpha": head.alpha_}], X[:, _columns(head)], codes, kind="classes", seed=0
    )[0]
    np.testing.assert_allclose(
        head.predict_proba(X), reference.predict_proba(X[:, _columns(head)]), atol=1e-8
    )
    save_head(head, tmp_path / "head")
    np.testing.assert_array_equal(load_head(tmp_path / "head").predict_proba(X), head.predict_proba(X))


def _columns(head):
    places = {0: np.arange(5), 1: np.arange(5, 12), 2: np.arange(12, 16)}
    return np.concatenate([places[layer] for layer in head.kept_layers_])


def test_groups_are_held_out_whole():
    """Copies of one sample would teach the fold that they are judged in."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(30, 40)), 4, axis=0)
    y = np.repeat(rng.normal(size=30), 4)
    groups = np.repeat(np.arange(30), 4)
    grid = [{"widths": (40,)}]
    blind = fit_grid("greedy", grid, X, y, kind="number", seed=0)[0]
    aware = fit_grid("greedy", grid, X, y, kind="number", seed=0, groups=groups)[0]
    assert blind.r2_[0] > 0.9 and aware.r2_[0] < 0.2
    assert aware.alpha_ > blind.alpha_
    with pytest.raises(DataError, match="all training rows are of one group"):
        fit_grid("greedy", grid, X, y, kind="number", seed=0, groups=np.zeros(120))


@pytest.mark.parametrize("groups", [None, "pairs"])
def test_every_row_is_in_one_fold_and_labels_are_spread(groups):
    labels = np.arange(60) % 3
    groups = None if groups is None else np.arange(60) // 6
    folds = folds_of_rows(4, 60, labels, groups, seed=1)
    assert set(folds) == set(range(4))
    if groups is None:
        counts = np.array([np.bincount(labels[folds == fold], minlength=3) for fold in range(4)])
        assert np.ptp(counts) <= 1
    else:
        assert all(len(set(folds[groups == group])) == 1 for group in range(10))


def test_a_holdout_splits_no_group_and_leaves_every_label_something_to_learn_from():
    labels = np.array([0] * 40 + [1] * 8)
    groups = np.array([i // 2 for i in range(40)] + [5] * 8)  # all rows of label 1 lie in one group
    for seed in range(20):
        held = one_in(5, 48, labels, groups, seed)
        out = np.isin(np.arange(48), held)
        assert not set(groups[out]) & set(groups[~out])
        assert set(labels[~out]) == {0, 1}
        assert 0 < len(held) < 24


def test_more_columns_than_their_moments_have_room_for_are_refused():
    rows = np.zeros((3, 12_000), np.float32)
    with pytest.raises(ConfigError, match=r"12,000 columns in 5 folds take 5.76 GB"):
        fit_grid("greedy", [{}], rows, np.arange(3.0), kind="number", seed=0)
