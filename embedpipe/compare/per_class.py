"""Precision, recall and F1 of each class under one arm, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedpipe.evaluate.bootstrap import Interval, percentiles
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import class_rates

RATES = ("precision", "recall", "f1")


def per_class(evidence: Evidence, arm: str) -> list[dict[str, Any]] | None:
    """One row a class, in the order of the task's classes; None for numbers.

    Returns
    -------
    list of dict
        ``class``, ``support`` (samples of it), and for each rate its value and bounds; null where the class has
        no sample (recall), or is never predicted (precision).
    """
    if evidence.kind != "classes":
        return None
    judge = evidence.judge
    predicted_N = evidence.predictions.scores(arm).at(evidence.sample_ids)[0].argmax(axis=1)
    codes_N, num_classes = evidence.truth.astype(np.int64), len(evidence.classes)
    point = class_rates(codes_N, predicted_N, num_classes, np.ones((len(codes_N), 1)))
    resampled = class_rates(codes_N, predicted_N, num_classes, judge.counts_NB.astype(np.float64))
    support_K = np.bincount(codes_N, minlength=num_classes)
    return [
        {
            "class": name,
            "support": int(support_K[code]),
            **{
                rate: Interval(float(point[rate][code, 0]), *percentiles(resampled[rate][code])).to_dict()
                for rate in RATES
            },
        }
        for code, name in enumerate(evidence.classes)
    ]
