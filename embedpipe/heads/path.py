"""Linear classifiers under an L2 penalty whose grid of strengths is solved in one pass.

Brings the design and the solver together; a family adds its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from embedpipe.heads.base import WeightedHead, grouped
from embedpipe.heads.design import Design
from embedpipe.heads.device import CPU, device_of
from embedpipe.heads.linear import LinearClassifierHead
from embedpipe.heads.prepared import PreparedHead
from embedpipe.heads.solver import Loss, minimise
from embedpipe.heads.training import Training

# G strengths


class LinearPathHead(PreparedHead, WeightedHead, LinearClassifierHead):
    """A linear classifier that minimises ``C * sum(loss) + ||W||^2 / 2``."""

    learned_values = ("n_iter_", "objective_")
    streams = True
    shared: ClassVar[tuple[str, ...]] = ("standardise", "tol", "max_iter", "class_weight", "device")
    """Parameters that heads solved together agree in: all but C."""
    n_iter_: int
    objective_: float

    def __init__(
        self,
        C: float = 1.0,
        *,
        standardise: bool = True,
        tol: float = 1e-6,
        max_iter: int = 3000,
        class_weight: Any = None,
        normalise: bool = False,
        pca: int | None = None,
        whiten: bool = False,
        device: str = CPU,
    ) -> None:
        self.C = C
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.normalise = normalise
        self.pca = pca
        self.whiten = whiten
        self.device = device

    def _loss(self, codes: np.ndarray, num_classes: int, weight: np.ndarray | None) -> Loss:
        raise NotImplementedError

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        assert training.classes is not None
        for group in grouped(heads, *cls.shared):
            first = group[0]
            weight = training.weight_of(first.class_weight)
            loss = first._loss(training.y, len(training.classes), weight)
            # classes count by what they weigh, columns are scaled by how the rows lie
            design = Design.of(training.rows, standardise=first.standardise, weight=training.weight)
            strengths_G = np.array([head.C for head in group], dtype=np.float64)
            device = None if first.device == CPU else device_of(first.device, cls.family)
            found = minimise(
                design, loss, strengths_G, tol=first.tol, max_steps=first.max_iter, device=device
            )
            for g, head in enumerate(group):
                head.coef_, head.intercept_ = design.fold(found.weights[g], found.intercept[g])
                head.converged_ = bool(found.converged[g])
                head.n_iter_ = int(found.num_steps[g])
                head.objective_ = float(found.objective[g])
                head._settle()

    def _settle(self) -> None:
        """Fix what the loss leaves open."""


def weights_of(weight: np.ndarray | None, part: slice | np.ndarray, dtype: np.dtype[Any]) -> Any:
    """Weights of the rows `part`, shape (n, 1, 1), or 1."""
    return 1 if weight is None else weight[part].astype(dtype)[:, None, None]
