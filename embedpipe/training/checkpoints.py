"""The state of a training run on disk: what to go on from after a kill, and the best weights so far.

Tensors and JSON in safetensors files, each replaced in one step; nothing is ever pickled. Knows nothing of what
is trained.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from embedpipe.errors import WeightsError
from embedpipe.manifest.files import write_bytes
from embedpipe.spec import canonical_json

LAST, BEST = "last.safetensors", "best.safetensors"
FORMAT_VERSION = 1
EVERY_S = 60.0


@dataclass
class Checkpoints:
    """The files of one run.

    Attributes
    ----------
    folder : Path
    every_s : float
        The state is saved when so many seconds have passed since it last was, and at the end of the run: what a kill
        costs at most.
    """

    folder: Path
    every_s: float = EVERY_S

    def __post_init__(self) -> None:
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the state should be saved."""
        return time.monotonic() - self._saved_at >= self.every_s

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Replace the last state."""
        self._write(LAST, tensors, state)
        self._saved_at = time.monotonic()

    def save_best(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Replace the best weights."""
        self._write(BEST, tensors, state)

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The last state; None where there is none.

        Raises
        ------
        WeightsError
            If the file is damaged, or no checkpoint.
        """
        return _read(self.folder / LAST) if (self.folder / LAST).exists() else None

    def load_best(self) -> dict[str, torch.Tensor]:
        """The best weights; raises as `load`."""
        return _read(self.folder / BEST)[0]

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        held = {key: value.detach().cpu().clone().contiguous() for key, value in sorted(tensors.items())}
        about = canonical_json({"format_version": FORMAT_VERSION, **state})
        write_bytes(self.folder / name, safetensors.torch.save(held, {"training": about}))


def check_same_run(expected: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    """Check that a state is of the run that wants to go on from it.

    Raises
    ------
    WeightsError
        Names the first field that differs; of tensors the first.
    """
    for key in sorted(expected.keys() | found.keys()):
        mine, there = expected.get(key), found.get(key)
        if mine == there:
            continue
        if key == "tensors" and isinstance(mine, dict) and isinstance(there, dict):
            name = next(one for one in sorted(mine.keys() | there.keys()) if mine.get(one) != there.get(one))
            key, mine, there = f"shape of {name}", mine.get(name), there.get(name)
            raise WeightsError(
                f"{folder}: a checkpoint of another architecture: expected {key} {mine}, found {there}; "
                "give another folder, or delete this one to start over"
            )
        raise WeightsError(
            f"{folder}: a checkpoint of another run: expected {key} {mine}, found {there}; "
            "give another folder, or delete this one to start over"
        )


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: expected a checkpoint of training, found something else ({type(error).__name__}); "
            "delete it to start over"
        ) from error
    if state["format_version"] != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: expected checkpoint format {FORMAT_VERSION}, found {state['format_version']}; "
            "delete it to start over"
        )
    return tensors, state
