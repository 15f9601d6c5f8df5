"""Which colour and marker belongs to which backbone, the same on the whole page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from embedpipe.report.svg import NUM_COLOURS, marker, picture

ROLES = ("transferred", "random", "pixels", "none")
ROLE_WORDS = {
    "transferred": "transferred",
    "random": "random weights",
    "pixels": "pixels",
    "none": "no features",
}
_ROLE_COLOUR = {"transferred": 0, "random": 1, "pixels": 2}


@dataclass(frozen=True)
class Style:
    """A colour class (`c0` …), the number of a marker's shape, and the place in legends."""

    colour: int
    shape: int
    role: str
    order: int = 0

    @property
    def class_(self) -> str:
        return f"c{self.colour}"


def role_of(raw: object) -> str:
    return raw if isinstance(raw, str) and raw in ROLES else "none"


def backbone_name(raw: object) -> str:
    return "no backbone" if raw is None else str(raw)


def assign_styles(points: Iterable[Mapping[str, Any]]) -> dict[str, Style]:
    """A style for each backbone named by `points` (dicts with ``backbone`` and ``role``).

    The first backbone of a role has the role's own colour; others take the rest of the palette by name,
    so that adding a task changes no colour.
    """
    roles: dict[str, str] = {}
    for point in points:
        roles.setdefault(backbone_name(point.get("backbone")), role_of(point.get("role")))
    named = sorted(roles, key=lambda name: (ROLES.index(roles[name]), name))
    styles: dict[str, Style] = {}
    num_own = len(_ROLE_COLOUR)
    taken: set[int] = set()
    num_spare = 0
    for name in named:
        own = _ROLE_COLOUR.get(roles[name])
        if own is not None and own not in taken:
            taken.add(own)
            colour = shape = own
        else:
            colour = num_own + num_spare % (NUM_COLOURS - num_own)
            shape = num_own + num_spare  # shapes repeat sooner than colours, so pairs of both repeat late
            num_spare += 1
        styles[name] = Style(colour, shape, roles[name], order=len(styles))
    return styles


def style_for(styles: Mapping[str, Style], backbone: object) -> Style:
    return styles.get(backbone_name(backbone), Style(NUM_COLOURS - 1, 0, "none"))


def swatch(style: Style) -> Markup:
    """The backbone's marker on a piece of its line, for legends."""
    drawn = marker(13, 8, style.shape, style.class_, "")
    bar = Markup('<line class="curve {}" x1="0" x2="26" y1="8" y2="8"/>').format(style.class_)
    return picture(26, 16, "", bar, drawn, class_="swatch")
