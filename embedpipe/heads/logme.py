"""LogME: how well features explain labels, as the evidence of a linear model, from moments alone.

References
----------
You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", section 4 and
algorithm 1.
"""

# D features, K targets

from __future__ import annotations

import numpy as np

from embedpipe.heads.gram import Normal

MOST_STEPS, CLOSE = 200, 1e-10


def logme(normal: Normal) -> float:
    """Largest log evidence a sample, averaged over targets.

    Each target is ``x w + noise`` without an intercept, as the paper has it, with w of variance 1 / alpha and
    noise of variance 1 / beta; the evidence is maximised over both by fixed-point steps. Higher is better.

    Parameters
    ----------
    normal
        Of one-hot targets for classes, or of one column of numbers.
    """
    num, mean_D, mean_K = normal.weight, normal.mean, normal.target_mean
    # moments about zero, from those about the mean
    gram_DD = normal.gram + num * np.outer(mean_D, mean_D)
    cross_DK = normal.cross + num * np.outer(mean_D, mean_K)
    squares_K = normal.target_square + num * np.square(mean_K)
    eigenvalues_D, basis_DD = np.linalg.eigh(gram_DD)
    used = eigenvalues_D > 1e-12 * eigenvalues_D[-1]
    explained_RK = np.square(basis_DD[:, used].T @ cross_DK) / eigenvalues_D[used, None]
    return float(
        np.mean(
            [
                _evidence(eigenvalues_D[used], explained_RK[:, k], squares_K[k], num, len(eigenvalues_D))
                for k in range(len(squares_K))
            ]
        )
    )


def _evidence(
    s_R: np.ndarray, explained_R: np.ndarray, square: float, num: float, num_features: int
) -> float:
    """Of one target: `explained_R` are its squared projections on the directions of the features."""
    left = max(float(square - explained_R.sum()), 0.0)
    alpha = beta = 1.0
    for _ in range(MOST_STEPS):
        ratio = alpha / beta
        known = float((s_R / (s_R + ratio)).sum())
        weight = float((s_R * explained_R / np.square(s_R + ratio)).sum())
        residual = float((explained_R * np.square(ratio / (s_R + ratio))).sum()) + left
        alpha, beta = known / max(weight, 1e-12), (num - known) / max(residual, 1e-12)
        if abs(alpha / beta - ratio) <= CLOSE * ratio:
            break
    ratio = alpha / beta
    weight = float((s_R * explained_R / np.square(s_R + ratio)).sum())
    residual = float((explained_R * np.square(ratio / (s_R + ratio))).sum()) + left
    logs = float(np.log(alpha + beta * s_R).sum()) + (num_features - len(s_R)) * np.log(alpha)
    total = num_features * np.log(alpha) + num * np.log(beta / (2 * np.pi)) - logs
    return 0.5 * float(total - beta * residual - alpha * weight) / num
