"""Metrics of many labels a sample, each of which may be unknown, under many weightings of the samples at once.

An entry (sample, label) that nobody said anything of is left out of its label alone. Average precision and AUROC are
exact under equal weights; under others they are first-order expansions about them, as AUROC of classes is, since
summing a thousand weightings along each label's ranking costs twenty times what all other metrics take together.

References
----------
Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", section 4.2 (the measure); average
precision as scikit-learn has it, without interpolation.
Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 21.2 (the expansion: influence functions).
"""

# N samples, K labels, B weightings (bootstrap resamples), T distinct scores

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ShapeError
from embedpipe.evaluate.sums import Array, mean_of_known, mean_ratio, share_below

SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)
THRESHOLD = 0.5
"""Above it a label is predicted."""


def label_metrics(truth_NK: Array, scores_NK: Array, weights_NB: Array) -> dict[str, Array]:
    """Mean average precision, F1 over labels and over all entries, AUROC over labels, and log loss an entry, [B].

    A label counts in mAP where it has a positive sample, in AUROC where it has one of each, in macro F1 where it is
    there or predicted.

    Parameters
    ----------
    truth_NK
        0 and 1, NaN where unknown.
    scores_NK
        Probabilities.
    """
    rates = label_rates(truth_NK, scores_NK, weights_NB)
    twice_KB, either_KB = 2 * rates["hits"], rates["support"] + rates["predicted"]
    known_NK = ~np.isnan(truth_NK)
    shares_NK = np.clip(scores_NK, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    losses_NK = -np.where(truth_NK == 1, np.log(shares_NK), np.log1p(-shares_NK))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "map": mean_of_known(rates["ap"]),
            "macro_f1": mean_ratio(twice_KB, either_KB),
            "micro_f1": twice_KB.sum(axis=0) / either_KB.sum(axis=0),
            "auroc": mean_of_known(rates["auroc"]),
            "nll": np.where(known_NK, losses_NK, 0.0).sum(axis=1)
            @ weights_NB
            / (known_NK.sum(axis=1).astype(np.float64) @ weights_NB),
        }


def label_rates(truth_NK: Array, scores_NK: Array, weights_NB: Array) -> dict[str, Array]:
    """Of each label under each weighting, [K, B]: average precision, AUROC, precision, recall, F1, and what these are
    made of: ``support`` (weight of samples that have it), ``predicted`` and ``hits``. NaN where nothing divides.
    """
    known_NK, positive_NK = ~np.isnan(truth_NK), truth_NK == 1
    ap_NK, slope_NK, right_NK = _ranked(known_NK, positive_NK, scores_NK)
    said_NK = known_NK & (scores_NK > THRESHOLD)

    def summed(values_NK: npt.NDArray[np.generic]) -> Array:
        found: Array = values_NK.T.astype(np.float64) @ weights_NB
        return found

    support_KB, all_KB = summed(positive_NK), summed(known_NK)
    predicted_KB, hits_KB = summed(said_NK), summed(said_NK & positive_NK)
    num_K, num_positive_K = known_NK.sum(axis=0)[:, None], positive_NK.sum(axis=0)[:, None]
    plain_K = np.where(positive_NK, right_NK, 0.0).sum(axis=0)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ap_KB = summed(ap_NK) / support_KB + summed(slope_NK) * num_K / all_KB
        auroc_KB = (
            summed(np.where(positive_NK, right_NK, 0.0)) / support_KB
            + summed(np.where(positive_NK, 0.0, right_NK)) / (all_KB - support_KB)
            - plain_K / num_positive_K
        )
        return {
            "ap": np.clip(ap_KB, 0.0, 1.0),
            "auroc": np.where((support_KB > 0) & (all_KB > support_KB), np.clip(auroc_KB, 0.0, 1.0), np.nan),
            "precision": hits_KB / predicted_KB,
            "recall": hits_KB / support_KB,
            "f1": 2 * hits_KB / (support_KB + predicted_KB),
            "support": support_KB,
            "predicted": predicted_KB,
            "hits": hits_KB,
        }


def _ranked(
    known_NK: npt.NDArray[np.bool_], positive_NK: npt.NDArray[np.bool_], scores_NK: Array
) -> tuple[Array, Array, Array]:
    """What each sample adds to the ranking of each label, [N, K], 0 where unknown.

    Returns
    -------
    precision of what is ranked as high as a positive sample; slope of average precision in a sample's weight, where
    positive samples count the same; share of the other side that a sample is ranked on the right side of.
    """
    ap_NK, slope_NK, right_NK = (np.zeros(scores_NK.shape) for _ in range(3))
    for k in range(scores_NK.shape[1]):
        there = np.flatnonzero(known_NK[:, k])
        scores_n, positive_n = scores_NK[there, k], positive_NK[there, k]
        inside, outside = np.sort(scores_n[positive_n]), np.sort(scores_n[~positive_n])
        if len(inside) == 0:
            continue
        # of samples ranked as high as each, or higher
        hits_n = len(inside) - np.searchsorted(inside, scores_n, "left")
        all_n = hits_n + len(outside) - np.searchsorted(outside, scores_n, "left")
        precision_n = hits_n / all_n
        ap_NK[there, k] = np.where(positive_n, precision_n, 0.0)
        # every positive sample ranked no higher has this one in its precision
        order = np.argsort(scores_n[positive_n], kind="stable")
        inverse = np.cumsum(np.r_[0.0, (1 / all_n[positive_n])[order]])
        weighed = np.cumsum(np.r_[0.0, (precision_n / all_n)[positive_n][order]])
        up_to = np.searchsorted(inside, scores_n, "right")
        slope_NK[there, k] = (positive_n * inverse[up_to] - weighed[up_to]) / len(inside)
        if len(outside):
            right_NK[there[positive_n], k] = share_below(outside, scores_n[positive_n])
            right_NK[there[~positive_n], k] = 1 - share_below(inside, scores_n[~positive_n])
    return ap_NK, slope_NK, right_NK


def mean_average_precision(
    truth_NK: npt.NDArray[np.floating], scores_NK: npt.NDArray[np.floating], weights_NB: Array | None = None
) -> Array:
    """Average precision of each label, averaged over the labels that have a positive sample: exact under any weights.

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
    known_NK = ~np.isnan(truth_NK)
    found = [np.full(weights_NB.shape[1], np.nan)]
    for truth_N, scores_N, known_N in zip(truth_NK.T, scores_NK.T, known_NK.T, strict=True):
        if known_N.any():
            found.append(average_precision(truth_N[known_N] > 0.5, scores_N[known_N], weights_NB[known_N]))
    return mean_of_known(np.stack(found))


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
