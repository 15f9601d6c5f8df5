"""Metrics of a class at each place of a grid, under many weightings of the samples at once.

A place of no class counts nowhere. Samples are weighed, never places: those of one image say much the same.

References
----------
Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", section 4.3 (intersection over union of
counts pooled over all images).
"""

# N samples, P places, K classes, B weightings (bootstrap resamples)

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedpipe.evaluate.sums import Array, mean_ratio

Codes = npt.NDArray[np.int64]


def place_metrics(truth_NP: Codes, predicted_NP: Codes, weights_NB: Array) -> dict[str, Array]:
    """Mean intersection over union and mean F1 over classes that are there or predicted, and the share of places that
    are right, [B].
    """
    rates = place_sums(truth_NP, predicted_NP, weights_NB)
    support_KB, predicted_KB, hits_KB = rates["support"], rates["predicted"], rates["hits"]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "mean_iou": mean_ratio(hits_KB, support_KB + predicted_KB - hits_KB),
            "accuracy": hits_KB.sum(axis=0) / support_KB.sum(axis=0),
            "macro_f1": mean_ratio(2 * hits_KB, support_KB + predicted_KB),
        }


def place_rates(
    truth_NP: Codes, predicted_NP: Codes, weights_NB: Array, num_classes: int
) -> dict[str, Array]:
    """Intersection over union, precision and recall of each class, [K, B]; NaN where there is no denominator."""
    sums = place_sums(truth_NP, predicted_NP, weights_NB, num_classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "iou": sums["hits"] / (sums["support"] + sums["predicted"] - sums["hits"]),
            "precision": sums["hits"] / sums["predicted"],
            "recall": sums["hits"] / sums["support"],
        }


def place_sums(
    truth_NP: Codes, predicted_NP: Codes, weights_NB: Array, num_classes: int | None = None
) -> dict[str, Array]:
    """Weighted counts of places that are of each class, predicted to be, and both, [K, B]."""
    known_NP = truth_NP >= 0
    num = num_classes or int(max(truth_NP.max(initial=0), predicted_NP.max(initial=0))) + 1
    row_NP = np.broadcast_to(np.arange(len(truth_NP))[:, None], truth_NP.shape)

    def summed(codes_NP: Codes, where_NP: npt.NDArray[np.bool_]) -> Array:
        cells = row_NP[where_NP] * num + codes_NP[where_NP]
        counts_NK = np.bincount(cells, minlength=len(truth_NP) * num).reshape(-1, num)
        found: Array = counts_NK.T.astype(np.float64) @ weights_NB
        return found

    return {
        "support": summed(truth_NP, known_NP),
        "predicted": summed(predicted_NP, known_NP),
        "hits": summed(truth_NP, known_NP & (truth_NP == predicted_NP)),
    }
