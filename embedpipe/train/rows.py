"""What one training run says of its arms: rows of `data/scores/<T>.json`, and their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedpipe.evaluate.arms import ALL, MAJORITY, NO_BACKBONE, PER_DRAW, SHUFFLED, k_label, selected_arm
from embedpipe.evaluate.predictions import ArmScores
from embedpipe.train.fit import FewFit, Float, FullFit, best_of
from embedpipe.train.plan import Unit
from embedpipe.train.samples import TaskSamples


@dataclass
class Results:
    """Everything that was fitted, by arm id (and k), in the order of the plan."""

    units: dict[str, Unit]
    full: dict[str, FullFit] = field(default_factory=dict)
    few: dict[tuple[str, int], FewFit] = field(default_factory=dict)


@dataclass
class Written:
    """Rows and predictions, growing side by side."""

    samples: TaskSamples
    rows: list[dict[str, Any]] = field(default_factory=list)
    arms: list[ArmScores] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any], scores_RPK: Float | None, k_shot: int = ALL) -> None:
        """One arm; without predictions where it has none."""
        num_draws = 0 if scores_RPK is None else len(scores_RPK)
        self.rows.append({**row, "k_shot": k_label(k_shot), "draws": num_draws})
        if scores_RPK is not None:
            predicted = self.samples.predicted
            ids, splits = self.samples.sample_ids[predicted], self.samples.splits[predicted]
            self.arms.append(ArmScores(row["arm"], k_shot, ids, splits, scores_RPK))


def add_full(written: Written, results: Results) -> None:
    """Arms trained on every label, each by its best candidate on validation."""
    for arm, fitted in results.full.items():
        row = {**_place_of(results.units[arm]), "candidates": fitted.candidates}
        if fitted.best is None:
            note = _failures(fitted.candidates) or "no candidate has a finite score on validation"
            written.notes.append(f"{arm}: {note}; it makes no predictions")
            written.add({**row, "params": {}, "note": note}, None)
            continue
        best = fitted.candidates[fitted.best]
        said = _note_of(results.units[arm], fitted.candidates, best)
        inner = {"inner": best["inner"]} if "inner" in best else {}
        written.add({**row, "params": best["params"], "note": said, **inner}, fitted.scores[None])


def add_few(written: Written, results: Results, metric: str) -> None:
    """Arms of each k_shot, and for each backbone the one chosen anew in each draw."""
    for k_shot in sorted({k for _, k in results.few}):
        of_k = {arm: fitted for (arm, k), fitted in results.few.items() if k == k_shot}
        for arm, fitted in of_k.items():
            stray = sum(not draw["converged"] for draw in fitted.draws)
            note = f"not converged in {stray} of {len(fitted.draws)} draws" if stray else None
            row = {**_place_of(results.units[arm]), "params": _shared(fitted), "note": note}
            written.add({**row, "per_draw": fitted.draws}, fitted.scores, k_shot)
        for backbone in dict.fromkeys(results.units[arm].backbone for arm in of_k):
            mine = {arm: fitted for arm, fitted in of_k.items() if results.units[arm].backbone == backbone}
            chosen = chosen_per_draw(mine, results.units, metric)
            first = results.units[next(iter(mine))]
            row = {
                "arm": selected_arm(backbone),
                "head": PER_DRAW,
                "family": PER_DRAW,
                "backbone": backbone,
                "role": first.role,
                "tap": PER_DRAW,
                "params": {},
                "note": _unchosen(mine[chosen[0]].draws, k_shot),
                "per_draw": [{"arm": arm, **mine[arm].draws[draw]} for draw, arm in enumerate(chosen)],
            }
            scores = np.stack([mine[arm].scores[draw] for draw, arm in enumerate(chosen)])
            written.add(row, scores, k_shot)


def chosen_per_draw(fitted: Mapping[str, FewFit], units: Mapping[str, Unit], metric: str) -> list[str]:
    """For each draw, the arm that is best on held-out folds of the draw's own labels.

    Where nothing could be held out, the first head on the deepest tap: fixed before any data are seen.
    """
    arms = list(fitted)
    num_draws = len(next(iter(fitted.values())).draws)
    deepest = max(units[arm].tap.depth for arm in arms)
    default = next(arm for arm in arms if units[arm].tap.depth == deepest)
    chosen = []
    for draw in range(num_draws):
        inner = [(arm, fitted[arm].draws[draw]["inner"]) for arm in arms]
        scored = [(arm, metrics) for arm, metrics in inner if metrics is not None]
        best = best_of([metrics for _, metrics in scored], metric) if scored else None
        chosen.append(default if best is None else scored[best][0])
    return chosen


def add_baseline(written: Written, arm: str, scores_RPK: Float, params: Mapping[str, Any], note: str) -> None:
    """An arm without features, or without labels."""
    assert arm in (MAJORITY, SHUFFLED), arm
    row = {
        "arm": arm,
        "head": arm,
        "family": arm,
        "backbone": NO_BACKBONE,
        "role": "none",
        "tap": NO_BACKBONE,
    }
    written.add({**row, "params": dict(params), "note": note}, scores_RPK)


def best_unit(results: Results, metric: str, among: Sequence[str]) -> str | None:
    """The arm that is best on what chooses, None where none has a score."""
    scored = [arm for arm in among if results.full[arm].best is not None]
    chosen = [results.full[arm].candidates[results.full[arm].best or 0] for arm in scored]
    metrics = [one["inner"] if "inner" in one else one["val"] for one in chosen]
    best = best_of(metrics, metric)
    return None if best is None else scored[best]


def _unchosen(draws: Sequence[Mapping[str, Any]], k_shot: int) -> str | None:
    """In which draws nothing could be held out to choose by."""
    num = sum(draw["inner"] is None for draw in draws)
    if k_shot == 1 or not num:
        return "deepest tap: one label a class cannot choose" if num else None
    return f"deepest tap in {num} of {len(draws)} draws: a class has labels of one group alone there"


def _note_of(unit: Unit, candidates: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> str | None:
    """What a reader should know of an arm beside its score."""
    notes = [] if best["converged"] else ["not converged"]
    failures = _failures(candidates)
    notes += [failures] if failures else []
    if unit.is_joined and "layers" in best:
        weighed = sorted(zip(best["layers"], unit.parts, strict=True), key=lambda one: -one[0])
        notes.append(
            "taps by weight: "
            + ", ".join(f"{part.tap.name} {weight:.2f}" for weight, part in weighed[:3] if weight > 0)
        )
        left_out = sum(weight == 0 for weight in best["layers"])
        notes += [f"{left_out} of {len(unit.parts)} left out"] if left_out else []
    return "; ".join(notes) or None


def _failures(candidates: Sequence[Mapping[str, Any]]) -> str | None:
    """How many candidates failed, and how the first of them did."""
    failed = [candidate["failure"] for candidate in candidates if "failure" in candidate]
    return f"{len(failed)} of {len(candidates)} candidates failed: {failed[0]}" if failed else None


def _place_of(unit: Unit) -> dict[str, Any]:
    return {
        "arm": unit.arm,
        "head": unit.head,
        "family": unit.family,
        "backbone": unit.backbone,
        "role": unit.role,
        "tap": unit.tap.name,
        "node": unit.tap.node,
        "reduction": unit.tap.reduction,
        "depth": None if unit.is_joined else unit.tap.depth,
        **({"parts": [part.to_dict() for part in unit.parts]} if unit.is_joined else {}),
    }


def _shared(fitted: FewFit) -> dict[str, Any]:
    """Hyperparameters that every draw chose alike."""
    first = fitted.draws[0]["params"]
    return {
        name: value for name, value in first.items() if all(d["params"][name] == value for d in fitted.draws)
    }
