"""Write `data/selection.json`: for each task the best arm, the best in each backbone, and what ties.

Reads scores, predictions and open targets. The choice is over tap, backbone, head and hyperparameters at
once; baselines compete among themselves, each with the same grid, so that a comparison with them is fair.

What ties with the best is decided by the paired bootstrap, corrected by Holm over all arms of the task, and not
by whether a single interval holds zero: among forty arms that are as good as the best, two would be left out by
such intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from embedpipe.errors import DataError
from embedpipe.evaluate.arms import ALL, selected_arm
from embedpipe.evaluate.candidates import Candidates
from embedpipe.evaluate.evidence import Evidence, TaskFiles, is_baseline, open_evidence
from embedpipe.evaluate.files import write_json
from embedpipe.evaluate.metrics import sign_of
from embedpipe.evaluate.optimism import no_optimism, optimism
from embedpipe.evaluate.significance import contrasts
from embedpipe.progress import Progress, silent

Row: TypeAlias = dict[str, Any]
_PARTLY = (
    "; the corrected figure takes back what the choice among arms adds, not what the choice of hyperparameters "
    "within each arm does"
)


def select(
    tasks: Mapping[str, TaskFiles],
    *,
    baselines: Sequence[str] = (),
    seed: int = 0,
    path: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Select within every task.

    Parameters
    ----------
    tasks
        In the order of params.yaml.
    path
        Where to write the selection, if at all.

    Returns
    -------
    dict
        ``{"seed", "tasks": {T: {"metric", "num_arms", "num_candidates", "num_samples", "best",
        "by_backbone", "ties", "optimism", "k_shot", "notes"}}}``; `best` and each of `by_backbone` hold
        ``arm``, ``backbone``, ``role``, ``head``, ``tap``, ``params``, ``value``, ``ci_low``, ``ci_high`` and
        ``predictions_digest``. `ties` are the arms that cannot be told from the best (see
        `embedpipe.evaluate.significance`), `optimism` what choosing the best arm adds to its figure (see
        `embedpipe.evaluate.optimism`; null where folds of the training samples chose); `k_shot` names, for each
        numeric k_shot, the arm that stands for the best backbone.

    Raises
    ------
    DataError
        If a task has no arm with finite scores; files that are missing or of different runs.
    """
    chosen: dict[str, Any] = {"seed": seed, "tasks": {}}
    for done, (task, files) in enumerate(tasks.items()):
        progress(done, len(tasks), "tasks")
        shown = None if files.candidates is None else Candidates.read(files.candidates)
        evidence = open_evidence(task, files, seed=seed)
        chosen["tasks"][task] = select_task(evidence, list(baselines), shown)
        progress(done + 1, len(tasks), "tasks")
    if path is not None:
        write_json(path, chosen)
    return chosen


def select_task(
    evidence: Evidence, baselines: Sequence[str], candidates: Candidates | None = None
) -> dict[str, Any]:
    """Select within one task; see `select`."""
    with_features = [row for row in evidence.rows(ALL) if row["role"] != "none"]
    finite = [row for row in with_features if math.isfinite(evidence.value(row["arm"]))]
    notes = list(evidence.notes)
    if len(finite) < len(with_features):
        lost = [row["arm"] for row in with_features if row not in finite]
        notes.append(
            f"{len(lost)} arms have scores that are not finite and are left out: {', '.join(lost[:5])}"
        )
    if not finite:
        raise DataError(
            f"task {evidence.task!r}: no arm has finite predictions to choose from; "
            f"run `embedpipe train {evidence.task}`"
        )
    rivals = [row for row in finite if not is_baseline(row, list(baselines))]
    if not rivals:
        notes.append("every backbone is a baseline: the best of them is selected")
        rivals = finite
    best = _best(evidence, rivals)
    by_backbone = {
        backbone: _entry(evidence, _best(evidence, [row for row in finite if row["backbone"] == backbone]))
        for backbone in dict.fromkeys(row["backbone"] for row in finite)
    }
    if best.get("note"):
        notes.append(f"the selected arm {best['arm']}: {best['note']}")
    num_candidates = sum(len(row["candidates"]) for row in rivals)
    found = (
        no_optimism(evidence.value(best["arm"]), len(rivals), num_candidates)
        if evidence.chosen_on_folds
        else optimism(evidence, best["arm"], [row["arm"] for row in rivals], candidates)
    )
    if evidence.chosen_on_folds:
        notes.append(
            f"selected among {num_candidates} candidates on folds of the training samples: validation took no part, so "
            "its figures are not those of the best of many"
        )
    else:
        notes.append(
            f"selected among {num_candidates} candidates on {len(evidence.sample_ids)} validation samples: "
            "its own validation figure is the best of many, and so is optimistic"
            + ("" if found.num_candidates > len(rivals) else _PARTLY)
        )
    return {
        "metric": evidence.metric,
        "num_arms": len(rivals),
        "num_candidates": num_candidates,
        "num_samples": len(evidence.sample_ids),
        "best": _entry(evidence, best),
        "by_backbone": by_backbone,
        "ties": _ties(evidence, best, rivals),
        "optimism": found.to_dict(),
        "k_shot": {
            str(k): selected_arm(best["backbone"])
            for k in evidence.numeric_k_shot()
            if evidence.has(selected_arm(best["backbone"]), k)
        },
        "notes": notes,
    }


def _best(evidence: Evidence, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Best by the selecting metric, on what chooses; equal ones by log loss where there is one, then by the order of
    params.
    """
    sign = sign_of(evidence.metric)

    def rank(row: dict[str, Any]) -> tuple[float, float]:
        point = row["inner"] if evidence.chosen_on_folds else evidence.judged(row["arm"]).point
        loss = point.get("nll")
        return -sign * point[evidence.metric], 0.0 if loss is None else loss

    return min(rows, key=rank)


def _ties(evidence: Evidence, best: Row, rivals: Iterable[Row]) -> list[Row]:
    """Arms that the validation samples cannot tell from the best, nearest first."""
    names = {row["arm"] for row in rivals}
    against_all = contrasts(evidence, best["arm"])
    return [one.to_dict() for one in against_all if one.arm in names and not one.told_apart]


def _entry(evidence: Evidence, row: dict[str, Any]) -> dict[str, Any]:
    names = ("arm", "backbone", "role", "head", "tap", "params")
    return {
        **{name: row[name] for name in names},
        **evidence.judged(row["arm"]).interval(evidence.metric).to_dict(),
        "predictions_digest": evidence.predictions.digest(row["arm"]),
    }
