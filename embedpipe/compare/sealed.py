"""Open the test: the only place that reads sealed targets on purpose, and writes down that it did.

Knows nothing of how arms were trained; it judges the predictions that they stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from embedpipe.compare.test_log import append_log
from embedpipe.errors import ConfigError, DataError
from embedpipe.evaluate.arms import ALL, k_label
from embedpipe.evaluate.evidence import Evidence, TaskFiles, open_evidence, read_predictions
from embedpipe.evaluate.predictions import Predictions
from embedpipe.manifest.targets import Targets
from embedpipe.params import did_you_mean


def open_test(
    tasks: Mapping[str, TaskFiles],
    sealed: Mapping[str, Path],
    selection: Mapping[str, Any],
    *,
    log: Path,
    arms: Sequence[str] | None = None,
    k_shot: int | None = None,
    seed: int = 0,
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """Read the test targets, judge arms on them, and log every figure.

    Parameters
    ----------
    sealed
        `data/sealed/<T>.parquet` of each task.
    selection
        What `select` wrote: says which arms are read by default, the best at all labels and, at each
        numeric k_shot, the arm that stands for its backbone.
    log
        `test_log.jsonl`; one line an arm is appended before anything is returned.
    arms
        Read these instead, in every task that has them.
    k_shot
        With `arms`: only at this k_shot (0 is all); default: at every one they have.
    now
        Time of the opening; default: the clock.

    Returns
    -------
    list of dict
        The records that were appended.

    Raises
    ------
    ConfigError
        If no task has an arm that was named; did you mean. Nothing is read then.
    DataError
        If files are missing or of different runs, or no test sample has a target.
    """
    wanted = _named_arms(tasks, arms, k_shot) if arms else _selected_arms(tasks, selection)
    time = (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds")
    records = []
    for task, of_task in wanted.items():
        targets = Targets.read(sealed[task])
        evidence = open_evidence(task, tasks[task], seed=seed, split="test", targets=targets)
        records += [_record(evidence, targets.digest, arm, k, time) for arm, k in of_task]
    append_log(log, records)
    return records


def _record(evidence: Evidence, targets_digest: str, arm: str, k_shot: int, time: str) -> dict[str, Any]:
    return {
        "time": time,
        "task": evidence.task,
        "arm": arm,
        "k_shot": k_label(k_shot),
        "predictions_digest": evidence.predictions.digest(arm, k_shot),
        "targets_digest": targets_digest,
        "num_samples": len(evidence.sample_ids),
        "test": evidence.judged(arm, k_shot).intervals(),
    }


def _selected_arms(
    tasks: Mapping[str, TaskFiles], selection: Mapping[str, Any]
) -> dict[str, list[tuple[str, int]]]:
    """The selected arms, once they are known to be those whose predictions lie there."""
    wanted: dict[str, list[tuple[str, int]]] = {}
    for task, files in tasks.items():
        chosen = selection["tasks"].get(task)
        predictions = Predictions.read(files.predictions)
        if chosen is None or not predictions.matches(chosen["best"]):
            raise DataError(
                f"task {task!r}: the selection is not of these predictions, so the test stays sealed; "
                "run `embedpipe select`"
            )
        of_task = [(chosen["best"]["arm"], ALL)] + [(arm, int(k)) for k, arm in chosen["k_shot"].items()]
        wanted[task] = [one for one in of_task if predictions.has(*one)]
    return wanted


def _named_arms(
    tasks: Mapping[str, TaskFiles], arms: Sequence[str], k_shot: int | None
) -> dict[str, list[tuple[str, int]]]:
    known = {task: read_predictions(task, files).arms() for task, files in tasks.items()}
    names = sorted({arm for of_task in known.values() for arm, _ in of_task})
    problems = [
        f"no arm is named {arm!r}{did_you_mean(arm, names)}; data/leaderboard.json lists all {len(names)}"
        for arm in arms
        if arm not in names
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    wanted = {
        task: [(arm, k) for arm, k in of_task if arm in arms and k_shot in (None, k)]
        for task, of_task in known.items()
    }
    found = {task: of_task for task, of_task in wanted.items() if of_task}
    if not found:
        raise ConfigError(
            f"{', '.join(arms)}: no predictions at k_shot {k_label(k_shot or 0)}; name one it has"
        )
    return found
