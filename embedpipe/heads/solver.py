"""Minimise L2-penalised linear losses for a whole grid of strengths at once.

All strengths share each pass over the rows: their weights stand side by side as columns of one matrix
product. Each strength has its own L-BFGS history, step and stopping, and leaves the batch when it is done.
Passes are made in float32 until that no longer helps, then in float64. Knows nothing of classes or heads: a
loss is a function of scores.

References
----------
Nocedal and Wright 2006, "Numerical Optimization", algorithm 7.4 (two-loop recursion) and equation 7.20.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embedpipe.heads.design import Design
from embedpipe.heads.device_passes import DeviceLoss, DevicePasses

if TYPE_CHECKING:
    import torch

# N rows, P coordinates and the intercept last, G strengths, K outputs, S sampled rows, n rows of a piece

MEMORY = 10
REFRESH = 5
SUFFICIENT = 1e-4
FLOOR = 1e-6
PIECE = 1 << 18
"""Scores that are held at a time: these stay in the cache of a core."""
MOST_ROWS = 2048
SMALL = 1 << 21
"""Entries of a design below which float64 costs nothing worth saving."""
FLOAT32_TOL = 1e-7
"""Share of the objective that float32 passes are asked to prove; float64 does the rest."""


class Loss(Protocol):
    """A convex loss, summed over rows, of scores."""

    num_outputs: int

    def start(self) -> np.ndarray:
        """Intercepts to start from, shape (K,)."""

    def evaluate(self, scores_nGK: np.ndarray, part: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the rows `part`: loss (G,), and slope in the scores (n, G, K); overwrites the scores."""

    def curvature(self, slope_nGK: np.ndarray, part: slice | np.ndarray) -> np.ndarray:
        """A diagonal of the curvature where the slope is this, shape (n, G, K)."""

    def on_device(self, device: torch.device) -> DeviceLoss:
        """The same loss, its targets on a device."""


@dataclass(frozen=True)
class Solution:
    """Minimisers for each strength.

    Attributes
    ----------
    weights : float64 array, shape (G, R, K)
    intercept : float64 array, shape (G, K)
    objective, gap : float64 arrays, shape (G,)
        The objective reached, and how far below it the minimum can lie. For the penalised weights that is
        half the squared norm of the gradient, which for a penalty of ``||W||^2 / 2`` is the duality gap; the
        intercept, which no penalty bends, is given what a Newton step on it would gain.
    converged : bool array, shape (G,)
    num_steps : int64 array, shape (G,)
    """

    weights: np.ndarray
    intercept: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    converged: np.ndarray
    num_steps: np.ndarray


@dataclass
class _Batch:
    """Strengths that are still being solved, and where each stands."""

    place: np.ndarray
    C: np.ndarray
    W: np.ndarray
    f: np.ndarray
    gradient: np.ndarray
    scale: np.ndarray
    history: list[tuple[np.ndarray, np.ndarray, np.ndarray]]

    @property
    def gap(self) -> np.ndarray:
        """How far below `f` each minimum can lie."""
        weights, intercept = self.gradient[:-1], self.gradient[-1]
        gap_G: np.ndarray = 0.5 * (
            _dot(weights, weights) + (np.square(intercept) / self.scale[-1]).sum(axis=1)
        )
        return gap_G

    def keep(self, kept: np.ndarray) -> None:
        """Let go of the others."""
        self.place, self.C, self.f = (one[kept] for one in (self.place, self.C, self.f))
        self.W, self.gradient, self.scale = (one[:, kept] for one in (self.W, self.gradient, self.scale))
        self.history = [(s[:, kept], y[:, kept], rho[kept]) for s, y, rho in self.history]


