"""Which trained arms are to answer: the selected one of each task, or those named.

Reads `data/heads` and the models of `data/transfer`; knows nothing of features or inputs.
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
from embedpipe.transfer.arms import CARD as NETWORK_CARD
from embedpipe.transfer.saved import read_arm

CARD = "arm.json"


@dataclass(frozen=True)
class TrainedArm:
    """A head that was trained on every label, and the taps that it reads; or a transfer arm, with its backbone.

    Attributes
    ----------
    target : TargetSpec
        Kind, and names of classes or labels in the order of the head's codes.
    family : str
        Of the head; recipe of a transfer arm.
    parts : tuple of (backbone, tap)
        In the order in which they lie side by side.
    about : dict
        The rest of what its card says.
    has_body : bool
        Whether the weights of its backbone are its own, as those of transfer arms are: no store has its features.
    """

    task: str
    target: TargetSpec
    arm: str
    family: str
    parts: tuple[tuple[str, str], ...]
    folder: Path
    about: Mapping[str, Any]
    has_body: bool = False

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of its backbones, each once."""
        return tuple(dict.fromkeys(backbone for backbone, _ in self.parts))


@dataclass(frozen=True)
class SavedArms:
    """Where the trained arms of a task lie, a folder an arm: heads, and networks of transfer arms."""

    heads_dir: Path
    networks_dir: Path

    def names(self) -> list[str]:
        """Of all that are there."""
        return sorted({*_arms_in(self.heads_dir, CARD), *_arms_in(self.networks_dir, NETWORK_CARD)})

    def read(self, task: str, arm: str) -> TrainedArm:
        """One of them; a head, if there is none of that name."""
        if (self.networks_dir / arm_dir(arm) / NETWORK_CARD).is_file():
            return _read_network(self.networks_dir / arm_dir(arm))
        return _read_head(task, arm, self.heads_dir)


def choose_arms(
    saved: Mapping[str, SavedArms], asked: Sequence[str], selection: Mapping[str, Any] | None
) -> list[TrainedArm]:
    """One arm a task.

    Parameters
    ----------
    saved
        Arms of each task, of those that are wanted.
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
    WeightsError
        If the card of a transfer arm is damaged.
    """
    if not asked:
        assert selection is not None
        return [arms.read(task, _selected(task, selection)) for task, arms in saved.items()]
    known = {task: arms.names() for task, arms in saved.items()}
    chosen: dict[str, str] = {}
    for one in asked:
        before, _, after = one.partition(":")
        named = {before: after} if before in known and after else dict.fromkeys(known, one)
        able = {task: arm for task, arm in named.items() if arm in known[task]}
        if not able:
            every = sorted({arm for task in named for arm in known[task]})
            arm = next(iter(named.values()), one)
            raise ConfigError(
                f"--arm {one}: no head or network of that arm is saved for {', '.join(named) or 'any task'}"
                f"{did_you_mean(arm, every)}; `embedpipe info` lists the arms of the leaderboard, of which "
                "baselines and `direct` have none"
            )
        for task, arm in able.items():
            if chosen.setdefault(task, arm) != arm:
                raise ConfigError(
                    f"--arm: expected one arm a task, found {chosen[task]} and {arm} for {task!r}; "
                    "write TASK:ARM, or leave one out"
                )
    return [arms.read(task, chosen[task]) for task, arms in saved.items() if task in chosen]


def _selected(task: str, selection: Mapping[str, Any]) -> str:
    if task not in selection["tasks"]:
        raise DataError(f"data/selection.json: no arm is selected for task {task!r}; run `embedpipe select`")
    arm: str = selection["tasks"][task]["best"]["arm"]
    return arm


def _arms_in(folder: Path, card: str) -> list[str]:
    found = folder.rglob(card) if folder.is_dir() else ()
    return [path.parent.relative_to(folder).as_posix() for path in found]


def _read_network(folder: Path) -> TrainedArm:
    saved = read_arm(folder)
    card = saved.card
    try:
        parts = tuple((saved.backbone, str(tap)) for tap in card["taps"])
        return TrainedArm(
            card["task"], saved.spec, card["arm"], card["recipe"], parts, folder, card, has_body=True
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / NETWORK_CARD}: not the card of a transfer arm ({error}); run `embedpipe transfer` again"
        ) from error


def _read_head(task: str, arm: str, heads_dir: Path) -> TrainedArm:
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
