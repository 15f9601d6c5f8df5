"""The one sentence: how far transferred features are ahead of random weights and of pixels.

It speaks of the first task of classes at five labels a class, or else at its smallest k_shot. There every
arm chooses tap and head with its own few labels, so no figure in it is the best of many on validation;
which transferred backbone it speaks of was chosen on validation with all labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedpipe.evaluate.arms import ALL, k_label, selected_arm
from embedpipe.evaluate.bootstrap import Interval
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import PERCENT, sign_of
from embedpipe.evaluate.words import METRIC_WORDS

WORDS = {"transferred": "transferred features", "random": "random weights", "pixels": "pixels"}
ROLES = ("transferred", "random", "pixels")
USUAL_K = 5
"""Few enough for transfer to show, and enough to choose tap and head with."""


def headline(evidences: Mapping[str, Evidence], chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sentence and the figures in it.

    Parameters
    ----------
    evidences, chosen
        Evidence and selection of each task, in the order of params.yaml.

    Returns
    -------
    dict
        With ``differences`` (transferred minus each baseline, paired; in the metric's own unit, so 0.05
        is 5 points) where there is something to compare, else with ``sentence`` and the arms there are.
    """
    if not evidences:
        return {"sentence": "There is no task to compare arms on."}
    task = next((name for name, one in evidences.items() if one.kind == "classes"), next(iter(evidences)))
    evidence = evidences[task]
    numeric = evidence.numeric_k_shot()
    k_shot = USUAL_K if USUAL_K in numeric else min(numeric, default=ALL)
    arms = _standing_arms(evidence, chosen[task], k_shot)
    metric = evidence.metric
    head: dict[str, Any] = {
        "sentence": "",
        "task": task,
        "metric": metric,
        "k_shot": k_label(k_shot),
        "draws": evidence.predictions.scores(next(iter(arms.values()))[1], k_shot).num_draws if arms else 0,
        "num_samples": len(evidence.sample_ids),
        ("num_labels" if evidence.kind == "multilabel" else "num_classes"): len(evidence.classes),
        "differences": [],
        "arms": [
            {
                "role": role,
                "backbone": backbone,
                "arm": arm,
                **evidence.judged(arm, k_shot).interval(metric).to_dict(),
            }
            for role, (backbone, arm) in arms.items()
        ],
    }
    differences: dict[str, Interval] = {}
    if "transferred" in arms:
        ahead = evidence.judged(arms["transferred"][1], k_shot)
        for role in ("random", "pixels"):
            if role in arms:
                differences[role] = ahead.minus(evidence.judged(arms[role][1], k_shot), metric)
    head["differences"] = [
        {"name": f"transferred - {role}", **difference.to_dict()} for role, difference in differences.items()
    ]
    head["sentence"] = _sentence(head, differences)
    return head


def _standing_arms(evidence: Evidence, chosen: Mapping[str, Any], k_shot: int) -> dict[str, tuple[str, str]]:
    """Backbone and arm of each role: within a role, the backbone best on validation at all labels."""
    order = sorted(
        chosen["by_backbone"].items(), key=lambda item: -sign_of(evidence.metric) * float(item[1]["value"])
    )
    arms: dict[str, tuple[str, str]] = {}
    for role in ROLES:
        for backbone, entry in order:
            arm = entry["arm"] if k_shot == ALL else selected_arm(backbone)
            if entry["role"] == role and evidence.has(arm, k_shot):
                arms[role] = (backbone, arm)
                break
    return arms


def _sentence(head: Mapping[str, Any], differences: Mapping[str, Interval]) -> str:
    if not head["arms"]:
        return f"No backbone has predictions on `{head['task']}`: there is nothing to compare."
    first = head["arms"][0]
    labels = (
        "all labels"
        if head["k_shot"] == "all"
        else f"{head['k_shot']} label{'s' * (head['k_shot'] != 1)} a class"
    )
    who = WORDS[first["role"]]
    reach = "reach" if who.endswith("s") else "reaches"
    metric = head["metric"]
    value = _value(first["value"], metric)
    start = f"With {labels} on `{head['task']}`, {who} ({first['backbone']}) {reach} {value}"
    over = "samples and draws" if head["draws"] > 1 else "samples"
    basis = f"{METRIC_WORDS[metric]}, validation, " + (
        f"{head['draws']} draws; " if head["draws"] > 1 else ""
    )
    basis += f"95 % bootstrap over {over}"
    if not differences:
        if first["role"] == "transferred":
            lack = "there is no baseline backbone (random weights or pixels) to compare with"
        else:
            lack = "no backbone has learnt weights, so nothing is transferred"
        rest = [
            f" and {WORDS[one['role']]} ({one['backbone']}) {_value(one['value'], metric)} {_bounds(one, metric)}"
            for one in head["arms"][1:]
        ]
        return f"{start} {_bounds(first, metric)}{''.join(rest)}; {lack} ({basis})."
    parts = [
        _difference(difference, metric, WORDS[role], first=place == 0)
        for place, (role, difference) in enumerate(differences.items())
    ]
    return f"{start}: {' and '.join(parts)} ({basis})."


def _difference(difference: Interval, metric: str, whom: str, *, first: bool) -> str:
    """`14.8 points [13.1, 16.4] ahead of random weights`; behind where it is."""
    sign = sign_of(metric)
    gain, low, high = sign * difference.value, sign * difference.ci_low, sign * difference.ci_high
    direction = "ahead of" if gain >= 0 else "behind"
    if gain < 0:
        gain, low, high = -gain, -low, -high
    low, high = min(low, high), max(low, high)
    unit = " points" if first and metric in PERCENT else ""
    return f"{_bare(gain, metric)}{unit} [{_bare(low, metric)}, {_bare(high, metric)}] {direction} {whom}"


def _bounds(one: Mapping[str, Any], metric: str) -> str:
    return f"[{_bare(one['ci_low'], metric)}, {_bare(one['ci_high'], metric)}]"


def _value(value: float, metric: str) -> str:
    return f"{100 * value:.1f} %" if metric in PERCENT else f"{METRIC_WORDS[metric]} {value:.3g}"


def _bare(value: float | None, metric: str) -> str:
    if value is None:
        return "?"
    return f"{100 * value:.1f}" if metric in PERCENT else f"{value:.3g}"
