"""Keys of finished units: everything that a fit depends on, and nothing else.

Features enter by content, not by name, so a renamed backbone or a store with another history refits nothing.
"""

from __future__ import annotations

import hashlib
import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.heads import registry
from embedpipe.heads.rows import Rows
from embedpipe.train.memo import code_digest
from embedpipe.train.plan import Unit
from embedpipe.train.samples import TaskSamples


@cache
def code_of_training() -> str:
    """Digest of the code and libraries that decide what a fitted head predicts."""
    return code_digest(
        [
            "embedpipe.heads",
            "embedpipe.train.fit",
            "embedpipe.train.places",
            "embedpipe.train.reading",
            "embedpipe.train.samples",
            "embedpipe.evaluate.dense",
            "embedpipe.evaluate.metrics",
            "embedpipe.evaluate.multilabel",
            "embedpipe.evaluate.numbers",
            "embedpipe.evaluate.sums",
            "embedpipe.manifest.kinds",
            "embedpipe.manifest.kshot",
            "embedpipe.manifest.masks",
        ],
        ["numpy", "scipy", "scikit-learn", "torch"],
    )


class Keys:
    """Keys of one task's units."""

    def __init__(self, samples: TaskSamples, by: str, seed: int, on: str = "val") -> None:
        self._common = {
            "kind": samples.kind,
            "num_classes": len(samples.classes),
            "truth": _digest(samples.truth),
            **({} if samples.masks is None else {"masks": samples.masks.digest, "seen": samples.spec.seen}),
            **({"box": samples.spec.box} if samples.spec.box else {}),
            **({} if samples.weight is None else {"weight": _digest(samples.weight)}),
            "splits": _digest(np.char.encode(samples.splits)),
            "by": by,
            "seed": seed,
        }
        self._ids = _digest(np.char.encode(samples.sample_ids))
        self._groups = _digest(np.unique(samples.groups, return_inverse=True)[1])
        self._chosen = {} if on == "val" else {"on": on, "groups": self._groups}

    def features(self, rows: Rows) -> str:
        """Digest of the features of the task's samples, in their order: of their values, read by blocks."""
        state = hashlib.blake2b(f"<f4{(rows.shape[0], math.prod(rows.shape[1:]))}".encode(), digest_size=16)
        for _, block in rows.blocks():
            state.update(np.ascontiguousarray(block, dtype="<f4").data)
        return state.hexdigest()

    def full(self, unit: Unit, features: str) -> dict[str, Any]:
        return self._of(unit, features, candidates=list(unit.candidates), fit="full", **self._chosen)

    def few(self, unit: Unit, features: str, k_shot: int, num_draws: int) -> dict[str, Any]:
        """Draws are by hash of sample ids and folds keep groups whole, so these count too."""
        return self._of(
            unit,
            features,
            candidates=list(unit.few_shot),
            fit="few",
            k=k_shot,
            draws=num_draws,
            ids=self._ids,
            groups=self._groups,
        )

    def shuffled(
        self, unit: Unit, features: str, params: dict[str, Any], num_shuffles: int
    ) -> dict[str, Any]:
        return self._of(unit, features, candidates=[params], fit="shuffled", shuffles=num_shuffles)

    def screen(self, features: str) -> dict[str, Any]:
        """Of a tap, whatever heads are trained on it."""
        return {**self._common, "features": features, "fit": "screen", "groups": self._groups}

    def _of(self, unit: Unit, features: str, **more: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {"fixed": unit.fixed, "row_shape": list(unit.row_shape or ())}
        if registry.family_of(unit.family).holds_out:
            more.setdefault("groups", self._groups)
        if "masks" in self._common:
            seen["of_image"] = unit.parts[0].seen
        return {**self._common, "features": features, "family": unit.family, **seen, **more}


def _digest(array: npt.NDArray[Any]) -> str:
    state = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
