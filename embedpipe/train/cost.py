"""What each arm cost: seconds to fit its grid, bytes of features read for it, parameters of the head kept.

Seconds differ from run to run, so they lie in a file of their own: predictions and scores stay the same bytes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from embedpipe.evaluate.arms import ALL, k_label
from embedpipe.heads.files import ARCHIVE, TENSORS
from embedpipe.train.memo import seconds_of

CLASSES = "classes_"
"""Names of classes that stand among a head's tensors are no parameters."""


def num_parameters(head_dir: Path) -> int | None:
    """Numbers that a saved head holds (the training rows are a nearest-neighbour head's); None for skops."""
    path = head_dir / TENSORS
    if not path.is_file() or (head_dir / ARCHIVE).is_file():
        return None
    with safe_open(path, framework="np") as tensors:
        names = [name for name in tensors.keys() if name != CLASSES]  # noqa: SIM118
        sizes: list[int] = [math.prod(tensors.get_slice(name).get_shape()) for name in names]
    return sum(sizes)


def cost_row(
    arm: str, k_shot: int, entry: Path, row_nbytes: int, num_rows: int, head_dir: Path | None = None
) -> dict[str, Any]:
    """Cost of one arm at one k_shot: of all its candidates, draws and folds together."""
    return {
        "arm": arm,
        "k_shot": k_label(k_shot),
        "seconds": seconds_of(entry),
        "nbytes": row_nbytes * num_rows,
        "num_parameters": num_parameters(head_dir) if head_dir is not None and k_shot == ALL else None,
    }
