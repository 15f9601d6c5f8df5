"""Choose layers one after the other, by what ridge on them together predicts of held-out rows.

Works on the moments of all layers side by side: no step reads a row. Knows nothing of files or heads.

References
----------
Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", section 3.3.2 (forward selection).
"""

# D features of all layers, K targets, A strengths

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedpipe.errors import DataError
from embedpipe.heads.gram import Gram, Normal
from embedpipe.heads.ridge_path import PrimalPath, RidgePath, TridiagonalPath

ALPHAS = tuple(float(alpha) for alpha in np.geomspace(1e-1, 1e5, 13))


@dataclass(frozen=True)
class Step:
    """One layer that was added.

    Attributes
    ----------
    layer : str
    r2 : float
        Of the layers so far, on held-out rows, over all folds and targets together; 1 is perfect, 0 the mean.
    alpha : float
        The strength that gave it.
    """

    layer: str
    r2: float
    alpha: float


def greedy_layers(
    gram: Gram,
    name: str,
    layers: Mapping[str, slice],
    *,
    alphas: Sequence[float] = ALPHAS,
    most: int | None = None,
    gain: float = 1e-3,
    standardise: bool = True,
) -> list[Step]:
    """Forward selection by exact k-fold scores of ridge.

    Parameters
    ----------
    gram
        Moments of all layers side by side, in two folds or more.
    name
        Of the targets in it.
    layers
        Columns of each layer.
    alphas
        Strengths tried at every step.
    most
        Layers to stop at; all by default.
    gain
        Stop where no layer adds as much of R².

    Returns
    -------
    list of Step
        In the order of choice; at least one.

    Raises
    ------
    DataError
        If the moments have one fold only, or a fold has no labelled row.
    """
    if gram.num_folds < 2:
        raise DataError(f"{name}: expected moments in two folds or more to hold rows out, found one")
    folds = [
        (gram.normal(name, without=fold), gram.normal(name, only=fold)) for fold in range(gram.num_folds)
    ]
    chosen: list[Step] = []
    left = dict(layers)
    while left and (most is None or len(chosen) < most):
        found = [
            Step(
                layer,
                *_held_out(
                    folds,
                    np.concatenate(
                        [_places(layers[one]) for one in [*[step.layer for step in chosen], layer]]
                    ),
                    alphas,
                    standardise,
                ),
            )
            for layer in left
        ]
        best = max(found, key=lambda step: step.r2)
        if chosen and best.r2 < chosen[-1].r2 + gain:
            break
        chosen.append(best)
        del left[best.layer]
    return chosen


def _places(columns: slice) -> np.ndarray:
    return np.arange(columns.start, columns.stop)


def _held_out(
    folds: Sequence[tuple[Normal, Normal]], columns: np.ndarray, alphas: Sequence[float], standardise: bool
) -> tuple[float, float]:
    """Best R² over the strengths, and the strength."""
    error_A, spread = np.zeros(len(alphas)), 0.0
    for rest, held in folds:
        some, held_some = rest.columns(columns), held.columns(columns)
        form = TridiagonalPath if len(columns) > 1 else PrimalPath
        path: RidgePath = form.of(some, standardise=standardise)
        coef_AKD, intercept_AK = path.weights(alphas)
        for a in range(len(alphas)):
            error_A[a] += held_some.squared_error(coef_AKD[a], intercept_AK[a]).sum()
        # about the mean of the rows that were learned from: what knows no features predicts that
        spread += float(
            (held.target_square + held.weight * np.square(held.target_mean - rest.target_mean)).sum()
        )
    best = int(np.argmin(error_A))
    return 1.0 - float(error_A[best]) / max(spread, 1e-300), float(alphas[best])
