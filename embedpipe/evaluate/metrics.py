"""Metrics of one arm, computed for many weightings of the samples at once.

Every metric here is a function of sums over samples, so that a thousand bootstrap resamples cost one
(sparse) matrix product and not a thousand passes. With weights of one they are the plain metrics.
"""

# N samples, K classes, B weightings (bootstrap resamples)

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

Kind = Literal["classes", "number"]
Array: TypeAlias = npt.NDArray[np.float64]

METRICS: dict[str, tuple[str, ...]] = {
    "classes": ("accuracy", "balanced_accuracy", "macro_f1", "nll"),
    "number": ("r2", "mae"),
}
DEFAULT_METRIC = {"classes": "balanced_accuracy", "number": "r2"}
LOWER_IS_BETTER = frozenset({"nll", "mae"})
PERCENT = frozenset({"accuracy", "balanced_accuracy", "macro_f1"})
# Scores are stored as float32: a smaller probability cannot be told from zero there.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)


def metric_of(kind: str, by: str) -> str:
    """`by` where it is a metric of `kind`, else the default of that kind."""
    return by if by in METRICS[kind] else DEFAULT_METRIC[kind]


def sign_of(metric: str) -> int:
    """1 where more is better, -1 where less is."""
    return -1 if metric in LOWER_IS_BETTER else 1


def weighted_metrics(
    kind: str, truth_N: npt.NDArray[np.generic], scores_NK: npt.NDArray[np.floating], weights_NB: Array
) -> dict[str, Array]:
    """All metrics of `kind` under each weighting.

    Parameters
    ----------
    truth_N
        Class codes 0..K-1, or numbers.
    scores_NK
        Probabilities for classes; one column of numbers for number.
    weights_NB
        Weight of each sample in each weighting, 0 or more.

    Returns
    -------
    dict of metric name to float64 [B]. NaN where scores are not finite, or where a metric has no value
    (R² of constant targets).
    """
    if not np.isfinite(scores_NK).all():
        return {name: np.full(weights_NB.shape[1], np.nan) for name in METRICS[kind]}
    if kind == "classes":
        return _class_metrics(truth_N.astype(np.int64), scores_NK.astype(np.float64), weights_NB)
    return _number_metrics(truth_N.astype(np.float64), scores_NK[:, 0].astype(np.float64), weights_NB)


def point_metrics(
    kind: str, truth_N: npt.NDArray[np.generic], scores_NK: npt.NDArray[np.floating]
) -> dict[str, float]:
    """The plain metrics: every sample counts once."""
    ones = np.ones((len(truth_N), 1))
    return {name: float(value[0]) for name, value in weighted_metrics(kind, truth_N, scores_NK, ones).items()}


def _class_metrics(codes_N: npt.NDArray[np.int64], scores_NK: Array, weights_NB: Array) -> dict[str, Array]:
    """Accuracy, mean recall over classes present, mean F1 over classes present or predicted, and log loss.

    All as scikit-learn defines them, with its `sample_weight`.
    """
    num_classes = scores_NK.shape[1]
    predicted_N = scores_NK.argmax(axis=1)
    hit_N = predicted_N == codes_N
    total_B = weights_NB.sum(axis=0)
    support_KB = _sum_by(codes_N, np.ones(len(codes_N)), num_classes, weights_NB)
    predicted_KB = _sum_by(predicted_N, np.ones(len(codes_N)), num_classes, weights_NB)
    hits_KB = _sum_by(codes_N, hit_N.astype(np.float64), num_classes, weights_NB)

    rows_N = np.arange(len(codes_N))
    true_probability_N = scores_NK[rows_N, codes_N] / scores_NK.sum(axis=1)
    losses_N = -np.log(np.clip(true_probability_N, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))
    return {
        "accuracy": hits_KB.sum(axis=0) / total_B,
        "balanced_accuracy": _mean_ratio(hits_KB, support_KB),
        "macro_f1": _mean_ratio(2 * hits_KB, support_KB + predicted_KB),
        "nll": losses_N @ weights_NB / total_B,
    }


def _number_metrics(truth_N: Array, predicted_N: Array, weights_NB: Array) -> dict[str, Array]:
    """Coefficient of determination and mean absolute error."""
    total_B = weights_NB.sum(axis=0)
    centred_N = truth_N - truth_N.mean()  # sums of squares lose digits far from zero
    sum_B = centred_N @ weights_NB
    spread_B = centred_N**2 @ weights_NB - sum_B**2 / total_B
    residual_B = (truth_N - predicted_N) ** 2 @ weights_NB
    constant_B = spread_B <= 1e-12 * np.maximum(centred_N**2 @ weights_NB, np.finfo(np.float64).tiny)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2_B = np.where(constant_B, np.nan, 1 - residual_B / spread_B)
    return {"r2": r2_B, "mae": np.abs(truth_N - predicted_N) @ weights_NB / total_B}


def _sum_by(codes_N: npt.NDArray[np.int64], values_N: Array, num_codes: int, weights_NB: Array) -> Array:
    """Weighted sums of `values_N` by code, [codes, B]."""
    rows = np.arange(len(codes_N))
    table = sparse.csr_array((values_N, (codes_N, rows)), shape=(num_codes, len(codes_N)))
    summed: Array = np.asarray(table @ weights_NB)
    return summed


def _mean_ratio(numerator_KB: Array, denominator_KB: Array) -> Array:
    """Mean of the ratio over classes with a denominator above zero."""
    present_KB = denominator_KB > 0
    ratio_KB = np.divide(numerator_KB, denominator_KB, out=np.zeros_like(numerator_KB), where=present_KB)
    mean: Array = ratio_KB.sum(axis=0) / present_KB.sum(axis=0)
    return mean
