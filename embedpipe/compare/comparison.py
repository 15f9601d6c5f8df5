"""Compare the arms of every task: leaderboard, metrics, curves and the headline.

Reads what training and selection wrote and the open targets; test figures come from the log of test
openings, or from sealed targets where the user opens the test for every comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedpipe.compare.calibration import calibration
from embedpipe.compare.costs import cost_rows
from embedpipe.compare.curves import confusion, layer_curve, learning_curve, paired
from embedpipe.compare.headline import headline
from embedpipe.compare.per_class import per_class
from embedpipe.compare.plots import write_plots
from embedpipe.compare.ranks import ranks
from embedpipe.compare.screened import screened
from embedpipe.compare.test_log import num_openings, read_log, with_test_figures
from embedpipe.compare.transferred import transferred
from embedpipe.errors import DataError
from embedpipe.evaluate.arms import ALL, SHUFFLED, k_code
from embedpipe.evaluate.cost import read_costs
from embedpipe.evaluate.evidence import Evidence, TaskFiles, is_baseline, open_evidence
from embedpipe.evaluate.files import write_json
from embedpipe.evaluate.metrics import sign_of
from embedpipe.manifest.targets import Targets
from embedpipe.progress import Progress, silent


@dataclass(frozen=True)
class Comparison:
    """Everything a comparison found, as JSON values.

    Attributes
    ----------
    leaderboard : list of dict
        One row an arm and k_shot; by task, all labels first, best first.
    metrics : dict
        Nested by task and arm, numbers alone, for `dvc metrics`.
    comparison : dict
        Headline, ranks across tasks, and for each task its confusion, curves, paired differences and screens.
    costs : list of dict
        What each arm cost beside its score: apart, since seconds differ from run to run.
    """

    leaderboard: list[dict[str, Any]]
    metrics: dict[str, Any]
    comparison: dict[str, Any]
    costs: list[dict[str, Any]] = field(default_factory=list)

    def write(self, *, leaderboard: Path, metrics: Path, comparison: Path, plots_dir: Path) -> None:
        """Write the JSON files, and flat CSV below `plots_dir` for `dvc plots`."""
        write_json(leaderboard, self.leaderboard)
        write_json(metrics, self.metrics)
        write_json(comparison, self.comparison)
        write_plots(plots_dir, self.comparison, self.costs)


def compare(
    tasks: Mapping[str, TaskFiles],
    selection: Mapping[str, Any],
    *,
    baselines: Sequence[str] = (),
    seed: int = 0,
    test_log: Path | None = None,
    targets_digests: Mapping[str, str | None] | None = None,
    sealed: Mapping[str, Path] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare all arms on validation, and on the test where it was opened.

    Parameters
    ----------
    tasks
        In the order of params.yaml.
    selection
        What `select` returned or wrote.
    test_log
        Log of test openings. A row of the leaderboard shows test figures where the log has them for the
        very predictions that the row is about, and for the targets that are sealed now.
    targets_digests
        Digest of each task's sealed targets; without one its rows show no figures of the log.
    sealed
        Sealed targets of each task: given only where the user set `compare.test: open`.
    notes
        What else is to be said of a task.

    Raises
    ------
    DataError
        If a file is missing, or selection and predictions are of different runs.
    """
    records = read_log(test_log) if test_log is not None else []
    board: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    about: dict[str, Any] = {}
    evidences: dict[str, Evidence] = {}
    costs: list[dict[str, Any]] = []
    for done, (task, files) in enumerate(tasks.items()):
        progress(done, len(tasks), "tasks")
        evidence = evidences[task] = open_evidence(task, files, seed=seed)
        chosen = _selection_of(task, selection, evidence)
        test = None
        if sealed is not None:
            test = open_evidence(task, files, seed=seed, split="test", targets=Targets.read(sealed[task]))
        rows = with_test_figures(
            leaderboard_rows(evidence, chosen, baselines=baselines, test=test), records, targets_digests or {}
        )
        board += rows
        about[task] = _task_section(evidence, chosen, baselines, opened=sealed is not None)
        about[task]["notes"] += (notes or {}).get(task, ())
        metrics[task] = _metrics_section(rows, chosen)
        if files.cost is not None:
            more = [] if files.transfer is None else read_costs(files.transfer.cost)
            costs += cost_rows(evidence, [*read_costs(files.cost), *more])
        progress(done + 1, len(tasks), "tasks")
    chosen_tasks = {task: selection["tasks"][task] for task in tasks}
    head = headline(evidences, chosen_tasks)
    if head.get("differences"):
        named = {one["name"].replace(" - ", "_minus_"): one["value"] for one in head["differences"]}
        metrics = {"headline": named, **metrics}
    comparison = {
        "headline": head,
        "tasks": about,
        "ranks": ranks(evidences),
        "test": "sealed" if sealed is None else "open",
        "test_openings": num_openings(records),
        "seed": seed,
    }
    return Comparison(board, metrics, comparison, costs)


