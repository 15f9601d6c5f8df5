"""Who wins where among the arms that adapt the source model itself, and the head that they start from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from embedpipe.evaluate.arms import ALL, k_code, k_label, selected_arm
from embedpipe.evaluate.bootstrap import Interval
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import sign_of


def transferred(evidence: Evidence, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
    """Every transfer arm at every number of labels, beside the selected head of its backbone.

    Parameters
    ----------
    chosen
        The task's entry of the selection.

    Returns
    -------
    dict
        ``arms``: one row an arm and k_shot, with ``recipe`` (``head`` for the head that was selected on the cache),
        ``name``, ``backbone``, ``num_labels``, ``draws``, the selecting metric with its interval, and, where it is not
        the best there, the paired ``difference`` from the best, over the draws that both have. ``winners``: for each
        k_shot the best arm, and those whose interval of the difference holds zero. None without transfer arms.
    """
    rows = evidence.transfer_rows()
    if not rows:
        return None
    backbones = dict.fromkeys(row["backbone"] for row in rows)
    shots = sorted({k_code(row["k_shot"]) for row in rows}, key=lambda k: math.inf if k == ALL else k)
    found: list[dict[str, Any]] = []
    winners = []
    for k in shots:
        here = [(row["arm"], row["recipe"], row["head"], row["backbone"]) for row in rows if _at(row, k)]
        for backbone in backbones:
            arm = chosen["by_backbone"].get(backbone, {}).get("arm") if k == ALL else selected_arm(backbone)
            if arm is not None and evidence.has(arm, k):
                here.append((arm, "head", "selected head", backbone))
        told = _judged(evidence, here, k)
        found += told
        best = next((one for one in told if one["difference"] is None and one["value"] is not None), None)
        if best is not None:
            ties = [one["arm"] for one in told if one is not best and _holds_zero(one["difference"])]
            winners.append({"k_shot": k_label(k), "arm": best["arm"], "name": best["name"], "ties": ties})
    return {"arms": found, "winners": winners}


def _judged(evidence: Evidence, here: list[tuple[str, str, str, str]], k: int) -> list[dict[str, Any]]:
    sign, metric = sign_of(evidence.metric), evidence.metric
    values = {arm: evidence.value(arm, k) for arm, *_ in here}
    finite = [arm for arm, value in values.items() if math.isfinite(value)]
    best = max(finite, key=lambda arm: sign * values[arm]) if finite else None
    rows = []
    for arm, recipe, name, backbone in here:
        judged = evidence.judged(arm, k)
        difference = None
        if best is not None and arm != best and arm in finite:
            difference = _difference(evidence, arm, best, k).to_dict()
        num_labels = evidence.about["num"]["train"] if k == ALL else k * len(evidence.classes)
        rows.append(
            {
                "arm": arm,
                "recipe": recipe,
                "name": name,
                "backbone": backbone,
                "k_shot": k_label(k),
                "num_labels": num_labels,
                "draws": evidence.predictions.scores(arm, k).num_draws,
                **judged.interval(metric).to_dict(),
                "difference": difference,
            }
        )
    return rows


def _difference(evidence: Evidence, arm: str, best: str, k: int) -> Interval:
    """Paired over samples, and over the draws that both have: the first ones, where an arm has fewer."""
    scores = [evidence.predictions.scores(one, k) for one in (arm, best)]
    num_draws = min(one.num_draws for one in scores)
    if all(one.num_draws == num_draws for one in scores):
        return evidence.judged(arm, k).minus(evidence.judged(best, k), evidence.metric)
    mine, other = (evidence.judge.judge(one.at(evidence.sample_ids)[:num_draws]) for one in scores)
    return mine.minus(other, evidence.metric)


def _at(row: Mapping[str, Any], k: int) -> bool:
    return k_code(row["k_shot"]) == k


def _holds_zero(difference: Mapping[str, Any] | None) -> bool:
    if difference is None or difference["ci_low"] is None or difference["ci_high"] is None:
        return False
    return bool(difference["ci_low"] <= 0 <= difference["ci_high"])
