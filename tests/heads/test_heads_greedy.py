"""Greedy choice of layers: exact scores, and the planted layers found."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from embedpipe.errors import DataError
from embedpipe.heads.gram import Gram
from embedpipe.heads.greedy import greedy_layers

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
