"""Rows as an optimiser wants them: centred, in coordinates where the Hessian is nearly diagonal, read by pieces.

A model with an L2 penalty is the same in any orthonormal coordinates. Here they are the eigenvectors of the
rows' scatter; the weights are rotated, never the rows, so that a pass costs no more than over the rows as they
are. Knows nothing of losses.
"""

# N rows, D features, R coordinates, S sampled rows, n rows of a piece

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from embedpipe.heads.linear import Scaling
from embedpipe.heads.rows import ArrayRows, Rows, array_of
from embedpipe.heads.stored import moments_of

Result = TypeVar("Result")

NUM_SAMPLED = 4096
"""Rows whose curvature stands for that of all: the preconditioner needs no more."""
MOST_ROTATED = 4096
"""Coordinates beyond which an eigendecomposition costs more than the steps that it saves."""
NULL = 1e-12
"""Share of the largest eigenvalue below which a direction holds nothing but rounding."""
KEPT_NBYTES = 1 << 30
"""Centred copies of rows in memory that are kept between passes."""


@dataclass
class Design:
    """Centred rows and their coordinates.

    Attributes
    ----------
    rows : Rows
    scaling : Scaling
    basis : float64 array, shape (D, R), or None
        From coordinates to scaled, centred features: orthonormal columns over the features, divided by their
        scales. None where coordinates are the scaled features themselves.
    sample : int64 array, shape (S,)
    sampled : float32 array, shape (S, R)
        Coordinates of the sampled rows.
    """

    rows: Rows
    scaling: Scaling
    basis: np.ndarray | None
    sample: np.ndarray
    sampled: np.ndarray
    _kept: dict[str, list[tuple[slice, np.ndarray]]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Rows, *, standardise: bool, weight: np.ndarray | None) -> Design:
        """Two readings of the rows where they do not lie in memory: moments, and the sample."""
        num_rows, num_features = rows.shape
        if num_rows < num_features and isinstance(rows, ArrayRows) and num_rows <= MOST_ROTATED:
            return cls._of_few(array_of(rows), standardise=standardise, weight=weight)
        scaling, scatter_DD = _moments(rows, standardise, weight)
        basis = None
        if scatter_DD is not None:
            eigenvalues_D, vectors_DD = np.linalg.eigh(scatter_DD)
            used = eigenvalues_D > NULL * max(float(eigenvalues_D[-1]), 1e-300)
            basis = np.ascontiguousarray(vectors_DD[:, used] / scaling.scale[:, None])
        return cls._sampled(rows, scaling, basis)

    @classmethod
    def _of_few(cls, X_ND: np.ndarray, *, standardise: bool, weight: np.ndarray | None) -> Design:
        """Fewer rows than features: each row is replaced by its coordinates in the space that rows span."""
        scaling = Scaling.of(X_ND, standardise=standardise, weight=weight)
        left_NR, singular_R, right_RD = np.linalg.svd(scaling.apply(X_ND), full_matrices=False)
        used = singular_R**2 > NULL * max(float(singular_R[0]) ** 2, 1e-300)
        found = cls._sampled(
            ArrayRows(left_NR[:, used] * singular_R[used]),
            Scaling(np.zeros(int(used.sum())), np.ones(int(used.sum()))),
            None,
        )
        return _FewRows(
            found.rows, found.scaling, None, found.sample, found.sampled, {}, scaling, right_RD[used].T
        )

    @classmethod
    def _sampled(cls, rows: Rows, scaling: Scaling, basis: np.ndarray | None) -> Design:
        num_rows = rows.shape[0]
        sample = np.arange(num_rows)
        if num_rows > NUM_SAMPLED:
            sample = np.sort(np.random.default_rng(0).choice(num_rows, NUM_SAMPLED, replace=False))
        centred_SD = rows.gather(sample).astype(np.float64) - scaling.mean
        coordinates_SR = centred_SD / scaling.scale if basis is None else centred_SD @ basis
        return cls(rows, scaling, basis, sample, coordinates_SR.astype(np.float32))

    @property
    def num_rows(self) -> int:
        """N."""
        return self.rows.shape[0]

    @property
    def num_coordinates(self) -> int:
        """R."""
        return self.rows.shape[1] if self.basis is None else self.basis.shape[1]

    def spread(self, weights_RM: np.ndarray) -> np.ndarray:
        """Weights over centred features, of weights over coordinates."""
        if self.basis is None:
            scaled_DM: np.ndarray = weights_RM / self.scaling.scale[:, None]
            return scaled_DM
        spread_DM: np.ndarray = self.basis @ weights_RM
        return spread_DM

    def gathered(self, slopes_DM: np.ndarray) -> np.ndarray:
        """Slopes in coordinates, of slopes over centred features: the transpose of `spread`."""
        if self.basis is None:
            scaled_DM: np.ndarray = slopes_DM / self.scaling.scale[:, None]
            return scaled_DM
        gathered_RM: np.ndarray = self.basis.T @ slopes_DM
        return gathered_RM

    def fold(self, weights_RK: np.ndarray, intercept_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (K, D) and intercepts (K,) over raw features."""
        coef_KD = np.ascontiguousarray(self.spread(weights_RK).T)
        return coef_KD, intercept_K - coef_KD @ self.scaling.mean

    def each(
        self, work: Callable[[slice, np.ndarray], Result], dtype: str, piece_rows: int
    ) -> Iterator[Result]:
        """What `work` makes of every piece of centred rows, in order, done by as many threads as BLAS has."""
        pieces = (
            (slice(part.start + at, part.start + at + len(piece)), piece)
            for part, block in self.blocks(dtype)
            for at in range(0, len(block), piece_rows)
            for piece in [block[at : at + piece_rows]]
        )
        num_threads = max((int(one["num_threads"]) for one in threadpool_info()), default=1)
        if num_threads == 1 or self.num_rows <= piece_rows:
            yield from (work(part, piece) for part, piece in pieces)
            return
        with threadpool_limits(1), ThreadPoolExecutor(num_threads) as pool:
            waiting: deque[Future[Result]] = deque()
            for part, piece in pieces:
                waiting.append(pool.submit(work, part, piece))
                if len(waiting) > 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def blocks(self, dtype: str, *, keep: bool = True) -> Iterator[tuple[slice, np.ndarray]]:
        """Centred rows, block by block; kept for the next time where they lie in memory anyway and are not many."""
        if dtype in self._kept:
            yield from self._kept[dtype]
            return
        mean_D = self.scaling.mean.astype(dtype)
        if not isinstance(self.rows, ArrayRows) or np.dtype(dtype).itemsize * self.rows.X.size > KEPT_NBYTES:
            keep = False
        kept = []
        for part, block in self.rows.blocks():
            centred = block.astype(dtype) - mean_D
            if keep:
                kept.append((part, centred))
            yield part, centred
        if keep:
            self._kept[dtype] = kept


@dataclass
class _FewRows(Design):
    """Rows by their coordinates in the space that they span, which `fold` leads back from."""

    outer: Scaling = field(default_factory=partial(Scaling, np.zeros(0), np.zeros(0)))
    span: Any = None

    def fold(self, weights_RK: np.ndarray, intercept_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.outer.fold(self.span @ weights_RK, intercept_K)


def _moments(rows: Rows, standardise: bool, weight: np.ndarray | None) -> tuple[Scaling, np.ndarray | None]:
    """Scaling of columns, and the scatter of scaled columns where they are few enough to rotate."""
    num_rows, num_features = rows.shape
    if num_features > min(MOST_ROTATED, num_rows):
        return Scaling.of_rows(rows, standardise=standardise, weight=weight), None
    normal = moments_of(rows, {}, weight=weight).normal()
    scale_D = normal.scale_D(standardise=standardise)
    return Scaling(normal.mean, scale_D), normal.gram / scale_D[:, None] / scale_D
