"""Mean average precision of multi-label scores, under many weightings of the samples at once.

References
----------
Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", section 4.2 (the measure); average
precision as scikit-learn has it, without interpolation.
"""

# N samples, K labels, B weightings (bootstrap resamples), T distinct scores

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ShapeError
from embedpipe.evaluate.metrics import Array


def mean_average_precision(
    truth_NK: npt.NDArray[np.floating], scores_NK: npt.NDArray[np.floating], weights_NB: Array | None = None
) -> Array:
    """Average precision of each label, averaged over the labels that have a positive sample.

    Parameters
    ----------
    truth_NK
        1 where a sample has the label, 0 where it has not, NaN where nobody said: such an entry is left out of
        its label.
    scores_NK
        Any scores; more is more likely.
    weights_NB
        Weight of each sample in each weighting, 0 or more; default: one weighting of ones.

    Returns
    -------
    float64 [B]
        NaN where no label has a positive sample, or scores are not finite.

    Raises
    ------
    ShapeError
        If truth and scores differ in shape.
    """
    if truth_NK.shape != scores_NK.shape or truth_NK.ndim != 2:
        raise ShapeError(
            f"expected truth and scores of one shape (samples, labels), found {truth_NK.shape} and {scores_NK.shape}"
        )
    weights_NB = np.ones((len(truth_NK), 1)) if weights_NB is None else weights_NB
    if not np.isfinite(scores_NK).all():
        return np.full(weights_NB.shape[1], np.nan)
    sum_B, count_B = np.zeros(weights_NB.shape[1]), np.zeros(weights_NB.shape[1])
    for truth_N, scores_N in zip(truth_NK.T, scores_NK.T, strict=True):
        said_N = ~np.isnan(truth_N)
        if not said_N.any():
            continue
        precision_B = average_precision(truth_N[said_N] > 0.5, scores_N[said_N], weights_NB[said_N])
        there_B = np.isfinite(precision_B)
        sum_B[there_B] += precision_B[there_B]
        count_B += there_B
    mean_B: Array = np.divide(sum_B, count_B, out=np.full(len(sum_B), np.nan), where=count_B > 0)
    return mean_B


def average_precision(
    positive_N: npt.NDArray[np.bool_], scores_N: npt.NDArray[np.floating], weights_NB: Array
) -> Array:
    """Precision at each distinct score, weighted by the recall gained there, [B]; NaN without a positive."""
    order = np.argsort(-scores_N, kind="stable")
    last_T = np.flatnonzero(np.r_[np.diff(scores_N[order]) != 0, True])
    hits_TB = np.cumsum(weights_NB[order] * positive_N[order, None], axis=0)[last_T]
    all_TB = np.cumsum(weights_NB[order], axis=0)[last_T]
    precision_TB = np.divide(hits_TB, all_TB, out=np.zeros_like(hits_TB), where=all_TB > 0)
    gained_TB = np.diff(hits_TB, axis=0, prepend=0.0)
    total_B = hits_TB[-1]
    summed_B = (precision_TB * gained_TB).sum(axis=0)
    result_B: Array = np.divide(summed_B, total_B, out=np.full(len(total_B), np.nan), where=total_B > 0)
    return result_B
