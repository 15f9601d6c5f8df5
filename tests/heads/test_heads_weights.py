"""What rows count: every family and kind of target that takes weights, as one table."""

from __future__ import annotations

import numpy as np
import pytest

from embedpipe.errors import ConfigError
from embedpipe.heads.registry import FAMILIES, fit_grid, head_class, supports, takes_weights

# all rows a step, so that rows of weight two and rows that stand there twice are the same batch
STEPS = {"epochs": 12, "patience": 0, "batch": 100_000, "lr": 0.01}
PARAMS = {
    "logistic": {"C": 0.1, "tol": 1e-12},
    "ridge": {"alpha": 1.0},
    "svm": {"C": 0.01, "tol": 1e-12},
    "sgd": STEPS,
    "mlp": {**STEPS, "hidden": 8},
    "conv": {**STEPS, "hidden": 4},
    "attentive": {**STEPS, "queries": 2, "width": 4},
    "layerwise": {**STEPS, "widths": (8, 8), "width": 4},
    "group_lasso": {"widths": (8, 8), "strength": 0.05, "tol": 1e-10, "max_iter": 5000},
    "greedy": {"widths": (8, 8)},
    "lda": {"shrinkage": 0.1},
    "centroid": {},
}
KINDS = ("classes", "number", "multilabel", "dense")
TAKEN = [(family, kind) for family in PARAMS for kind in KINDS if supports(family, kind)]


def test_the_table_has_every_family_that_takes_weights_for_every_kind_that_it_learns():
    every = [(family, kind) for family in FAMILIES for kind in KINDS if supports(family, kind)]
    assert {one for one in every if takes_weights(*one)} == set(TAKEN)
    assert {family for family, _ in every} - {family for family, _ in TAKEN} == {"knn"}
    assert not takes_weights("sklearn:svm.SVC", "classes")


@pytest.fixture(scope="module")
def made():
    """Rows of 16 columns with a target of each kind, and what each row counts."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 16)).astype(np.float32)
    latent = X.reshape(90, 4, 4).mean(axis=2) @ rng.normal(size=(4, 3)) + 0.2 * rng.normal(size=(90, 3))
    labels = (latent > 0).astype(float)
    codes = np.where(latent[:, 0] > 0.4, 2, (latent[:, 1] > 0).astype(np.int64))
    targets = {
        "classes": codes,
        "number": 50.0 + 10.0 * latent[:, 0],
        "multilabel": labels,
        "dense": (X.reshape(90, 4, 2, 2).sum(axis=1) > 0).astype(np.int64),
    }
    return X, targets, 1.0 + (np.arange(90) % 3 == 0)


def answers(head, kind, X):
    if kind != "number":
        return head.predict_proba(X)
    # about their mean: where a bias' gradient is rounding alone, Adam follows its sign
    return (head.predict(X) - head.predict(X).mean()) / 10.0


def shaped(family, X):
    return X.reshape(len(X), 4, 2, 2) if FAMILIES[family].inputs in ("maps", "tokens") else X


@pytest.mark.parametrize(("family", "kind"), [one for one in TAKEN if one[0] != "greedy"])
def test_a_row_of_weight_two_counts_as_two_rows(made, family, kind):
    X, targets, weight = made
    X, y = shaped(family, X), targets[kind]
    twice = np.repeat(np.arange(90), weight.astype(int))
    options = {"kind": kind, "seed": 0}
    (weighted,) = fit_grid(family, [PARAMS[family]], X, y, sample_weight=weight, **options)
    (repeated,) = fit_grid(family, [PARAMS[family]], X[twice], y[twice], **options)
    (plain,) = fit_grid(family, [PARAMS[family]], X, y, **options)
    found, wanted, other = (answers(head, kind, X) for head in (weighted, repeated, plain))
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(found - other).max() > 2 * np.abs(found - wanted).max()


@pytest.mark.parametrize(("family", "kind"), [one for one in TAKEN if one[0] == "greedy"])
def test_greedy_weighs_rows_in_its_moments(made, family, kind):
    """Repeated rows fall into other folds, which choose; many times the weight is as many samples all the same."""
    X, targets, weight = made
    heads = [
        fit_grid(family, [PARAMS[family]], X, targets[kind], kind=kind, seed=0, sample_weight=one)[0]
        for one in (weight, None)
    ]
    assert not np.array_equal(answers(heads[0], kind, X), answers(heads[1], kind, X))


@pytest.mark.parametrize(
    "family", [family for family, kind in TAKEN if kind == "classes" and family != "centroid"]
)
def test_balanced_classes_are_rows_weighed_by_the_inverse_of_their_number(made, family):
    X, targets, _ = made
    X, codes = shaped(family, X), targets["classes"]
    weight = (90 / (3 * np.bincount(codes)))[codes]
    # sample weights count in the scale of columns too
    params = {**PARAMS[family], "standardise": False}
    (balanced,) = fit_grid(family, [{**params, "class_weight": "balanced"}], X, codes, kind="classes", seed=0)
    (weighted,) = fit_grid(family, [params], X, codes, kind="classes", seed=0, sample_weight=weight)
    # where probabilities are calibrated, by scores of single samples, these alike
    what = "decision_function" if family in ("ridge", "greedy") else "predict_proba"
    found, wanted = (getattr(head, what)(X) for head in (balanced, weighted))
    # lda takes weights as counts of rows, and classes as prior shares
    np.testing.assert_allclose(found, wanted, atol=0.05 if family == "lda" else 1e-3)


def test_neighbours_take_no_weights_and_say_so(made):
    X, targets, weight = made
    with pytest.raises(
        ConfigError, match="KnnClassifierHead: takes no sample weights; choose a family that does"
    ):
        fit_grid("knn", [{}], X, targets["classes"], kind="classes", seed=0, sample_weight=weight)
    assert head_class("knn", "classes").streams
