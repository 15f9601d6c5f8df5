"""Grids of convex heads, against loops of scikit-learn fits."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from parts.features import Figures, Rows, by_turns, seconds


def ridge(rows: Rows, num: int, repeats: int) -> Figures:
    """45 strengths x 10 folds, and leave-one-out."""
    from sklearn.linear_model import Ridge, RidgeCV

    from embedpipe.heads.ridge_path import fold_scores, ridge_path
    from embedpipe.heads.rows import ArrayRows

    width = 1024
    X, codes = rows.make(num, width)
    Y, wide = np.eye(10)[codes], X.astype(np.float64)
    alphas, folds = np.geomspace(1e-2, 1e6, 45), np.arange(num) % 10
    sample = [(0, 3), (4, 22), (9, 40)]

    def ours() -> list[tuple[np.ndarray, np.ndarray]]:
        return list(fold_scores(X, Y, folds, alphas, standardise=False))

    def theirs() -> list[np.ndarray]:
        return [
            Ridge(alpha=alphas[a]).fit(wide[folds != fold], Y[folds != fold]).predict(wide[folds == fold])
            for fold, a in sample
        ]

    def ours_loo() -> float:
        path = ridge_path(X, Y, standardise=False)
        left_out = path.left_out(ArrayRows(X), Y, np.arange(num), None)
        return min(np.square(Y - scores).mean() for scores in left_out.each(alphas))

    theirs_loo = RidgeCV(alphas=alphas)
    found = ours()
    error = max(
        float(np.abs(found[fold][1][a] - wanted).max())
        for (fold, a), wanted in zip(sample, theirs(), strict=True)
    )
    whole, part = by_turns(repeats, ours, theirs)
    loo, loo_theirs = by_turns(1, ours_loo, lambda: theirs_loo.fit(wide, Y))
    fits = len(alphas) * 10
    return {
        "ridge_speedup": part / len(sample) * fits / whole,
        "ridge_seconds": whole,
        "ridge_loo_speedup": loo_theirs / loo,
        "ridge_error": error,
        "ridge_about": f"N={num}, D={width}, {len(sample)} of {fits} scikit-learn fits timed; RidgeCV whole, once",
    }


def logistic(rows: Rows, num: int, repeats: int) -> Figures:
    """10 strengths x 3 taps, to the same objective.

    Ours is timed whole. scikit-learn is timed at a sample of strengths on the first tap, each with the loosest
    tolerance that brings it within 1e-6 of our objective; then it goes on for 1,000 steps, untimed, to see whether ours
    can be beaten.
    """
    from sklearn.linear_model import LogisticRegression

    from embedpipe.heads.registry import fit_grid

    width, num_taps = 512, 3
    taps = [rows.make(num, width, seed) for seed in range(num_taps)]
    strengths = [float(C) for C in np.geomspace(1e-4, 1e2, 10)]
    grid = [{"C": C, "standardise": False} for C in strengths]
    sample = [1, 5]

    def ours() -> list[Any]:
        return [fit_grid("logistic", grid, X, codes, kind="classes", seed=0) for X, codes in taps]

    fitted: list[list[Any]] = []
    whole = statistics.median(seconds(lambda: fitted.append(ours()[0])) for _ in range(repeats))
    X, codes = taps[0]
    wide, place = X.astype(np.float64), np.arange(num)

    def objective(head: Any, C: float) -> float:
        scores = wide @ head.coef_.T + head.intercept_
        loss = np.logaddexp.reduce(scores, axis=1).sum() - scores[place, codes].sum()
        return float(C * loss + 0.5 * np.square(head.coef_).sum())

    times, above, timed = [], [], []
    for at in sample:
        C, ours_at = strengths[at], objective(fitted[0][at], strengths[at])
        for tol in (1e-5, 1e-6, 1e-7, 1e-8):
            reference = LogisticRegression(C=C, tol=tol, max_iter=5_000, warm_start=True)
            # the last of them alone counts: the one that gets there
            took = seconds(lambda reference=reference: reference.fit(wide, codes))
            if objective(reference, C) <= ours_at * (1 + 1e-6):
                break
        reference.set_params(tol=1e-8, max_iter=1_000).fit(wide, codes)
        above.append(ours_at / objective(reference, C) - 1)
        times.append(took)
        timed.append(f"C={C:.2g} tol={tol:g} {took:.1f} s")
    return {
        "logistic_speedup": statistics.mean(times) * len(strengths) * num_taps / whole,
        "logistic_seconds": whole,
        "logistic_objective_above": max(above),
        "logistic_converged": all(head.converged_ for head in fitted[0]),
        "logistic_about": f"N={num}, D={width}, {len(strengths)} strengths x {num_taps} taps; scikit-learn timed at "
        f"{len(sample)} of {len(strengths) * num_taps} fits, with the loosest tol that reaches our objective: "
        + ", ".join(timed),
    }
