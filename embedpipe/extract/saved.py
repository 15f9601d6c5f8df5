"""What the cache has saved a backbone so far: samples that were not embedded again, at the rate measured here.

Reads and writes ``<backbone>.saved.json`` beside the working stores.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.progress import duration_text
from embedpipe.store.disk import replace_file


@dataclass(frozen=True)
class Saved:
    """Sums over all runs of one backbone.

    Attributes
    ----------
    num_embedded, num_reused : int
        Forward passes made; samples that a run wanted and found in the store.
    spent_s : float
        Seconds that the forward passes took with all around them.
    """

    num_embedded: int = 0
    num_reused: int = 0
    spent_s: float = 0.0

    @property
    def rate(self) -> float | None:
        """Samples a second over all runs; None before any was measured."""
        return self.num_embedded / self.spent_s if self.spent_s > 0 else None

    @property
    def saved_s(self) -> float | None:
        """Seconds that embedding the reused samples again would have taken."""
        return self.num_reused / self.rate if self.rate else None

    def sentence(self) -> str:
        """In words; empty where nothing was saved yet."""
        if not self.saved_s or self.rate is None:
            return ""
        return (
            f"the cache has saved {duration_text(self.saved_s)} so far: {self.num_reused:,} samples not embedded "
            f"again, at {self.rate:,.0f}/s"
        )

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "rate": self.rate, "saved_s": self.saved_s}


def read_saved(stores_dir: Path, name: str) -> Saved:
    """The sums; none yet where there is no note or it is damaged."""
    try:
        raw = json.loads(_path(stores_dir, name).read_bytes())
        return Saved(int(raw["num_embedded"]), int(raw["num_reused"]), float(raw["spent_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Saved()


def add_saved(stores_dir: Path, name: str, num_embedded: int, num_reused: int, spent_s: float) -> Saved:
    """Add one run and note the sums."""
    before = read_saved(stores_dir, name)
    after = Saved(
        before.num_embedded + num_embedded, before.num_reused + num_reused, before.spent_s + spent_s
    )
    replace_file(_path(stores_dir, name), (json.dumps(dataclasses.asdict(after)) + "\n").encode())
    return after


def _path(stores_dir: Path, name: str) -> Path:
    return stores_dir / f"{name}.saved.json"
