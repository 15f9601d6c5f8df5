"""What the targets of a task are: their kind, the names of their parts, and how truth is held in arrays.

One immutable value says it wherever targets, samples and predictions meet. Knows nothing of files.

========== =============================== =========================== ==================================
kind       truth                           missing                     scores of a sample
========== =============================== =========================== ==================================
classes    int64 [N], codes                -1                          probability of each class, K
multilabel float64 [N, K], 0 and 1         NaN, for each label alone   probability of each label, K
number     float64 [N], or [N, M]          NaN; all M or none          the numbers, 1 or M
dense      int64 [N, P], codes of places   -1, for each place alone    code of the class at each place, P
========== =============================== =========================== ==================================
"""

# N samples, K classes or labels, M numbers, P places of a grid

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

TaskKind = Literal["classes", "multilabel", "number", "dense"]
BoxFormat = Literal["xyxy", "xywh", "cxcywh"]
KINDS: tuple[str, ...] = get_args(TaskKind)
MISSING = -1
"""Code of a class that nobody gave."""

Truth = npt.NDArray[Any]


@dataclass(frozen=True)
class TargetSpec:
    """What one task's targets are.

    Attributes
    ----------
    kind : str
        ``classes``, ``multilabel``, ``number`` or ``dense``.
    classes : tuple of str
        Names of all classes (or labels) of the task, in the order of the codes; empty for numbers.
    outputs : tuple of str
        Names of the numbers, where there are several.
    box : str or None
        How the four numbers are a box, where they are one: ``xyxy`` (two corners), ``xywh`` (a corner and the size) or
        ``cxcywh`` (the centre and the size).
    grid : int or None
        Places a side at which masks are judged; dense alone.
    seen : float or None
        Share of the shorter side that the judged square has, centred in the image: what every backbone of the task
        sees. Dense alone, and not known before training.
    """

    kind: TaskKind
    classes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    box: BoxFormat | None = None
    grid: int | None = None
    seen: float | None = None

    @property
    def is_coded(self) -> bool:
        """Whether truth is a code into `classes`, of a sample or of a place."""
        return self.kind in ("classes", "dense")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of classes, labels or numbers; none where there is one number."""
        return self.classes or self.outputs

    @property
    def width(self) -> int:
        """Scores a sample."""
        if self.kind == "number":
            return max(1, len(self.outputs))
        return len(self.classes) if self.kind != "dense" else (self.grid or 0) ** 2

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of the truth of one sample."""
        if self.kind == "classes" or (self.kind == "number" and not self.outputs):
            return ()
        return (self.width,)

    def missing(self, num: int) -> Truth:
        """Truth of samples of which nothing is known."""
        dtype, value = (np.int64, MISSING) if self.is_coded else (np.float64, np.nan)
        return np.full((num, *self.row_shape), value, dtype)

    def known(self, truth: Truth) -> npt.NDArray[np.bool_]:
        """Which entries are there, in the shape of `truth`."""
        there: npt.NDArray[np.bool_] = truth >= 0 if self.is_coded else ~np.isnan(truth)
        return there

    def labelled(self, truth: Truth) -> npt.NDArray[np.bool_]:
        """Which samples can be learnt from and judged, [N]: those of which anything is known, or all their numbers."""
        there = self.known(truth)
        if there.ndim == 1:
            return there
        found = there.all(axis=1) if self.kind == "number" else there.any(axis=1)
        return np.asarray(found, dtype=bool)

    def to_dict(self) -> dict[str, Any]:
        """As files hold it: what does not apply is left out."""
        more = {name: getattr(self, name) for name in ("outputs", "box", "grid", "seen")}
        listed = {name: list(one) if isinstance(one, tuple) else one for name, one in more.items() if one}
        return {"kind": self.kind, "classes": list(self.classes), **listed}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave."""
        return cls(
            raw["kind"],
            tuple(raw["classes"]),
            tuple(raw.get("outputs", ())),
            raw.get("box"),
            raw.get("grid"),
            raw.get("seen"),
        )

    def is_of_targets(self, targets: TargetSpec) -> bool:
        """Whether predictions of this spec are of such targets."""
        return replace(self, seen=None) == replace(targets, seen=None)

    def __str__(self) -> str:
        named = f"{', '.join(self.names[:5])}{', …' * (len(self.names) > 5)}"
        if self.kind == "number":
            return f"{len(self.outputs)} numbers ({named})" if self.outputs else "numbers"
        what = "labels" if self.kind == "multilabel" else "classes"
        places = f" at {self.grid} x {self.grid} places" if self.kind == "dense" else ""
        return f"{len(self.classes)} {what} ({named}){places}"
