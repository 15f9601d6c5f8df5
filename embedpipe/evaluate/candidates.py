"""What every candidate of every arm says of the validation samples: what the selection chose among.

A leaderboard holds the best candidate of each arm. How much choosing it adds to its figure can be seen only with the
others at hand. The file holds no targets, and equal contents give equal bytes.
"""

# C candidates, N samples, K classes (1 for numbers)

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embedpipe.errors import DataError
from embedpipe.manifest.files import write_bytes

MOST_NBYTES = 256 << 20
"""Scores up to this many bytes a task are kept; of more candidates none are, and the selection says so."""


@dataclass(frozen=True)
class Candidates:
    """Scores of candidates on the labelled validation samples.

    Attributes
    ----------
    sample_ids : str array [N]
    scores : dict of arm to float32 [C, N, K]
        Candidates in the order of the arm's grid; NaN where one failed. Empty where there were too many.
    """

    sample_ids: npt.NDArray[np.str_]
    scores: dict[str, npt.NDArray[np.float32]]

    def write(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        metadata = {"sample_ids": json.dumps(self.sample_ids.tolist())}
        tensors = {arm: np.ascontiguousarray(one) for arm, one in sorted(self.scores.items())}
        write_bytes(path, save(tensors, metadata))

    @classmethod
    def read(cls, path: Path) -> Candidates:
        """Read what `write` wrote.

        Raises
        ------
        DataError
            If the file is missing or damaged.
        """
        try:
            with safe_open(path, framework="np") as file:
                ids = json.loads(file.metadata()["sample_ids"])
                scores = {arm: file.get_tensor(arm) for arm in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: expected scores of candidates, found none ({error}); run `embedpipe train`"
            ) from error
        return cls(np.asarray(ids, dtype=str), scores)

    def at(
        self, arm: str, sample_ids: Sequence[str] | npt.NDArray[np.str_]
    ) -> npt.NDArray[np.float32] | None:
        """Scores of one arm's candidates on the named samples, [C, len, K]; None where they were not kept."""
        if arm not in self.scores:
            return None
        place_of = {one: place for place, one in enumerate(self.sample_ids.tolist())}
        missing = [one for one in map(str, sample_ids) if one not in place_of]
        if missing:
            raise DataError(
                f"arm {arm!r}: candidates say nothing of {len(missing)} samples that are judged "
                f"({', '.join(missing[:5])}); train the task again"
            )
        scores: npt.NDArray[np.float32] = self.scores[arm][:, [place_of[str(one)] for one in sample_ids]]
        return scores
