"""What a figure draws of one task: confusion, learning curve, layer curve, paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from embedpipe.evaluate.arms import ALL, PER_DRAW, k_code, k_label, selected_arm
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import sign_of
from embedpipe.evaluate.significance import contrasts


def confusion(evidence: Evidence, arm: str) -> dict[str, Any] | None:
    """Counts of true (row) by predicted (column) class; None for numbers."""
    if evidence.kind != "classes":
        return None
    num_classes = len(evidence.classes)
    predicted = evidence.predictions.scores(arm).at(evidence.sample_ids)[0].argmax(axis=1)
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (evidence.truth.astype(np.int64), predicted), 1)
    return {"classes": list(evidence.classes), "counts": counts.tolist()}


def paired(evidence: Evidence, selected: str) -> list[dict[str, Any]]:
    """Each arm against the selected one, on the same samples and resamples, nearest first.

    With p-values of the paired bootstrap and of McNemar's exact test, alone and corrected for all arms.
    """
    return [one.to_dict() for one in contrasts(evidence, selected)]


def learning_curve(evidence: Evidence, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arm that stands for each backbone at each k_shot, with the labels it trains on."""
    points = []
    for backbone, role in evidence.backbones().items():
        for k_shot in [*evidence.numeric_k_shot(), ALL]:
            arm = (
                chosen["by_backbone"].get(backbone, {}).get("arm")
                if k_shot == ALL
                else selected_arm(backbone)
            )
            if arm is None or not evidence.has(arm, k_shot):
                continue
            num_labels = evidence.about["num"]["train"] if k_shot == ALL else k_shot * len(evidence.classes)
            points.append(
                {
                    "backbone": backbone,
                    "role": role,
                    "k_shot": k_label(k_shot),
                    "num_labels": num_labels,
                    **evidence.judged(arm, k_shot).interval(evidence.metric).to_dict(),
                }
            )
    return points


def layer_curve(evidence: Evidence) -> list[dict[str, Any]]:
    """The best head of each tap at each k_shot, by depth.

    At all labels what selects chooses the head; at a numeric k_shot the mean score on held-out folds of the
    draws' own labels does, so that these figures are not the best of many on validation.
    """
    points = []
    for k_shot in [*evidence.numeric_k_shot(), ALL]:
        # an arm on several taps has no depth
        rows = [
            row
            for row in evidence.head_rows(k_shot)
            if row["role"] != "none" and row["tap"] != PER_DRAW and "parts" not in row
        ]
        for backbone, tap in dict.fromkeys((row["backbone"], row["tap"]) for row in rows):
            here = [row for row in rows if (row["backbone"], row["tap"]) == (backbone, tap)]
            row = max(here, key=lambda one: _standing(evidence, one))
            points.append(
                {
                    **{name: row[name] for name in ("backbone", "role", "tap", "node", "reduction", "depth")},
                    "head": row["head"],
                    "k_shot": k_label(k_shot),
                    **evidence.judged(row["arm"], k_shot).interval(evidence.metric).to_dict(),
                }
            )
    return sorted(points, key=lambda one: (one["backbone"], k_code(one["k_shot"]), one["depth"], one["tap"]))


def _standing(evidence: Evidence, row: Mapping[str, Any]) -> float:
    """What chooses among the heads of a tap; more is better."""
    sign = sign_of(evidence.metric)
    if k_code(row["k_shot"]) == ALL:
        value = row["inner"][evidence.metric] if "inner" in row else evidence.value(row["arm"])
        return sign * value if value is not None and math.isfinite(value) else -math.inf
    inner = [draw["inner"][evidence.metric] for draw in row["per_draw"] if draw["inner"] is not None]
    finite = [value for value in inner if value is not None]
    return sign * sum(finite) / len(finite) if finite else -math.inf
