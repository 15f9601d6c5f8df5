"""Which of scikit-learn's estimators may be heads: those reviewed to be saved and loaded without a pickle.

A frozen list, not a discovery: forests, boosting, nearest neighbours in a tree, Gaussian processes and
calibrated classifiers need types that skops does not trust by itself, and are refused before training.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from embedpipe.errors import ConfigError
from embedpipe.params import did_you_mean

PREFIX = "sklearn:"

ALLOWED: dict[str, str] = {
    "discriminant_analysis.LinearDiscriminantAnalysis": "classes",
    "linear_model.LogisticRegression": "classes",
    "linear_model.RidgeClassifier": "classes",
    "linear_model.SGDClassifier": "classes",
    "naive_bayes.BernoulliNB": "classes",
    "naive_bayes.GaussianNB": "classes",
    "svm.LinearSVC": "classes",
    "svm.NuSVC": "classes",
    "svm.SVC": "classes",
    "kernel_ridge.KernelRidge": "number",
    "linear_model.BayesianRidge": "number",
    "linear_model.ElasticNet": "number",
    "linear_model.HuberRegressor": "number",
    "linear_model.Lasso": "number",
    "linear_model.LinearRegression": "number",
    "linear_model.Ridge": "number",
    "linear_model.SGDRegressor": "number",
    "svm.LinearSVR": "number",
    "svm.NuSVR": "number",
    "svm.SVR": "number",
}


def name_of(family: str) -> str:
    """The name on the list that ``sklearn:<dotted name>`` means; `sklearn.` before it may be left out.

    Raises
    ------
    ConfigError
        If it is not on the list; names what is allowed.
    """
    name = family.removeprefix(PREFIX).removeprefix("sklearn.")
    if name not in ALLOWED:
        raise ConfigError(
            f"{family}: not among the estimators that can be saved without a pickle"
            f"{did_you_mean(name, sorted(ALLOWED))}; allowed: "
            + ", ".join(f"{PREFIX}{known}" for known in sorted(ALLOWED))
        )
    return name


def kind_of(family: str) -> str:
    """The kind of target that the estimator learns."""
    return ALLOWED[name_of(family)]


def estimator_class(family: str) -> Any:
    """The class itself."""
    module, _, attribute = name_of(family).rpartition(".")
    return getattr(importlib.import_module(f"sklearn.{module}"), attribute)


def check_parameters(family: str, names: Sequence[str], where: str) -> None:
    """Refuse parameters that the estimator does not have.

    Raises
    ------
    ConfigError
        Naming the parameter, the near one and all that exist.
    """
    known = sorted([*estimator_class(family)().get_params(), "standardise"])
    lines = [
        f"{where}.{name}: unknown key{did_you_mean(name, known)}; known keys: {', '.join(known)}"
        for name in names
        if name not in known
    ]
    if lines:
        raise ConfigError("\n".join(lines))
