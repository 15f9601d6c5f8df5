"""What one arm reaches on each class, label or number of a task, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedpipe.evaluate.bootstrap import Interval, percentiles
from embedpipe.evaluate.dense import place_rates, place_sums
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import Array, class_rates
from embedpipe.evaluate.multilabel import label_rates
from embedpipe.evaluate.numbers import number_rates

RATES = {
    "classes": ("precision", "recall", "f1"),
    "multilabel": ("ap", "precision", "recall", "f1"),
    "number": ("r2", "mae"),
    "dense": ("iou", "precision", "recall"),
}


def per_class(evidence: Evidence, arm: str) -> list[dict[str, Any]] | None:
    """One row a class, label or number, in the order of the task's; None for one number.

    Returns
    -------
    list of dict
        ``class`` (or ``output``, of numbers), ``support`` (samples or places of it), for labels ``known`` (samples of
        which the label is known), and for each rate its value and bounds; null where it has no denominator: where a
        class has no sample (recall), or is never predicted (precision).
    """
    spec, judge = evidence.spec, evidence.judge
    if not spec.names:
        return None
    truth_N, num = evidence.truth, len(spec.names)
    scores_NK = evidence.predictions.scores(arm).at(evidence.sample_ids)[0].astype(np.float64)
    more: list[dict[str, Any]] = [{} for _ in spec.names]
    if not np.isfinite(scores_NK).all():
        return None

    def rates_under(weights_NB: Array) -> dict[str, Array]:
        if spec.kind == "classes":
            return class_rates(truth_N.astype(np.int64), scores_NK.argmax(axis=1), num, weights_NB)
        if spec.kind == "multilabel":
            return label_rates(truth_N.astype(np.float64), scores_NK, weights_NB)
        if spec.kind == "dense":
            return place_rates(truth_N.astype(np.int64), scores_NK.astype(np.int64), weights_NB, num)
        return number_rates(truth_N.astype(np.float64), scores_NK, weights_NB)

    if spec.kind == "classes":
        more = _supports(np.bincount(truth_N.astype(np.int64), minlength=num).tolist())
    elif spec.kind == "multilabel":
        known_K = (~np.isnan(truth_N.astype(np.float64))).sum(axis=0)
        more = _supports((truth_N == 1).sum(axis=0).tolist())
        more = [{**row, "known": int(known)} for row, known in zip(more, known_K, strict=True)]
    elif spec.kind == "dense":
        codes = truth_N.astype(np.int64), scores_NK.astype(np.int64)
        sums = place_sums(*codes, np.ones((len(truth_N), 1)), num)
        more = _supports(sums["support"][:, 0].tolist())
    point = rates_under(np.ones((len(truth_N), 1)))
    resampled = rates_under(judge.counts_NB.astype(np.float64))
    name_of = "output" if spec.kind == "number" else "class"
    return [
        {
            name_of: name,
            **more[code],
            **{
                rate: Interval(float(point[rate][code, 0]), *percentiles(resampled[rate][code])).to_dict()
                for rate in RATES[spec.kind]
            },
        }
        for code, name in enumerate(spec.names)
    ]


def _supports(counts: Sequence[float]) -> list[dict[str, Any]]:
    return [{"support": int(count)} for count in counts]