def leaderboard_rows(
    evidence: Evidence,
    chosen: Mapping[str, Any],
    *,
    baselines: Sequence[str] = (),
    test: Evidence | None = None,
) -> list[dict[str, Any]]:
    """Rows of one task, all labels first, then k_shot ascending, best first."""
    selected = {(chosen["best"]["arm"], ALL)} | {(arm, int(k)) for k, arm in chosen["k_shot"].items()}
    rows = []
    for row in evidence.rows():
        arm, k_shot = row["arm"], k_code(row["k_shot"])
        digest = evidence.predictions.digest(arm, k_shot)
        judged = evidence.judged(arm, k_shot)
        rows.append(
            {
                "task": evidence.task,
                "arm": arm,
                "backbone": row["backbone"],
                "tap": row["tap"],
                "head": row["head"],
                "k_shot": row["k_shot"],
                "draws": row["draws"],
                "selected": (arm, k_shot) in selected,
                "baseline": is_baseline(row, list(baselines)),
                "role": row["role"],
                "recipe": row.get("recipe"),
                "params": row["params"],
                "note": _note(row, judged.point[evidence.metric], chosen=(arm, k_shot) in selected),
                "predictions_digest": digest,
                "val": judged.intervals(),
                "test": None if test is None else test.judged(arm, k_shot).intervals(),
            }
        )
    sign = sign_of(evidence.metric)

    def rank(row: Mapping[str, Any]) -> tuple[int, bool, float, bool, str]:
        value = row["val"][evidence.metric]["value"]
        score = 0.0 if value is None else -sign * value
        return k_code(row["k_shot"]), value is None, score, not row["selected"], row["arm"]

    return sorted(rows, key=rank)


def _selection_of(task: str, selection: Mapping[str, Any], evidence: Evidence) -> Mapping[str, Any]:
    """The selection within a task, once it is known to be of these predictions."""
    chosen: Mapping[str, Any] | None = selection["tasks"].get(task)
    if chosen is None or not evidence.predictions.matches(chosen["best"]):
        raise DataError(
            f"task {task!r}: the selection is not of these predictions "
            f"(it names {chosen['best']['arm'] if chosen else 'none'}); run `embedpipe select`"
        )
    return chosen


def _task_section(
    evidence: Evidence, chosen: Mapping[str, Any], baselines: Sequence[str], *, opened: bool
) -> dict[str, Any]:
    notes = [*evidence.about["notes"], *chosen["notes"]]
    ties = len(chosen["ties"])
    if ties:
        notes.append(f"{ties} of {chosen['num_arms'] - 1} other arms cannot be told from the selected one")
    if opened:
        notes.append("the test is open (`compare.test: open`): every comparison reads it")
    if SHUFFLED in baselines and not evidence.has(SHUFFLED, ALL):
        notes.append("no arm with shuffled labels was trained")
    return {
        **evidence.spec.to_dict(),
        "num": evidence.about["num"],
        "metric": evidence.metric,
        "selected": chosen["best"]["arm"],
        "selected_params": chosen["best"]["params"],
        "ties": [tie["arm"] for tie in chosen["ties"]],
        "optimism": chosen["optimism"],
        "confusion": confusion(evidence, chosen["best"]["arm"]),
        "per_class": per_class(evidence, chosen["best"]["arm"]),
        "calibration": calibration(evidence, _calibrated_arms(chosen)),
        "paired": paired(evidence, chosen["best"]["arm"]),
        "screen": screened(evidence),
        "learning_curves": learning_curve(evidence, chosen),
        "layer_curves": layer_curve(evidence),
        "transfer": transferred(evidence, chosen),
        "notes": notes,
    }


def _calibrated_arms(chosen: Mapping[str, Any]) -> list[str]:
    """The selected arm, the one that stands for each backbone, and what ties with the selected one."""
    arms = [chosen["best"]["arm"], *(entry["arm"] for entry in chosen["by_backbone"].values())]
    return list(dict.fromkeys([*arms, *(tie["arm"] for tie in chosen["ties"])]))


def _metrics_section(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of the selected arm, and of the arm that stands for each backbone, at every k_shot."""
    section: dict[str, Any] = {}
    stands_for = {entry["arm"]: backbone for backbone, entry in chosen["by_backbone"].items()}
    for row in rows:
        at = "all" if row["k_shot"] == "all" else f"{row['k_shot']}_shot"
        values = {name: one["value"] for name, one in row["val"].items() if one["value"] is not None}
        if row["selected"]:
            section.setdefault("selected", {})[at] = {"val": values}
            if at == "all" and chosen["optimism"]["bias"] is not None:
                section["selected"][at]["optimism"] = chosen["optimism"]["bias"]
            if row["test"]:
                section["selected"][at]["test"] = {
                    name: one["value"] for name, one in row["test"].items() if one["value"] is not None
                }
        if row["k_shot"] == "all" and row["arm"] in stands_for:
            section.setdefault(stands_for[row["arm"]], {})[at] = {"val": values}
        elif row["k_shot"] != "all" and row["arm"].startswith("selected@"):
            section.setdefault(row["backbone"], {})[at] = {"val": values}
        elif row["role"] == "none" or row["recipe"] is not None:
            section.setdefault(row["arm"], {})[at] = {"val": values}
    return section


def _note(row: Mapping[str, Any], value: float, *, chosen: bool) -> str | None:
    notes = [row["note"]] if row.get("note") else []
    if chosen and k_code(row["k_shot"]) != ALL:
        notes.append("backbone chosen with all labels")
    if not math.isfinite(value):
        notes.append("scores are not finite")
    return "; ".join(notes) or None
