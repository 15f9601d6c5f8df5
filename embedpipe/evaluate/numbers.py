"""Metrics of one number a sample, of several, and of boxes, under many weightings of the samples at once."""

# N samples, M numbers, B weightings (bootstrap resamples)

from __future__ import annotations

import numpy as np

from embedpipe.evaluate.sums import Array


def number_metrics(
    truth_NM: Array, predicted_NM: Array, weights_NB: Array, box: str | None = None
) -> dict[str, Array]:
    """Coefficient of determination and mean absolute error, averaged over numbers; and mean overlap, of boxes."""
    rates = number_rates(truth_NM, predicted_NM, weights_NB)
    found = {name: values_MB.mean(axis=0) for name, values_MB in rates.items()}
    if box is not None:
        overlap_N = box_overlap(truth_NM, predicted_NM, box)
        found["mean_iou"] = overlap_N @ weights_NB / weights_NB.sum(axis=0)
    return found


def number_rates(truth_NM: Array, predicted_NM: Array, weights_NB: Array) -> dict[str, Array]:
    """The same of each number, [M, B]; R² is NaN where the targets are constant."""
    each = [
        _of_one(truth_N, predicted_N, weights_NB)
        for truth_N, predicted_N in zip(truth_NM.T, predicted_NM.T, strict=True)
    ]
    return {name: np.stack([one[name] for one in each]) for name in ("r2", "mae")}


def box_overlap(truth_NM: Array, predicted_NM: Array, box: str) -> Array:
    """Intersection over union of two boxes, [N]; a box of negative size is empty, and two empty ones do not overlap."""
    corners = [_corners(numbers_NM, box) for numbers_NM in (truth_NM, predicted_NM)]
    low_N2 = np.maximum(corners[0][0], corners[1][0])
    high_N2 = np.minimum(corners[0][1], corners[1][1])
    shared_N = np.prod(np.maximum(high_N2 - low_N2, 0.0), axis=1)
    areas = [np.prod(np.maximum(high - low, 0.0), axis=1) for low, high in corners]
    either_N = areas[0] + areas[1] - shared_N
    overlap_N: Array = np.divide(shared_N, either_N, out=np.zeros(len(shared_N)), where=either_N > 0)
    return overlap_N


def _corners(numbers_NM: Array, box: str) -> tuple[Array, Array]:
    """Lower and upper corner of each box, [N, 2]."""
    first, second = numbers_NM[:, :2], numbers_NM[:, 2:]
    if box == "xyxy":
        return first, second
    low = first if box == "xywh" else first - second / 2
    return low, low + second


def _of_one(truth_N: Array, predicted_N: Array, weights_NB: Array) -> dict[str, Array]:
    total_B = weights_NB.sum(axis=0)
    centred_N = truth_N - truth_N.mean()  # sums of squares lose digits far from zero
    sum_B = centred_N @ weights_NB
    spread_B = centred_N**2 @ weights_NB - sum_B**2 / total_B
    residual_B = (truth_N - predicted_N) ** 2 @ weights_NB
    constant_B = spread_B <= 1e-12 * np.maximum(centred_N**2 @ weights_NB, np.finfo(np.float64).tiny)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2_B = np.where(constant_B, np.nan, 1 - residual_B / spread_B)
    return {"r2": r2_B, "mae": np.abs(truth_N - predicted_N) @ weights_NB / total_B}
