"""Files of the transfer arms of one task, beside those of its heads and in the same formats.

Imports no torch: a task without arms costs no more than writing that there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.evaluate.files import write_json
from embedpipe.evaluate.predictions import ArmScores, Predictions
from embedpipe.manifest.files import write_bytes
from embedpipe.manifest.kinds import TargetSpec

INDEX = "arms.json"
HISTORY_HEAD = "arm,epoch,train_loss,val_score,learning_rate"


@dataclass(frozen=True)
class TransferPaths:
    """Where the arms of one task go.

    Attributes
    ----------
    models_dir : Path
        One folder an arm: its tensors, card and history; and a list of them.
    predictions, scores : Path
        As training writes those of heads.
    history : Path
        Losses and scores of every arm by epoch, CSV for `dvc plots`.
    cost : Path
        Apart, since seconds differ from run to run.
    memo_dir, runs_dir : Path
        In the working folder: finished arms, and the state of those that are not.
    """

    models_dir: Path
    predictions: Path
    scores: Path
    history: Path
    cost: Path
    memo_dir: Path
    runs_dir: Path


def write_index(models_dir: Path, arms: Iterable[str]) -> None:
    """List the arms whose models lie in a folder: DVC warns about an empty one."""
    write_json(models_dir / INDEX, {"arms": sorted(arms)})


def write_results(
    paths: TransferPaths,
    task: str,
    spec: TargetSpec,
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    arms: Sequence[ArmScores] = (),
    costs: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    histories: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write all but the models; without rows, that there is no arm."""
    Predictions.of(task, spec, arms).write(paths.predictions)
    write_json(paths.scores, {"task": task, "arms": list(rows), "notes": list(notes)})
    write_json(paths.cost, {"task": task, "arms": list(costs)})
    lines = [HISTORY_HEAD]
    for arm, history in (histories or {}).items():
        columns = zip(history["losses"], history["scores"], history["rates"], strict=True)
        lines += [
            f"{arm},{epoch},{_figure(loss)},{_figure(score)},{rate:.6g}"
            for epoch, (loss, score, rate) in enumerate(columns, start=1)
        ]
    write_bytes(paths.history, ("\n".join(lines) + "\n").encode())


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
