"""Turn scores into probabilities by one temperature, fitted by maximum likelihood.

References
----------
Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

from __future__ import annotations

import numpy as np

from embedpipe.heads.base import softmax

LOWEST, HIGHEST = 0.1, 100.0
MOST_SCORES, MOST_ENTRIES, FEWEST = 1 << 24, 1 << 21, 4096
"""Scores that one number is fitted to, entries of the rows that these are computed from (16 MB), and rows that it is
fitted to at least where there are as many."""


def spread_index(num_rows: int, num_outputs: int, num_features: int) -> np.ndarray:
    """Positions of the rows that a temperature is fitted to: all, or as many as memory has room for, in order."""
    most = max(FEWEST, min(MOST_SCORES // num_outputs, MOST_ENTRIES // num_features))
    if num_rows <= most:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(0).choice(num_rows, most, replace=False))


def fit_inverse_temperature(
    scores_NK: np.ndarray, codes: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """The b in [0.1, 100] for which softmax(b * scores) gives the codes the highest likelihood.

    Parameters
    ----------
    scores_NK
        Scores of rows that the model was not fitted on (held out, or left out one at a time).
    codes
        True columns, shape (N,).
    weight
        Of each row; all count the same by default.

    Notes
    -----
    The likelihood is concave in b, so its slope changes sign once: Newton's steps, kept within a bracket.
    Where the rows are told apart without error the likelihood grows for ever, hence the upper end.
    """
    shifted_NK = scores_NK - scores_NK.max(axis=1, keepdims=True)
    target = np.average(shifted_NK[np.arange(len(codes)), codes], weights=weight)

    def slope_and_curvature(b: float) -> tuple[float, float]:
        p_NK = softmax(b * shifted_NK)
        mean_N = (p_NK * shifted_NK).sum(axis=1)
        second_N = (p_NK * shifted_NK**2).sum(axis=1)
        slope, curvature = (np.average(one, weights=weight) for one in (mean_N, second_N - mean_N**2))
        return float(slope - target), float(curvature)

    if slope_and_curvature(LOWEST)[0] >= 0:
        return LOWEST
    if slope_and_curvature(HIGHEST)[0] <= 0:
        return HIGHEST
    low, high, b = LOWEST, HIGHEST, 1.0
    for _ in range(60):
        slope, curvature = slope_and_curvature(b)
        low, high = (b, high) if slope < 0 else (low, b)
        step = b - slope / curvature if curvature > 0 else -1.0
        after = step if low < step < high else (low * high) ** 0.5
        if abs(after - b) <= 1e-6 * b:
            return after
        b = after
    return b
