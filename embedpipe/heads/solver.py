"""Minimise L2-penalised linear losses for a whole grid of strengths at once.

All strengths share each pass over the rows: their weights stand side by side as columns of one matrix
product. Each strength has its own L-BFGS history, step and stopping, and leaves the batch when it is done.
Knows nothing of classes or heads: a loss is a function of scores.

References
----------
Nocedal and Wright 2006, "Numerical Optimization", algorithm 7.4 (two-loop recursion) and equation 7.20.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

# N rows, P penalised columns and the intercept last, G strengths, K outputs

MEMORY = 10
REFRESH = 5
SUFFICIENT = 1e-4
FLOOR = 1e-6


class Loss(Protocol):
    """A convex loss, summed over rows, of scores."""

    num_outputs: int

    def start(self) -> np.ndarray:
        """Intercepts to start from, shape (K,)."""

    def evaluate(self, scores_NGK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Loss (G,), its slope in the scores (N, G, K) and a diagonal of its curvature (N, G, K)."""


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


def minimise(
    Z_NR: np.ndarray, loss: Loss, C_G: np.ndarray, *, tol: float = 1e-7, max_steps: int = 3000
) -> Solution:
    """Minimise ``C * sum(loss(Z @ W + b)) + ||W||^2 / 2`` for every C.

    Parameters
    ----------
    Z_NR
        Rows in coordinates where ``Z.T @ Z`` is nearly diagonal (`RowSpace`): the Hessian's diagonal is
        then a good preconditioner.
    loss
        The loss.
    C_G
        Inverse strengths, above 0.
    tol
        Stop where the duality gap is at most `tol` times the objective.
    max_steps
        Give up on a strength after so many steps; `converged` says so.

    Returns
    -------
    Solution
    """
    design_NP = np.concatenate([Z_NR, np.ones((len(Z_NR), 1))], axis=1)
    squared_NP = np.square(design_NP)
    num_strengths, num_outputs, num_params = len(C_G), loss.num_outputs, design_NP.shape[1]
    penalty_P11 = np.ones((num_params, 1, 1))
    penalty_P11[-1] = 0.0

    def evaluate(W_PGK: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores_NGK = (design_NP @ W_PGK.reshape(num_params, -1)).reshape(len(design_NP), -1, num_outputs)
        value_G, slope_NGK, curvature_NGK = loss.evaluate(scores_NGK)
        gradient_PGK = (design_NP.T @ slope_NGK.reshape(len(design_NP), -1)).reshape(W_PGK.shape)
        penalised = penalty_P11 * W_PGK
        return (
            value_G * C + 0.5 * _dot(penalised, W_PGK),
            gradient_PGK * C[:, None] + penalised,
            curvature_NGK,
        )

    def diagonal(curvature_NGK: np.ndarray, C: np.ndarray) -> np.ndarray:
        summed = squared_NP.T @ curvature_NGK.reshape(len(design_NP), -1)
        result: np.ndarray = summed.reshape(num_params, -1, num_outputs) * C[:, None] + penalty_P11
        # the intercept has no penalty: where every row is far from the margin its curvature would vanish
        np.maximum(result[-1], FLOOR * len(design_NP) * C[:, None], out=result[-1])
        return result

    result = Solution(
        np.zeros((num_strengths, num_params - 1, num_outputs)),
        np.zeros((num_strengths, num_outputs)),
        np.zeros(num_strengths),
        np.zeros(num_strengths),
        np.zeros(num_strengths, dtype=bool),
        np.zeros(num_strengths, dtype=np.int64),
    )
    active = np.arange(num_strengths)
    C = np.asarray(C_G, dtype=np.float64)
    W = np.zeros((num_params, num_strengths, num_outputs))
    W[-1] = loss.start()
    f, gradient, curvature = evaluate(W, C)
    history: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    scale = diagonal(curvature, C)
    for step_number in range(max_steps + 1):
        gap = _gap(gradient, curvature, C)
        converged = gap <= tol * f
        ended = converged | (step_number == max_steps)
        if ended.any():
            for here in np.flatnonzero(ended):
                there = active[here]
                result.weights[there] = W[:-1, here]
                result.intercept[there] = W[-1, here]
                result.objective[there], result.gap[there] = f[here], gap[here]
                result.converged[there] = converged[here]
                result.num_steps[there] = step_number
            keep = ~ended
            if not keep.any():
                break
            active, C, f = active[keep], C[keep], f[keep]
            W, gradient, scale = W[:, keep], gradient[:, keep], scale[:, keep]
            curvature = curvature[:, keep]
            history = [(s[:, keep], y[:, keep], rho[keep]) for s, y, rho in history]
        direction = -_two_loop(gradient, history, scale)
        W_after, f, gradient_after, curvature = _search(evaluate, W, f, gradient, direction, C)
        s, y = W_after - W, gradient_after - gradient
        curved = _dot(s, y)
        history.append((s, y, np.where(curved > 0, 1.0 / np.where(curved > 0, curved, 1.0), 0.0)))
        del history[:-MEMORY]
        W, gradient = W_after, gradient_after
        if (step_number + 1) % REFRESH == 0:
            scale = diagonal(curvature, C)
    return result


class _Evaluate(Protocol):
    def __call__(self, W_PGK: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


def _search(
    evaluate: _Evaluate,
    W: np.ndarray,
    f: np.ndarray,
    gradient: np.ndarray,
    direction: np.ndarray,
    C: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Halve each strength's step until its objective falls enough; the others wait for it."""
    slope = _dot(gradient, direction)
    step = np.ones(len(f))
    W_after = W + direction
    f_after, gradient_after, curvature = evaluate(W_after, C)
    for _ in range(60):
        # the last term forgives rounding where the objective no longer moves
        bad = np.flatnonzero(f_after > f + SUFFICIENT * step * slope + 1e-13 * np.abs(f))
        if not len(bad):
            break
        step[bad] *= 0.5
        W_after[:, bad] = W[:, bad] + step[bad][:, None] * direction[:, bad]
        f_after[bad], gradient_after[:, bad], curvature[:, bad] = evaluate(W_after[:, bad], C[bad])
    return W_after, f_after, gradient_after, curvature


def _gap(gradient: np.ndarray, curvature_NGK: np.ndarray, C: np.ndarray) -> np.ndarray:
    bend_GK = np.maximum(curvature_NGK.sum(axis=0), FLOOR * len(curvature_NGK)) * C[:, None]
    weights = gradient[:-1]
    gap_G: np.ndarray = 0.5 * (_dot(weights, weights) + (np.square(gradient[-1]) / bend_GK).sum(axis=1))
    return gap_G


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
