"""Which heads are fitted on which taps of which backbones: arithmetic on names, no features read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from embedpipe.errors import ConfigError
from embedpipe.evaluate.arms import arm_id
from embedpipe.features.card import BackboneCard, TapCard
from embedpipe.heads import registry
from embedpipe.heads.options import HeadOptions
from embedpipe.params import did_you_mean


@dataclass(frozen=True)
class Unit:
    """One head on one tap: what is fitted, kept and resumed as a whole.

    Attributes
    ----------
    head : str
        Its name in params.yaml.
    family : str
    candidates : tuple of dict
        The grid at k_shot all, in a stable order.
    few_shot : tuple of dict
        The grid at a numeric k_shot; the first is the default where nothing can choose.
    """

    head: str
    family: str
    candidates: tuple[dict[str, Any], ...]
    few_shot: tuple[dict[str, Any], ...]
    backbone: str
    role: str
    tap: TapCard

    @property
    def arm(self) -> str:
        return arm_id(self.head, self.backbone, self.tap.name)


def plan_units(
    task: str,
    kind: str,
    heads: Mapping[str, HeadOptions],
    cards: Mapping[str, BackboneCard],
    *,
    task_heads: Sequence[str] | None = None,
    task_backbones: Sequence[str] | None = None,
) -> tuple[list[Unit], list[str]]:
    """Every head on every tap that the task and the head allow.

    Parameters
    ----------
    heads
        Options by name, in the order of params.yaml; their `backbones` and `taps` are globs.
    cards
        Card of each backbone by name, in the order of params.yaml.
    task_heads, task_backbones
        Names that the task restricts itself to; None allows all.

    Returns
    -------
    units ordered by backbone, depth of tap, head (so that a tap is read once), and notes on heads left out.

    Raises
    ------
    ConfigError
        If a name is unknown, or nothing is left.
    """
    _check_names(task, "heads", task_heads, list(heads))
    _check_names(task, "backbones", task_backbones, list(cards))
    wanted_heads = {
        name: options for name, options in heads.items() if task_heads is None or name in task_heads
    }
    wanted_cards = {
        name: card for name, card in cards.items() if task_backbones is None or name in task_backbones
    }

    units: list[Unit] = []
    notes: list[str] = []
    able: dict[str, HeadOptions] = {}
    for name, options in wanted_heads.items():
        if registry.supports(options.family, kind):
            able[name] = options
        else:
            notes.append(f"head {name!r} is left out: its family does not fit tasks of kind {kind}")
    for backbone, card in wanted_cards.items():
        for tap in sorted(card.taps.values(), key=lambda one: (one.depth, one.name)):
            for name, options in able.items():
                if _allowed(options, backbone, tap):
                    units.append(_unit(name, options, card, tap, backbone))
    for name, options in able.items():
        if not any(unit.head == name for unit in units):
            notes.append(
                f"head {name!r} is left out: its globs backbones={list(options.backbones)} "
                f"taps={list(options.taps)} match no tap of {', '.join(wanted_cards) or '(no backbones)'}"
            )
    if not units:
        raise ConfigError(
            f"task {task!r}: expected at least one head on one tap, found none of {len(wanted_heads)} heads "
            f"x {len(wanted_cards)} backbones: {'; '.join(notes) or 'name some under `heads:`'}"
        )
    return units, notes


def _unit(name: str, options: HeadOptions, card: BackboneCard, tap: TapCard, backbone: str) -> Unit:
    return Unit(
        head=name,
        family=options.family,
        candidates=tuple(registry.candidates(options)),
        few_shot=tuple(registry.few_shot_candidates(options.family, options)),
        backbone=backbone,
        role=card.role,
        tap=tap,
    )


def _allowed(options: HeadOptions, backbone: str, tap: TapCard) -> bool:
    """Globs match the tap's array name (`layer4.grid2`) or its node (`layer4`)."""
    return any(fnmatchcase(backbone, glob) for glob in options.backbones) and any(
        fnmatchcase(tap.name, glob) or fnmatchcase(tap.node, glob) for glob in options.taps
    )


def _check_names(task: str, section: str, wanted: Sequence[str] | None, known: Sequence[str]) -> None:
    problems = [
        f"params.yaml: tasks.{task}.{section}: none is named {name!r}{did_you_mean(name, known)}; "
        f"{section}: {', '.join(known) or '(none)'}"
        for name in wanted or ()
        if name not in known
    ]
    if problems:
        raise ConfigError("\n".join(problems))
