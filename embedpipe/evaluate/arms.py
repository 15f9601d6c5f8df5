"""Names of arms, and the role that a backbone plays in a comparison.

An arm is any way of getting predictions. Its id says where it comes from: ``logistic@glyphnet/block3.gap``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

from embedpipe.errors import ConfigError

Role = Literal["transferred", "random", "pixels", "none"]

MAJORITY = "majority"
SHUFFLED = "shuffled_labels"
PER_DRAW = "(selected per draw)"
NO_BACKBONE = "none"

# A backbone of the role is marked as a baseline when params.yaml names it so.
ROLE_OF_BASELINE: dict[str, Role] = {"random_weights": "random", "pixels": "pixels"}
ALL = 0
"""The `k_shot` of arms that train on every labelled sample."""


def arm_id(head: str, backbone: str, tap: str) -> str:
    """``<head>@<backbone>/<tap>``.

    Raises
    ------
    ConfigError
        If a name holds one of the separators.
    """
    for kind, name in (("heads", head), ("backbones", backbone)):
        if not name or "@" in name or "/" in name:
            raise ConfigError(
                f"params.yaml: {kind}.{name}: a name cannot be empty or hold '@' or '/'; rename it"
            )
    return f"{head}@{backbone}/{tap}"


def joined_name(places: Sequence[str], taps: Sequence[str]) -> str:
    """Name of several taps side by side: ``block3.gap+block4.gap``.

    More than three are named by the first, the last and their number. Where that, with the names of the
    backbones, would not tell two joins apart, a digest follows: ``blocks.0.cls..blocks.11.cls(12)~3fa9c1``.

    Parameters
    ----------
    places
        ``backbone/tap`` of each.
    taps
        Name of each tap.
    """
    backbones = {place.partition("/")[0] for place in places}
    name = "+".join(taps) if len(taps) <= 3 else f"{taps[0]}..{taps[-1]}({len(taps)})"
    if len(taps) <= 3 and len(backbones) in (1, len(taps)):
        return name
    return f"{name}~{hashlib.blake2b(' '.join(places).encode(), digest_size=3).hexdigest()}"


def arm_dir(arm: str) -> PurePosixPath:
    """Folder of the arm's saved head below `data/heads/<T>/`: head and backbone, then tap."""
    return PurePosixPath(arm)


def selected_arm(backbone: str) -> str:
    """Id of the arm that chooses tap, head and hyperparameters of `backbone` anew for each k-shot draw."""
    return f"selected@{backbone}"


def k_label(k_shot: int) -> int | str:
    """``all`` or the number of labels a class, as users write it."""
    return "all" if k_shot == ALL else k_shot


def k_code(k_shot: int | str) -> int:
    """The stored number of `k_shot`: 0 for ``all``."""
    return ALL if k_shot == "all" else int(k_shot)
