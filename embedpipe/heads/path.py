"""Linear classifiers under an L2 penalty whose grid of strengths is solved in one pass.

Brings scaling, the row space and the solver together; a family adds its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from embedpipe.heads.base import Training, grouped
from embedpipe.heads.linear import LinearClassifierHead, RowSpace, Scaling
from embedpipe.heads.solver import Loss, minimise

# G strengths


class LinearPathHead(LinearClassifierHead):
    """A linear classifier that minimises ``C * sum(loss) + ||W||^2 / 2``."""

    learned_values = ("n_iter_", "objective_")
    n_iter_: int
    objective_: float

    def __init__(
        self, C: float = 1.0, *, standardise: bool = True, tol: float = 1e-6, max_iter: int = 3000
    ) -> None:
        self.C = C
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter

    @staticmethod
    def _loss(codes: np.ndarray, num_classes: int) -> Loss:
        raise NotImplementedError

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        assert training.classes is not None
        loss = cls._loss(training.y, len(training.classes))
        for group in grouped(heads, "standardise", "tol", "max_iter"):
            first = group[0]
            scaling = Scaling.of(training.X_ND, standardise=first.standardise)
            space = RowSpace.of(scaling.apply(training.X_ND))
            strengths_G = np.array([head.C for head in group], dtype=np.float64)
            found = minimise(space.Z_NR, loss, strengths_G, tol=first.tol, max_steps=first.max_iter)
            for g, head in enumerate(group):
                head.coef_, head.intercept_ = scaling.fold(space.basis @ found.weights[g], found.intercept[g])
                head.converged_ = bool(found.converged[g])
                head.n_iter_ = int(found.num_steps[g])
                head.objective_ = float(found.objective[g])
