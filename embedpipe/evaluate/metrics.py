"""Metrics of one arm, computed for many weightings of the samples at once.

Every metric here is a function of sums over samples, so that a thousand bootstrap resamples cost one
(sparse) matrix product and not a thousand passes. With weights of one they are the plain metrics.

References
----------
Hand and Till 2001, "A Simple Generalisation of the Area Under the ROC Curve", section 2 (ranks).
DeLong et al. 1988, "Comparing the Areas under Two or More Correlated ROC Curves" (structural components).
Brier 1950, "Verification of Forecasts Expressed in Terms of Probability".
Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2 (ECE).
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
    "classes": ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "brier", "ece"),
    "number": ("r2", "mae"),
}
DEFAULT_METRIC = {"classes": "balanced_accuracy", "number": "r2"}
LOWER_IS_BETTER = frozenset({"nll", "brier", "ece", "mae"})
PERCENT = frozenset({"accuracy", "balanced_accuracy", "macro_f1", "auroc"})
ECE_BINS = 15
"""Equal parts of [0, 1] in which confidence is compared with accuracy; 15 as in the literature."""
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
    (R² of constant targets, AUROC of a single class).

    Notes
    -----
    All equal scikit-learn's with `sample_weight`, but for AUROC: under equal weights it is exact, under others
    it is the first-order expansion about them in DeLong's components, since re-ranking each class for each of
    a thousand resamples would cost more than everything else together.
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
    """Accuracy, mean recall over classes present, mean F1 over classes present or predicted, AUROC of each
    class against the rest, log loss, Brier score summed over classes (0 to 2), and calibration error.
    """
    num_classes = scores_NK.shape[1]
    predicted_N = scores_NK.argmax(axis=1)
    hit_N = predicted_N == codes_N
    total_B = weights_NB.sum(axis=0)
    support_KB = _sum_by(codes_N, np.ones(len(codes_N)), num_classes, weights_NB)
    predicted_KB = _sum_by(predicted_N, np.ones(len(codes_N)), num_classes, weights_NB)
    hits_KB = _sum_by(codes_N, hit_N.astype(np.float64), num_classes, weights_NB)

    rows_N = np.arange(len(codes_N))
    shares_NK = scores_NK / scores_NK.sum(axis=1, keepdims=True)
    of_truth_N = shares_NK[rows_N, codes_N]
    losses_N = -np.log(np.clip(of_truth_N, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))
    brier_N = np.square(shares_NK).sum(axis=1) - 2 * of_truth_N + 1
    return {
        "accuracy": hits_KB.sum(axis=0) / total_B,
        "balanced_accuracy": _mean_ratio(hits_KB, support_KB),
        "macro_f1": _mean_ratio(2 * hits_KB, support_KB + predicted_KB),
        "auroc": _auroc(codes_N, shares_NK, support_KB, weights_NB),
        "nll": losses_N @ weights_NB / total_B,
        "brier": brier_N @ weights_NB / total_B,
        "ece": _calibration_error(shares_NK[rows_N, predicted_N], hit_N, weights_NB),
    }


def class_rates(
    codes_N: npt.NDArray[np.int64], predicted_N: npt.NDArray[np.int64], num_classes: int, weights_NB: Array
) -> dict[str, Array]:
    """Precision, recall and F1 of each class under each weighting, [K, B]; NaN where there is no denominator."""
    ones_N = np.ones(len(codes_N))
    support_KB = _sum_by(codes_N, ones_N, num_classes, weights_NB)
    predicted_KB = _sum_by(predicted_N, ones_N, num_classes, weights_NB)
    hits_KB = _sum_by(codes_N, (predicted_N == codes_N).astype(np.float64), num_classes, weights_NB)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "precision": hits_KB / predicted_KB,
            "recall": hits_KB / support_KB,
            "f1": 2 * hits_KB / (support_KB + predicted_KB),
        }


def _auroc(codes_N: npt.NDArray[np.int64], shares_NK: Array, support_KB: Array, weights_NB: Array) -> Array:
    """Mean over classes of the area under the ROC curve of the class against the rest.

    A sample's component is the share of the other side that it is ranked on the right side of; ties count half.
    """
    num_samples, num_classes = shares_NK.shape
    members_K = np.bincount(codes_N, minlength=num_classes)
    able = np.flatnonzero((members_K > 0) & (members_K < num_samples))
    if len(able) == 0:
        return np.full(weights_NB.shape[1], np.nan)
    component_NK = np.empty((num_samples, len(able)))
    for column, code in enumerate(able):
        mine_N = codes_N == code
        inside, outside = np.sort(shares_NK[mine_N, code]), np.sort(shares_NK[~mine_N, code])
        component_NK[mine_N, column] = _share_below(outside, shares_NK[mine_N, code])
        component_NK[~mine_N, column] = 1 - _share_below(inside, shares_NK[~mine_N, code])
    place_K = np.full(num_classes, -1)
    place_K[able] = np.arange(len(able))
    # of a class that every sample is of there is no component, and no sample of another class
    own_N = component_NK[np.arange(num_samples), place_K[codes_N]]
    own_KB = _sum_by(codes_N, own_N, num_classes, weights_NB)[able]
    rest_KB = component_NK.T @ weights_NB - own_KB
    in_KB = support_KB[able]
    out_KB = weights_NB.sum(axis=0) - in_KB
    plain_K = own_N.reshape(-1) @ (codes_N[:, None] == able) / members_K[able]
    with np.errstate(divide="ignore", invalid="ignore"):
        area_KB = np.clip(own_KB / in_KB + rest_KB / out_KB - plain_K[:, None], 0.0, 1.0)
    there_KB = (in_KB > 0) & (out_KB > 0)
    count_B = there_KB.sum(axis=0)
    summed_B = np.where(there_KB, area_KB, 0.0).sum(axis=0)
    mean_B: Array = np.divide(summed_B, count_B, out=np.full(len(count_B), np.nan), where=count_B > 0)
    return mean_B


def _share_below(sorted_M: Array, values_N: Array) -> Array:
    """Share of `sorted_M` below each value, equal ones by half."""
    below_N = np.searchsorted(sorted_M, values_N, "left") + np.searchsorted(sorted_M, values_N, "right")
    share_N: Array = below_N / (2 * len(sorted_M))
    return share_N


def _calibration_error(confidence_N: Array, hit_N: npt.NDArray[np.bool_], weights_NB: Array) -> Array:
    """Mean gap between confidence and accuracy over bins of confidence."""
    bins_N = np.clip(np.ceil(confidence_N * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    gaps_MB = _sum_by(bins_N, confidence_N - hit_N, ECE_BINS, weights_NB)
    error_B: Array = np.abs(gaps_MB).sum(axis=0) / weights_NB.sum(axis=0)
    return error_B


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
