"""Which heads are fitted on which taps of which backbones: arithmetic on names, no features read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from embedpipe.errors import ConfigError
from embedpipe.evaluate.arms import arm_id, joined_name
from embedpipe.features.card import BackboneCard, TapCard
from embedpipe.heads import registry
from embedpipe.heads.options import HeadOptions
from embedpipe.params import did_you_mean
from embedpipe.train.places import seen_share
from embedpipe.train.samples import TaskSamples


@dataclass(frozen=True)
class Part:
    """One tap of one backbone.

    Attributes
    ----------
    seen : float
        Of a dense task: share of the shorter side of an image that the backbone sees.
    """

    backbone: str
    role: str
    tap: TapCard
    seen: float = 1.0

    @property
    def place(self) -> str:
        """``backbone/tap``."""
        return f"{self.backbone}/{self.tap.name}"

    def to_dict(self) -> dict[str, Any]:
        """As rows of scores hold it."""
        return {
            "backbone": self.backbone,
            "tap": self.tap.name,
            "node": self.tap.node,
            "reduction": self.tap.reduction,
            "depth": self.tap.depth,
        }


@dataclass(frozen=True)
class Unit:
    """One head on one tap, or on several side by side: what is fitted, kept and resumed as a whole.

    Attributes
    ----------
    head : str
        Its name in params.yaml.
    family : str
    candidates : tuple of dict
        The grid at k_shot all, in a stable order.
    few_shot : tuple of dict
        The grid at a numeric k_shot; the first is the default where nothing can choose.
    parts : tuple of Part
        The taps, in the order in which they lie side by side.
    """

    head: str
    family: str
    candidates: tuple[dict[str, Any], ...]
    few_shot: tuple[dict[str, Any], ...]
    parts: tuple[Part, ...]

    @property
    def arm(self) -> str:
        return arm_id(self.head, self.backbone, self.tap.name)

    @property
    def is_joined(self) -> bool:
        """Whether it learns from more than one tap."""
        return len(self.parts) > 1

    @property
    def backbone(self) -> str:
        """Name of the backbone, or of all with ``+`` between."""
        return "+".join(dict.fromkeys(part.backbone for part in self.parts))

    @property
    def role(self) -> str:
        """``transferred`` where one part is, else that of the first."""
        roles = [part.role for part in self.parts]
        return "transferred" if "transferred" in roles else roles[0]

    @property
    def tap(self) -> TapCard:
        """The tap; of several what can be said of them together: the depth is that of the deepest."""
        if not self.is_joined:
            return self.parts[0].tap
        taps = [part.tap for part in self.parts]
        return TapCard(
            joined_name([part.place for part in self.parts], [tap.name for tap in taps]),
            "+".join(dict.fromkeys(tap.node for tap in taps)),
            "+".join(dict.fromkeys(tap.reduction for tap in taps)),
            max(tap.depth for tap in taps),
            (sum(math.prod(tap.shape) for tap in taps),),
        )

    @property
    def fixed(self) -> dict[str, Any]:
        """Parameters that follow from the taps: none that anyone chooses."""
        if registry.family_of(self.family).inputs != "taps":
            return {}
        return {"widths": tuple(math.prod(part.tap.shape) for part in self.parts)}

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape in which the family sees a row, where it is not that of the store."""
        if registry.family_of(self.family).inputs not in ("maps", "tokens"):
            return None
        return spatial_shape(self.tap)


