"""Regressors of scikit-learn on several numbers a sample: each number as if it were alone."""

import numpy as np
import pytest

from embedpipe.heads.registry import fit_grid, load_head, save_head


@pytest.mark.parametrize("family", ["sklearn:linear_model.Ridge", "sklearn:svm.LinearSVR"])
def test_several_numbers_are_learnt_each_as_if_alone_and_survive_saving(family, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 5)).astype(np.float32)
    Y = X @ rng.normal(size=(5, 2)) * [1, 10]
    (head,) = fit_grid(family, [{}], X, Y, kind="number", seed=0)
    for column in range(2):
        (alone,) = fit_grid(family, [{}], X, Y[:, column], kind="number", seed=0)
        np.testing.assert_allclose(head.predict(X)[:, column], alone.predict(X), rtol=1e-6, atol=1e-8)
    save_head(head, tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).predict(X), head.predict(X))
