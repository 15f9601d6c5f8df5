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

import numpy as np
import numpy.typing as npt

from embedpipe.evaluate.dense import place_metrics
from embedpipe.evaluate.multilabel import label_metrics
from embedpipe.evaluate.numbers import number_metrics
from embedpipe.evaluate.sums import Array as Array
from embedpipe.evaluate.sums import mean_of_known, mean_ratio, share_below, sum_by

METRICS: dict[str, tuple[str, ...]] = {
    "classes": ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "brier", "ece"),
    "multilabel": ("map", "macro_f1", "micro_f1", "auroc", "nll"),
    "number": ("r2", "mae"),
    "dense": ("mean_iou", "accuracy", "macro_f1"),
}
BOX_METRICS = ("mean_iou",)
"""Of numbers that are a box, besides."""
DEFAULT_METRIC = {"classes": "balanced_accuracy", "multilabel": "map", "number": "r2", "dense": "mean_iou"}
LOWER_IS_BETTER = frozenset({"nll", "brier", "ece", "mae"})
PERCENT = frozenset({"accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "auroc", "map", "mean_iou"})
ECE_BINS = 15
"""Equal parts of [0, 1] in which confidence is compared with accuracy; 15 as in the literature."""
# Scores are stored as float32: a smaller probability cannot be told from zero there.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)


def metrics_of(kind: str, box: str | None = None) -> tuple[str, ...]:
    """Names of the metrics of `kind`, in the order in which they are shown."""
    return METRICS[kind] if box is None else (*METRICS[kind], *BOX_METRICS)


def metric_of(kind: str, by: str, box: str | None = None) -> str:
    """`by` where it is a metric of `kind`, else the default of that kind."""
    return by if by in metrics_of(kind, box) else DEFAULT_METRIC[kind]


def sign_of(metric: str) -> int:
    """1 where more is better, -1 where less is."""
    return -1 if metric in LOWER_IS_BETTER else 1


def weighted_metrics(
    kind: str,
    truth_N: npt.NDArray[np.generic],
    scores_NK: npt.NDArray[np.floating],
    weights_NB: Array,
    box: str | None = None,
) -> dict[str, Array]:
    """All metrics of `kind` under each weighting.

    Parameters
    ----------
    truth_N
        As `embedpipe.manifest.kinds` lists it for the kind, of samples that are labelled.
    scores_NK
        In the order of `ArmScores`.
    weights_NB
        Weight of each sample in each weighting, 0 or more.
    box
        How four numbers are a box, where they are one.

    Returns
    -------
    dict of metric name to float64 [B]. NaN where scores are not finite, or where a metric has no value
    (R² of constant targets, AUROC of a single class).

    Notes
    -----
    All equal scikit-learn's with `sample_weight`, but for those of rankings (AUROC, mAP): under equal weights they are
    exact, under others they are the first-order expansion about them in DeLong's components, since re-ranking each
    class for each of a thousand resamples would cost more than everything else together.
    """
    if not np.isfinite(scores_NK).all():
        return {name: np.full(weights_NB.shape[1], np.nan) for name in metrics_of(kind, box)}
    if kind == "classes":
        return _class_metrics(truth_N.astype(np.int64), scores_NK.astype(np.float64), weights_NB)
    if kind == "dense":
        return place_metrics(truth_N.astype(np.int64), scores_NK.astype(np.int64), weights_NB)
    truth_NK = truth_N.astype(np.float64).reshape(scores_NK.shape)
    if kind == "multilabel":
        return label_metrics(truth_NK, scores_NK.astype(np.float64), weights_NB)
    return number_metrics(truth_NK, scores_NK.astype(np.float64), weights_NB, box)


def point_metrics(
    kind: str,
    truth_N: npt.NDArray[np.generic],
    scores_NK: npt.NDArray[np.floating],
    box: str | None = None,
) -> dict[str, float]:
    """The plain metrics: every sample counts once."""
    found = weighted_metrics(kind, truth_N, scores_NK, np.ones((len(truth_N), 1)), box)
    return {name: float(value[0]) for name, value in found.items()}


def _class_metrics(codes_N: npt.NDArray[np.int64], scores_NK: Array, weights_NB: Array) -> dict[str, Array]:
    """Accuracy, mean recall over classes present, mean F1 over classes present or predicted, AUROC of each
    class against the rest, log loss, Brier score summed over classes (0 to 2), and calibration error.
    """
    num_classes = scores_NK.shape[1]
    predicted_N = scores_NK.argmax(axis=1)
    hit_N = predicted_N == codes_N
    total_B = weights_NB.sum(axis=0)
    support_KB = sum_by(codes_N, np.ones(len(codes_N)), num_classes, weights_NB)
    predicted_KB = sum_by(predicted_N, np.ones(len(codes_N)), num_classes, weights_NB)
    hits_KB = sum_by(codes_N, hit_N.astype(np.float64), num_classes, weights_NB)

    rows_N = np.arange(len(codes_N))
    shares_NK = scores_NK / scores_NK.sum(axis=1, keepdims=True)
    of_truth_N = shares_NK[rows_N, codes_N]
    losses_N = -np.log(np.clip(of_truth_N, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))
    brier_N = np.square(shares_NK).sum(axis=1) - 2 * of_truth_N + 1
    return {
        "accuracy": hits_KB.sum(axis=0) / total_B,
        "balanced_accuracy": mean_ratio(hits_KB, support_KB),
        "macro_f1": mean_ratio(2 * hits_KB, support_KB + predicted_KB),
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
    support_KB = sum_by(codes_N, ones_N, num_classes, weights_NB)
    predicted_KB = sum_by(predicted_N, ones_N, num_classes, weights_NB)
    hits_KB = sum_by(codes_N, (predicted_N == codes_N).astype(np.float64), num_classes, weights_NB)
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
        component_NK[mine_N, column] = share_below(outside, shares_NK[mine_N, code])
        component_NK[~mine_N, column] = 1 - share_below(inside, shares_NK[~mine_N, code])
    place_K = np.full(num_classes, -1)
    place_K[able] = np.arange(len(able))
    # of a class that every sample is of there is no component, and no sample of another class
    own_N = component_NK[np.arange(num_samples), place_K[codes_N]]
    own_KB = sum_by(codes_N, own_N, num_classes, weights_NB)[able]
    rest_KB = component_NK.T @ weights_NB - own_KB
    in_KB = support_KB[able]
    out_KB = weights_NB.sum(axis=0) - in_KB
    plain_K = own_N.reshape(-1) @ (codes_N[:, None] == able) / members_K[able]
    with np.errstate(divide="ignore", invalid="ignore"):
        area_KB = np.clip(own_KB / in_KB + rest_KB / out_KB - plain_K[:, None], 0.0, 1.0)
    there_KB = (in_KB > 0) & (out_KB > 0)
    return mean_of_known(np.where(there_KB, area_KB, np.nan))


def _calibration_error(confidence_N: Array, hit_N: npt.NDArray[np.bool_], weights_NB: Array) -> Array:
    """Mean gap between confidence and accuracy over bins of confidence."""
    bins_N = np.clip(np.ceil(confidence_N * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    gaps_MB = sum_by(bins_N, confidence_N - hit_N, ECE_BINS, weights_NB)
    error_B: Array = np.abs(gaps_MB).sum(axis=0) / weights_NB.sum(axis=0)
    return error_B
