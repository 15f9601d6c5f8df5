"""What happened in training, an entry an epoch; as JSON values, and as CSV for `dvc plots`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class History:
    """What happened, an entry an epoch.

    Attributes
    ----------
    losses : list of float
        Mean training loss.
    scores : list of float
        Score of the held-out samples, higher is better; without a scorer, minus the training loss.
    rates : list of float
        Learning rate at the epoch's last step, before factors of phases and groups.
    best_epoch : int
        From 1; the epoch with the best score. 0 if none had a finite one.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    best_epoch: int = 0

    @property
    def best_score(self) -> float:
        """The best score."""
        return self.scores[self.best_epoch - 1] if self.best_epoch else -math.inf

    def to_dict(self) -> dict[str, Any]:
        """JSON values; a number that is not finite is null."""
        values = {
            name: [value if math.isfinite(value) else None for value in getattr(self, name)]
            for name in ("losses", "scores", "rates")
        }
        return {**values, "best_epoch": self.best_epoch}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        """Take back what `to_dict` gave."""
        values = {
            name: [math.nan if value is None else float(value) for value in raw[name]]
            for name in ("losses", "scores", "rates")
        }
        return cls(**values, best_epoch=int(raw["best_epoch"]))

    def to_csv(self, score: str = "val_score") -> str:
        """One line an epoch; `score` names that column."""
        lines = [f"epoch,train_loss,{score},learning_rate"]
        rows = zip(self.losses, self.scores, self.rates, strict=True)
        lines += [
            f"{epoch},{loss:.6f},{value:.6f},{rate:.6g}"
            for epoch, (loss, value, rate) in enumerate(rows, start=1)
        ]
        return "\n".join(lines) + "\n"