def minimise(
    design: Design,
    loss: Loss,
    C_G: np.ndarray,
    *,
    tol: float = 1e-7,
    max_steps: int = 3000,
    device: torch.device | None = None,
) -> Solution:
    """Minimise ``C * sum(loss(Z @ W + b)) + ||W||^2 / 2`` for every C, Z being the rows in coordinates.

    Parameters
    ----------
    design
        The rows, in coordinates where their scatter is diagonal: the Hessian's diagonal is then a good
        preconditioner. It is estimated from the sampled rows.
    loss
        The loss.
    C_G
        Inverse strengths, above 0.
    tol
        Stop where the duality gap is at most `tol` times the objective, as float64 measures both.
    max_steps
        Give up on a strength after so many steps; `converged` says so.
    device
        Where torch makes the passes; None: numpy makes them.

    Returns
    -------
    Solution
    """
    num_strengths, num_outputs = len(C_G), loss.num_outputs
    num_params = design.num_coordinates + 1
    result = Solution(
        np.zeros((num_strengths, num_params - 1, num_outputs)),
        np.zeros((num_strengths, num_outputs)),
        np.zeros(num_strengths),
        np.full(num_strengths, np.inf),
        np.zeros(num_strengths, dtype=bool),
        np.zeros(num_strengths, dtype=np.int64),
    )
    W = np.zeros((num_params, num_strengths, num_outputs))
    W[-1] = loss.start()
    C = np.asarray(C_G, dtype=np.float64)
    small = design.num_rows * num_params <= SMALL
    single = [] if small else [("float32", max(0.9 * tol, FLOAT32_TOL))]
    for dtype, goal in [*single, ("float64", tol)]:
        _Descent(design, loss, dtype, device).run(W, C, goal, max_steps, result)
    return result


