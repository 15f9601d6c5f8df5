"""Which trained arms are to answer: the selected one of each task, or those named.

Reads `data/heads`; knows nothing of backbones, features or inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.errors import ConfigError, DataError
from embedpipe.evaluate.arms import arm_dir
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.params import did_you_mean

CARD = "arm.json"


@dataclass(frozen=True)
class TrainedArm:
    """A head that was trained on every label, and the taps that it reads.

    Attributes
    ----------
    target : TargetSpec
        Kind, and names of classes or labels in the order of the head's codes.
    parts : tuple of (backbone, tap)
        In the order in which they lie side by side.
    about : dict
        The rest of what its card says.
    """

    task: str
    target: TargetSpec
    arm: str
    family: str
    parts: tuple[tuple[str, str], ...]
    folder: Path
    about: Mapping[str, Any]

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of its backbones, each once."""
        return tuple(dict.fromkeys(backbone for backbone, _ in self.parts))


def choose_arms(
    heads_dirs: Mapping[str, Path], asked: Sequence[str], selection: Mapping[str, Any] | None
) -> list[TrainedArm]:
    """One arm a task.

    Parameters
    ----------
    heads_dirs
        Folder of the saved heads of each task, of those that are wanted.
    asked
        ``ARM``, for every task that has it, or ``TASK:ARM``; empty: the selected arm of each task.
    selection
        What `select` wrote; needed where nothing is asked for.

    Raises
    ------
    ConfigError
        If an arm or a task is unknown, or a task is given two arms.
    DataError
        If a head is not there.
    """
    if not asked:
        assert selection is not None
        return [_read(task, _selected(task, selection), folder) for task, folder in heads_dirs.items()]
    known = {task: _arms_in(folder) for task, folder in heads_dirs.items()}
    chosen: dict[str, str] = {}
    for one in asked:
        before, _, after = one.partition(":")
        named = {before: after} if before in known and after else dict.fromkeys(known, one)
        able = {task: arm for task, arm in named.items() if arm in known[task]}
        if not able:
            every = sorted({arm for task in named for arm in known[task]})
            arm = next(iter(named.values()), one)
            raise ConfigError(
                f"--arm {one}: no head of that arm is saved for {', '.join(named) or 'any task'}"
                f"{did_you_mean(arm, every)}; `embedpipe info` lists the arms of the leaderboard"
            )
        for task, arm in able.items():
            if chosen.setdefault(task, arm) != arm:
                raise ConfigError(
                    f"--arm: expected one arm a task, found {chosen[task]} and {arm} for {task!r}; "
                    "write TASK:ARM, or leave one out"
                )
    return [_read(task, chosen[task], folder) for task, folder in heads_dirs.items() if task in chosen]


def _selected(task: str, selection: Mapping[str, Any]) -> str:
    if task not in selection["tasks"]:
        raise DataError(f"data/selection.json: no arm is selected for task {task!r}; run `embedpipe select`")
    arm: str = selection["tasks"][task]["best"]["arm"]
    return arm


def _arms_in(heads_dir: Path) -> list[str]:
    found = heads_dir.rglob(CARD) if heads_dir.is_dir() else ()
    return sorted(path.parent.relative_to(heads_dir).as_posix() for path in found)


def _read(task: str, arm: str, heads_dir: Path) -> TrainedArm:
    folder = heads_dir / arm_dir(arm)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        parts = card.get("parts") or [{"backbone": card["backbone"], "tap": card["tap"]}]
        return TrainedArm(
            card["task"],
            TargetSpec(card["kind"], tuple(card["classes"]), tuple(card.get("outputs", ()))),
            card["arm"],
            card["family"],
            tuple((part["backbone"], part["tap"]) for part in parts),
            folder,
            card,
        )
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: expected the saved head of {arm!r}, found none; run `embedpipe train {task}`, "
            "or name another arm with --arm"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / CARD}: not the card of a head ({error}); train {task!r} again") from error