def plan_units(
    task: str,
    kind: str,
    heads: Mapping[str, HeadOptions],
    cards: Mapping[str, BackboneCard],
    *,
    task_heads: Sequence[str] | None = None,
    task_backbones: Sequence[str] | None = None,
) -> tuple[list[Unit], list[str]]:
    """Every head on every tap, or join of taps, that the task and the head allow.

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
    units ordered by backbone, depth of tap, head (so that a tap is read once), those on several taps after them;
    and notes on heads left out.

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

    notes: list[str] = []
    able: dict[str, HeadOptions] = {}
    for name, options in wanted_heads.items():
        if registry.supports(options.family, kind):
            able[name] = options
        else:
            notes.append(f"head {name!r} is left out: its family does not fit tasks of kind {kind}")
    parts = [
        Part(backbone, card.role, tap, seen_share(card) if kind == "dense" else 1.0)
        for backbone, card in wanted_cards.items()
        for tap in sorted(card.taps.values(), key=lambda one: (one.depth, one.name))
    ]
    units = [
        _unit(name, options, (part,))
        for part in parts
        for name, options in able.items()
        if options.join is None and _allowed(options, part) and _fits(options, part.tap)
    ]
    joins = [
        (name, options, joined)
        for name, options in able.items()
        if options.join is not None
        for joined in _joins(name, options, parts, cards)
    ]
    # alike joins lie together, so that the features of one are read once
    joins.sort(key=lambda one: [parts.index(part) for part in one[2]])
    units += [_unit(name, options, joined) for name, options, joined in joins]
    for name, options in able.items():
        if not any(unit.head == name for unit in units):
            notes.append(f"head {name!r} is left out: {_why_none(options, parts, list(wanted_cards))}")
    if not units:
        raise ConfigError(
            f"task {task!r}: expected at least one head on one tap, found none of {len(wanted_heads)} heads "
            f"x {len(wanted_cards)} backbones: {'; '.join(notes) or 'name some under `heads:`'}"
        )
    return units, notes


def learnable_units(units: Sequence[Unit], samples: TaskSamples) -> tuple[list[Unit], list[str]]:
    """Units of a dense task on whose grid the training masks have two classes or more, and notes on the others.

    Raises
    ------
    ConfigError
        If none is left.
    """
    num_classes: dict[tuple[int, int, float], int] = {}
    kept, notes = [], []
    for unit in units:
        _, rows, columns = unit.row_shape or (0, 0, 0)
        grid = (rows, columns, unit.parts[0].seen)
        if grid not in num_classes:
            codes = samples.wanted((0, rows, columns), unit.parts[0].seen)[samples.train]
            num_classes[grid] = len(np.unique(codes[codes >= 0]))
        if num_classes[grid] > 1:
            kept.append(unit)
        else:
            notes.append(
                f"{unit.arm} is left out: on its grid of {rows} x {columns} the places of the training masks are of "
                "one class"
            )
    if not kept:
        raise ConfigError(
            f"task {samples.task!r}: expected a tap on whose grid the training masks have two classes, found none: "
            f"{'; '.join(notes)}; tap earlier layers, or a finer grid:k"
        )
    return kept, notes


def spatial_shape(tap: TapCard) -> tuple[int, ...] | None:
    """Shape of a tap's rows as maps (C, Y, X) or tokens (T, D); None where they are neither.

    A grid:k is stored flat, in the order channel, row, column.
    """
    if len(tap.shape) > 1:
        return tap.shape
    family, _, k = tap.reduction.partition(":")
    if family != "grid":
        return None
    side = int(k)
    return (tap.shape[0] // side**2, side, side)


def _unit(name: str, options: HeadOptions, parts: tuple[Part, ...]) -> Unit:
    return Unit(
        head=name,
        family=options.family,
        candidates=tuple(registry.candidates(options)),
        few_shot=tuple(registry.few_shot_candidates(options.family, options)),
        parts=parts,
    )


def _joins(
    name: str, options: HeadOptions, parts: Sequence[Part], cards: Mapping[str, BackboneCard]
) -> list[tuple[Part, ...]]:
    """Taps of each arm of a head that joins them."""
    inputs = registry.family_of(options.family).inputs
    if inputs in ("maps", "tokens"):
        raise ConfigError(
            f"params.yaml: heads.{name}.join: {options.family} learns from {inputs} of one tap; "
            "join taps for another family, such as logistic or layerwise"
        )
    allowed = [part for part in parts if _allowed(options, part)]
    if options.join == "taps":
        of_backbone = [
            tuple(part for part in allowed if part.backbone == backbone)
            for backbone in dict.fromkeys(part.backbone for part in allowed)
        ]
        return of_backbone
    every = [f"{backbone}/{tap}" for backbone, card in cards.items() for tap in card.taps]
    found = []
    for globs in options.join or ():
        joined: list[Part] = []
        complete = True
        for glob in globs:
            if not any(fnmatchcase(place, glob) for place in every):
                raise ConfigError(
                    f"params.yaml: heads.{name}.join: {glob!r} matches no tap{did_you_mean(glob, every)}; "
                    f"taps: {', '.join(every)}"
                )
            here = [part for part in allowed if fnmatchcase(part.place, glob) and part not in joined]
            complete &= bool(here)
            joined += here
        if complete:  # else the task has other backbones
            found.append(tuple(joined))
    return list(dict.fromkeys(found))


def _fits(options: HeadOptions, tap: TapCard) -> bool:
    """Whether rows of a tap are what the family learns from."""
    inputs = registry.family_of(options.family).inputs
    shape = spatial_shape(tap)
    if inputs == "maps":
        return shape is not None and len(shape) == 3
    return inputs != "tokens" or (shape is not None and len(shape) in (2, 3))


def _allowed(options: HeadOptions, part: Part) -> bool:
    """Globs match the tap's array name (`layer4.grid2`) or its node (`layer4`)."""
    return any(fnmatchcase(part.backbone, glob) for glob in options.backbones) and any(
        fnmatchcase(part.tap.name, glob) or fnmatchcase(part.tap.node, glob) for glob in options.taps
    )


def _why_none(options: HeadOptions, parts: Sequence[Part], backbones: Sequence[str]) -> str:
    inputs = registry.family_of(options.family).inputs
    globs = f"its globs backbones={list(options.backbones)} taps={list(options.taps)}"
    if options.join is not None and options.join != "taps":
        return f"the task has not all backbones of its join, or {globs} leave taps of it out"
    if any(_allowed(options, part) for part in parts):
        return f"its family learns from {inputs}, which taps of the reductions none and grid:k have"
    return f"{globs} match no tap of {', '.join(backbones) or '(no backbones)'}"


def _check_names(task: str, section: str, wanted: Sequence[str] | None, known: Sequence[str]) -> None:
    problems = [
        f"params.yaml: tasks.{task}.{section}: none is named {name!r}{did_you_mean(name, known)}; "
        f"{section}: {', '.join(known) or '(none)'}"
        for name in wanted or ()
        if name not in known
    ]
    if problems:
        raise ConfigError("\n".join(problems))