class _Descent:
    """Steps over passes of one precision."""

    def __init__(self, design: Design, loss: Loss, dtype: str, device: torch.device | None) -> None:
        self.design = design
        self.loss = loss
        self.dtype = dtype
        self.passes = None if device is None else DevicePasses(design, loss.on_device(device), dtype, device)
        # float32 sees no change of the objective below this share of it
        self.noise = 1e-13 if dtype == "float64" else 3e-8

    def run(self, W: np.ndarray, C: np.ndarray, tol: float, max_steps: int, result: Solution) -> None:
        """Go on from W, in place; strengths that are done are written to `result`."""
        batch = _Batch(np.arange(len(C)), C, W, *self.evaluate(W, C), np.empty(0), [])
        batch.scale = self.diagonal(batch)
        begun = result.num_steps.copy()
        stuck = np.zeros(len(C), bool)
        for step_number in range(max_steps + 1):
            gap = batch.gap
            converged = gap <= tol * batch.f
            ended = converged | stuck | (begun[batch.place] + step_number >= max_steps)
            if ended.any():
                there = batch.place[ended]
                W[:, there] = batch.W[:, ended]
                result.weights[there] = np.moveaxis(batch.W[:-1, ended], 1, 0)
                result.intercept[there] = batch.W[-1, ended]
                result.objective[there], result.gap[there] = batch.f[ended], gap[ended]
                result.converged[there] = converged[ended]
                result.num_steps[there] = begun[there] + step_number
                if ended.all():
                    return
                batch.keep(~ended)
            stuck = self.step(batch)
            if (step_number + 1) % REFRESH == 0:
                batch.scale = self.diagonal(batch)

    def step(self, batch: _Batch) -> np.ndarray:
        """One step of every strength; says which cannot move any more at this precision."""
        direction = -_two_loop(batch.gradient, batch.history, batch.scale)
        W, f, gradient = batch.W, batch.f, batch.gradient
        slope = _dot(gradient, direction)
        step = np.ones(len(f))
        W_after = W + direction
        f_after, gradient_after = self.evaluate(W_after, batch.C)
        # halve each strength's step until its objective falls enough; the others wait for it
        for _ in range(40):
            # where rounding hides the fall of the objective, the slope at the other end shows it
            slope_after = _dot(gradient_after, direction)
            fell = f_after <= f + SUFFICIENT * step * slope + self.noise * np.abs(f)
            fell |= (slope_after <= 0.8 * np.abs(slope)) & (f_after <= f + 30 * self.noise * np.abs(f))
            bad = np.flatnonzero(~fell & (slope_after > 0))
            if not len(bad):
                break
            step[bad] *= 0.5
            W_after[:, bad] = W[:, bad] + step[bad][:, None] * direction[:, bad]
            f_after[bad], gradient_after[:, bad] = self.evaluate(W_after[:, bad], batch.C[bad])
        s, y = W_after - W, gradient_after - gradient
        curved = _dot(s, y)
        batch.history.append((s, y, np.where(curved > 0, 1.0 / np.where(curved > 0, curved, 1.0), 0.0)))
        del batch.history[:-MEMORY]
        batch.W, batch.f, batch.gradient = W_after, f_after, gradient_after
        # what is foretold to be gained drowns in rounding
        drowned: np.ndarray = (step < 1e-9) | ((self.dtype == "float32") & (-slope < 1e-9 * np.abs(f)))
        return drowned

    def evaluate(self, W_PGK: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Objective (G,) and gradient (P, G, K)."""
        num_strengths, num_outputs = W_PGK.shape[1:]
        flat_DM = self.design.spread(W_PGK[:-1].reshape(-1, num_strengths * num_outputs))
        # BLAS is up to twice as fast on few columns where they lie one after the other
        flat_MD = np.ascontiguousarray(flat_DM.T, dtype=self.dtype)
        intercept_GK = W_PGK[-1].astype(self.dtype)

        if self.passes is None:
            value_G, slope_MD, slope_M = self._pass(flat_MD, intercept_GK)
        else:
            value_G, slope_MD, slope_M = self.passes.run(flat_MD, intercept_GK)
        gradient_PGK = np.empty_like(W_PGK)
        gradient_PGK[:-1] = self.design.gathered(slope_MD.T).reshape(-1, num_strengths, num_outputs)
        gradient_PGK[-1] = slope_M.reshape(num_strengths, num_outputs)
        gradient_PGK *= C[:, None]
        gradient_PGK[:-1] += W_PGK[:-1]
        return C * value_G + 0.5 * _dot(W_PGK[:-1], W_PGK[:-1]), gradient_PGK

    def _pass(
        self, flat_MD: np.ndarray, intercept_GK: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value (G,), slope in the weights (M, D) and in the intercepts (M,), over all rows."""
        num_strengths, num_outputs = intercept_GK.shape

        def work(part: slice, X_nD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            scores_nGK = (X_nD @ flat_MD.T).reshape(len(X_nD), num_strengths, num_outputs)
            scores_nGK += intercept_GK
            value_G, slope_nGK = self.loss.evaluate(scores_nGK, part)
            slope_Mn = np.ascontiguousarray(slope_nGK.reshape(len(X_nD), -1).T)
            return value_G, slope_Mn @ X_nD, slope_Mn.sum(axis=1)

        piece_rows = min(max(PIECE // (num_strengths * num_outputs), 64), MOST_ROWS)
        value_G = np.zeros(num_strengths)
        slope_MD = np.zeros(flat_MD.shape)
        slope_M = np.zeros(len(flat_MD))
        for value, slope, total in self.design.each(work, self.dtype, piece_rows):
            value_G += value
            slope_MD += slope
            slope_M += total
        return value_G, slope_MD, slope_M

    def diagonal(self, batch: _Batch) -> np.ndarray:
        """The Hessian's diagonal, shape (P, G, K), with the curvature of the sampled rows for that of all."""
        Z_SR, sample = self.design.sampled, self.design.sample
        num_params, num_strengths, num_outputs = batch.W.shape
        scores_SM = Z_SR @ batch.W[:-1].reshape(num_params - 1, -1).astype(np.float32)
        scores_SGK = scores_SM.reshape(len(sample), num_strengths, num_outputs)
        scores_SGK += batch.W[-1].astype(np.float32)
        _, slope_SGK = self.loss.evaluate(scores_SGK, sample)
        curvature_SGK = self.loss.curvature(slope_SGK, sample)
        summed_RM = np.square(Z_SR).T @ curvature_SGK.reshape(len(sample), -1)
        scale_PGK = np.empty_like(batch.W)
        scale_PGK[:-1] = summed_RM.reshape(num_params - 1, num_strengths, num_outputs)
        # the intercept has no penalty: where every row is far from the margin its curvature would vanish
        scale_PGK[-1] = np.maximum(curvature_SGK.sum(axis=0, dtype=np.float64), FLOOR * len(sample))
        scale_PGK *= (self.design.num_rows / len(sample)) * batch.C[:, None]
        scale_PGK[:-1] += 1.0
        return scale_PGK


def _two_loop(
    gradient: np.ndarray, history: list[tuple[np.ndarray, np.ndarray, np.ndarray]], scale: np.ndarray
) -> np.ndarray:
    q = gradient.copy()
    factors = []
    for s, y, rho in reversed(history):
        a = rho * _dot(s, q)
        q -= a[:, None] * y
        factors.append(a)
    q /= scale
    if history:
        # the usual scaling of the first guess, measured in the diagonal's own metric
        s, y, rho = history[-1]
        ratio = _dot(s, y) / np.maximum(_dot(y, y / scale), 1e-300)
        q *= np.where(rho > 0, ratio, 1.0)[:, None]
    for (s, y, rho), a in zip(history, reversed(factors), strict=True):
        q += (a - rho * _dot(y, q))[:, None] * s
    return q


def _dot(a_PGK: np.ndarray, b_PGK: np.ndarray) -> np.ndarray:
    product: np.ndarray = np.einsum("pgk,pgk->g", a_PGK, b_PGK)
    return product
