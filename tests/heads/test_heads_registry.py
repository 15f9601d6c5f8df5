"""Names, options and grids of heads, and the words of their errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from embedpipe.errors import ConfigError
from embedpipe.heads.neural_options import NeuralOptions
from embedpipe.heads.registry import (
    FAMILIES,
    candidates,
    family_of,
    few_shot_candidates,
    fit_grid,
    head_options,
    supports,
)


def test_reading_options_imports_neither_torch_nor_scikit_learn():
    code = (
        "import sys; from embedpipe.heads.registry import *;"
        "from embedpipe.heads.registry import head_options, candidates, supports;"
        "candidates(head_options('mlp', {'lr': [0.1, 0.2]})); supports('knn', 'number');"
        "print([m for m in ('torch', 'sklearn', 'skops', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fitting_a_head_that_takes_no_gradient_steps_imports_no_torch():
    trained = sorted(name for name, family in FAMILIES.items() if issubclass(family.options, NeuralOptions))
    code = (
        "import sys, numpy as np; from embedpipe.heads.registry import FAMILIES, fit_grid\n"
        f"for family in set(FAMILIES) - set({trained}):\n"
        "    fit_grid(family, [{}], np.eye(6, dtype='f4'), np.arange(6) % 2, kind='classes', seed=0)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("written", "values"),
    [
        (0.5, [0.5]),
        ([1, 2], [1.0, 2.0]),
        ({"log": [1e-3, 1e2, 6]}, [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]),
        ({"linear": [1, 2, 3]}, [1.0, 1.5, 2.0]),
    ],
)
def test_a_hyperparameter_is_a_value_a_list_or_a_range(written, values):
    options = head_options("logistic", {"C": written})
    assert [candidate["C"] for candidate in candidates(options)] == values


def test_candidates_are_every_combination_in_the_declared_order():
    grid = candidates(head_options("near", {"family": "knn", "temperature": [0.1, 0.2], "k": [3, 1]}))
    assert [(c["k"], c["temperature"]) for c in grid] == [(3, 0.1), (3, 0.2), (1, 0.1), (1, 0.2)]


def test_an_entry_with_nothing_but_its_name_takes_the_defaults():
    options = head_options("ridge", None)
    assert options.family == "ridge" and options.taps == ("*",) and options.backbones == ("*",)


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        (
            "logistc",
            {},
            r"heads\.logistc: unknown head family 'logistc' \(did you mean 'logistic'\?\); known",
        ),
        ("knn", {"kk": 3}, r"heads\.knn\.kk: unknown key.*known keys:.*temperature"),
        ("logistic", {"C": {"log": [0, 1, 3]}}, r"heads\.logistic\.C: log: expected 0 < low <= high"),
        ("logistic", {"C": {"log": [1, 10]}}, r"expected three numbers \[low, high, num\]"),
        ("logistic", {"C": []}, "an empty list leaves nothing to fit"),
        ("logistic", {"C": [1, 1.0]}, "listed twice"),
        ("logistic", {"C": -1}, r"heads\.logistic\.C\.0: input should be greater than 0; found -1"),
        ("centroid", {"metric": "manhattan"}, r"heads\.centroid\.metric\.0: input should be 'euclidean' or"),
        ("f", {"family": "sklearn:ensemble.RandomForestClassifier"}, "without a pickle; allowed: sklearn:"),
        ("f", {"family": "sklearn:svm.SVK"}, r"did you mean 'svm\.SV"),
        (
            "f",
            {"family": "sklearn:svm.SVC", "kernl": "rbf"},
            r"f\.kernl: unknown key \(did you mean 'kernel'",
        ),
        ("logistic", [1], "expected a mapping of hyperparameters"),
    ],
)
def test_a_wrong_entry_is_explained(name, raw, words):
    with pytest.raises(ConfigError, match=words):
        candidates(head_options(name, raw, f"params.yaml: heads.{name}"))


def test_few_shot_takes_one_of_the_users_own_values():
    for family in FAMILIES:
        chosen = few_shot_candidates(family, head_options(family, {}))
        assert len(chosen) == 1
    options = head_options("logistic", {"C": [3.0, 0.2, 40.0]})
    assert few_shot_candidates("logistic", options)[0]["C"] == 0.2


def test_families_say_which_targets_they_can_learn():
    able = {family for family in FAMILIES if supports(family, "number")}
    assert able == {"ridge", "sgd", "mlp", "conv", "attentive", "layerwise", "group_lasso", "greedy", "knn"}
    assert all(supports(family, "classes") for family in FAMILIES)
    assert supports("sklearn:svm.SVR", "number") and not supports("sklearn:svm.SVR", "classes")
    with pytest.raises(
        ConfigError, match="'svm' cannot learn targets of kind 'number'; families that can: attentive, conv"
    ):
        fit_grid("svm", [{}], np.eye(4), np.arange(4.0), kind="number", seed=0)


@pytest.mark.parametrize("family", [*FAMILIES, "sklearn:svm.SVC", "sklearn:naive_bayes.GaussianNB"])
def test_probabilities_are_finite_sum_to_one_and_leave_absent_classes_out(features, family):
    X, codes = features(60, 12, 4)
    if family_of(family).inputs in ("maps", "tokens"):
        X = X.reshape(60, 3, 2, 2)
    kept = codes != 2
    (head,) = fit_grid(family, [{}], X[kept], codes[kept], kind="classes", seed=0)
    extreme = np.concatenate([X, X * 1e4, -X, np.zeros_like(X[:1])])
    proba = head.predict_proba(extreme)
    assert head.classes_.tolist() == [0, 1, 3]
    assert proba.shape == (len(extreme), 3) and proba.dtype == np.float64
    assert np.isfinite(proba).all() and (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, atol=1e-12)


def test_parameters_that_scikit_learn_refuses_are_explained(features):
    X, codes = features(30, 5, 3)
    with pytest.raises(ConfigError, match=r"sklearn:svm\.SVC: scikit-learn refused to fit it: .*'kernel'"):
        fit_grid("sklearn:svm.SVC", [{"kernel": "sheep"}], X, codes, kind="classes", seed=0)


def test_a_scikit_learn_fit_that_does_not_converge_says_so(features):
    X, codes = features(60, 12, 4)
    fits = [{"max_iter": 1}, {"max_iter": 10_000}]
    short, long = fit_grid("sklearn:linear_model.LogisticRegression", fits, X, codes, kind="classes", seed=0)
    assert not short.converged_ and long.converged_
