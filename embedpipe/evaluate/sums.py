"""Sums over samples under many weightings at once: what every metric is made of."""

# N samples, K classes, B weightings (bootstrap resamples), M other samples

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

Array: TypeAlias = npt.NDArray[np.float64]


def sum_by(codes_N: npt.NDArray[np.int64], values_N: Array, num_codes: int, weights_NB: Array) -> Array:
    """Weighted sums of `values_N` by code, [codes, B]."""
    rows = np.arange(len(codes_N))
    table = sparse.csr_array((values_N, (codes_N, rows)), shape=(num_codes, len(codes_N)))
    summed: Array = np.asarray(table @ weights_NB)
    return summed


def mean_ratio(numerator_KB: Array, denominator_KB: Array) -> Array:
    """Mean of the ratio over classes with a denominator above zero."""
    present_KB = denominator_KB > 0
    ratio_KB = np.divide(numerator_KB, denominator_KB, out=np.zeros_like(numerator_KB), where=present_KB)
    mean: Array = ratio_KB.sum(axis=0) / present_KB.sum(axis=0)
    return mean


def mean_of_known(values_KB: Array) -> Array:
    """Mean over rows of the values that are not NaN, [B]; NaN where there is none."""
    there_KB = np.isfinite(values_KB)
    count_B = there_KB.sum(axis=0)
    summed_B = np.where(there_KB, values_KB, 0.0).sum(axis=0)
    mean_B: Array = np.divide(summed_B, count_B, out=np.full(len(count_B), np.nan), where=count_B > 0)
    return mean_B


def share_below(sorted_M: Array, values_N: Array) -> Array:
    """Share of `sorted_M` below each value, equal ones by half."""
    below_N = np.searchsorted(sorted_M, values_N, "left") + np.searchsorted(sorted_M, values_N, "right")
    share_N: Array = below_N / (2 * len(sorted_M))
    return share_N
