"""Features made here, small and of the shapes that heads meet."""

from __future__ import annotations

import numpy as np
import pytest


def make_features(num_rows, num_features, num_classes, seed=0):
    """Correlated positive features of overlapping classes, float32, and codes; every class occurs."""
    rng = np.random.default_rng(seed)
    codes = np.concatenate(
        [np.arange(num_classes), rng.integers(0, num_classes, num_rows - num_classes)]
    ).astype(np.int64)
    centres = rng.normal(size=(num_classes, 8))
    latent = centres[codes] + 0.8 * rng.normal(size=(num_rows, 8))
    X = latent @ rng.normal(size=(8, num_features)) + 0.3 * rng.normal(size=(num_rows, num_features))
    return np.maximum(X * rng.uniform(0.1, 10, num_features) + 1.0, 0.0).astype(np.float32), codes


@pytest.fixture(scope="session")
def features():
    """Makes ``X, codes`` of a given shape."""
    return make_features
