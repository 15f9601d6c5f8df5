"""Many labels a sample, some unknown: each label as if it were fitted alone on the samples it is known of."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from embedpipe.errors import DataError
from embedpipe.heads.registry import fit_grid, load_head, save_head


@pytest.fixture(params=[(120, 8), (30, 40)])
def labelled(features, request):
    X, codes = features(*request.param, 4)
    Y = np.stack([codes % 2, codes > 1, codes == 0], axis=1).astype(float)
    Y[::5, 0] = np.nan
    Y[1::7, 2] = np.nan
    return X / X.std(axis=0), Y


@pytest.mark.parametrize("weighted", [False, True])
def test_each_label_of_ridge_equals_a_fit_of_its_own(labelled, weighted):
    X, Y = labelled
    weight = np.random.default_rng(0).uniform(0.5, 2, len(X)) if weighted else None
    options = {"kind": "multilabel", "seed": 0, "sample_weight": weight}
    heads = fit_grid("ridge", [{"alpha": a, "standardise": False} for a in (0.5, 20.0)], X, Y, **options)
    wide = X.astype(np.float64)
    for alpha, head in zip((0.5, 20.0), heads, strict=True):
        for k in range(3):
            known = ~np.isnan(Y[:, k])
            reference = Ridge(alpha=alpha, solver="svd")
            reference.fit(wide[known], Y[known, k], None if weight is None else weight[known])
            np.testing.assert_allclose(
                head.decision_function(X)[:, k], reference.predict(wide), rtol=1e-8, atol=1e-8
            )


def test_each_label_of_logistic_equals_a_fit_of_its_own(labelled):
    X, Y = labelled
    candidates = [{"C": 0.3, "standardise": False, "tol": 1e-13}]
    (head,) = fit_grid("logistic", candidates, X, Y, kind="multilabel", seed=0)
    wide = X.astype(np.float64)
    for k in range(3):
        known = ~np.isnan(Y[:, k])
        reference = LogisticRegression(C=0.3, tol=1e-10, max_iter=100_000).fit(wide[known], Y[known, k])
        wanted = reference.predict_proba(wide)[:, 1]
        np.testing.assert_allclose(head.predict_proba(X)[:, k], wanted, atol=1e-5)


@pytest.mark.parametrize("family", ["ridge", "logistic"])
def test_probabilities_say_which_labels_a_sample_has_and_survive_saving(labelled, family, tmp_path):
    X, Y = labelled
    (head,) = fit_grid(family, [{"pca": 6}], X, Y, kind="multilabel", seed=0)
    probabilities, known = head.predict_proba(X), ~np.isnan(Y)
    assert probabilities.shape == Y.shape and (probabilities >= 0).all() and (probabilities <= 1).all()
    assert (head.predict(X)[known] == Y[known]).mean() > 0.8
    save_head(head, tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).predict_proba(X), probabilities)


def test_a_label_that_nothing_has_is_named(labelled):
    X, Y = labelled
    Y[:, 1] = 0
    with pytest.raises(DataError, match="label 1 is known of 0 samples that have it"):
        fit_grid("ridge", [{}], X, Y, kind="multilabel", seed=0)
    with pytest.raises(DataError, match="labels of 0, 1 or NaN"):
        fit_grid("ridge", [{}], X, Y + 1, kind="multilabel", seed=0)
