"""Whether an arm's probabilities mean what they say, before and after one temperature fitted on validation.

The temperature would look too good on the samples it is fitted on, so the figures after it are cross-fitted: the
validation samples are cut in parts, by group, and each part is scaled by what the others ask for.

References
----------
Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

# N samples, K classes

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import SMALLEST_PROBABILITY, Array, point_metrics
from embedpipe.heads.base import softmax
from embedpipe.heads.temperature import fit_inverse_temperature

PARTS = 5
"""Parts of the validation samples: each temperature is fitted on four fifths of them."""
CALIBRATED = ("nll", "brier", "ece")


def calibration(evidence: Evidence, arms: Sequence[str]) -> list[dict[str, Any]]:
    """Each arm's calibration at all labels, in the order given; none for numbers.

    Returns
    -------
    list of dict
        ``arm``, ``temperature`` (fitted on all validation samples; above 1 it was too sure), and ``before`` and
        ``after``: log loss, Brier score and calibration error, those after it cross-fitted.
    """
    if evidence.kind != "classes":
        return []
    codes_N = evidence.truth.astype(np.int64)
    parts_N = parts_of(len(codes_N), evidence.judge.groups, evidence.judge.seed)
    rows = []
    for arm in arms:
        scores_NK = evidence.predictions.scores(arm).at(evidence.sample_ids)[0].astype(np.float64)
        if not np.isfinite(scores_NK).all():
            continue
        logits_NK = np.log(np.maximum(scores_NK, SMALLEST_PROBABILITY))
        before = point_metrics(evidence.kind, codes_N, scores_NK)
        after = point_metrics(evidence.kind, codes_N, cross_fitted(logits_NK, codes_N, parts_N))
        rows.append(
            {
                "arm": arm,
                "temperature": 1 / fit_inverse_temperature(logits_NK, codes_N),
                "before": {name: before[name] for name in CALIBRATED},
                "after": {name: after[name] for name in CALIBRATED},
            }
        )
    return rows


def cross_fitted(logits_NK: Array, codes_N: npt.NDArray[np.int64], parts_N: npt.NDArray[np.int64]) -> Array:
    """Probabilities of each part under the temperature that the other parts ask for."""
    scaled_NK = np.empty_like(logits_NK)
    for part in np.unique(parts_N):
        held = parts_N == part
        inverse = fit_inverse_temperature(logits_NK[~held], codes_N[~held]) if not held.all() else 1.0
        scaled_NK[held] = softmax(inverse * logits_NK[held])
    return scaled_NK


def parts_of(num: int, groups: Sequence[str] | None, seed: int) -> npt.NDArray[np.int64]:
    """Part of each sample, at random; a group stays whole."""
    members = np.arange(num) if groups is None else np.unique(np.asarray(groups, str), return_inverse=True)[1]
    num_groups = int(members.max()) + 1
    shuffled = np.random.default_rng([seed, 3]).permutation(num_groups)
    parts_N: npt.NDArray[np.int64] = (shuffled % min(PARTS, num_groups))[members]
    return parts_N
