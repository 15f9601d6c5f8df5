"""Three quick looks at the features of one tap: nearest neighbours, ridge, and the evidence of a linear model.

None has anything to choose on held-out samples, so training rows are enough: each row is judged by the others.
Where rows come in groups (copies of a thing, slices of a patient) a row is judged by other groups alone.

References
----------
Renggli et al. 2022, "Which Model to Transfer? Finding the Needle in the Growing Haystack", section 4 (kNN and
linear proxies). You et al. 2021, "LogME". Caron et al. 2021 (DINO), section 3 (the vote).
"""

# N rows, D features, K targets, A strengths

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedpipe.evaluate.metrics import metric_of, point_metrics, sign_of
from embedpipe.heads.base import softmax
from embedpipe.heads.gram import Gram
from embedpipe.heads.linear import unit_rows
from embedpipe.heads.logme import logme
from embedpipe.heads.ridge_path import fold_scores, ridge_path
from embedpipe.heads.rows import ArrayRows

NEIGHBOURS, TEMPERATURE = 10, 0.07
"""Of DINO's protocol, with the fewest neighbours it names."""
ALPHAS = (1e-1, 1.0, 10.0, 100.0, 1e3, 1e4)
"""As the ridge head has them by default, over standardised columns."""
MOST_ROWS = 5000
"""Rows that are looked at: a ranking of taps needs no more, and time grows with their square."""
MOST_ENTRIES, FEWEST_ROWS = 50_000_000, 500
"""Of wide taps fewer rows are looked at, so that they take 400 MB in float64; never fewer than 500."""
FOLDS = 5
_BY_WINNERS = ("accuracy", "balanced_accuracy", "macro_f1")
_QUERIES = 1024


@dataclass(frozen=True)
class Screened:
    """What the training rows say of one tap; more is better in each, but for losses.

    Attributes
    ----------
    knn, ridge : float
        `metric` of the rows, each predicted from the others.
    logme : float
        Log evidence a row.
    metric : str
        Of `knn` and `ridge`.
    num_rows : int
    """

    knn: float
    ridge: float
    logme: float
    metric: str
    num_rows: int

    def to_dict(self) -> dict[str, Any]:
        return {
            name: (float(value) if np.isfinite(value) else None) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def screen_metric(kind: str, by: str) -> str:
    """`by` where winners alone decide it; else the default of the kind, as screens give no probabilities."""
    metric = metric_of(kind, by)
    if (kind == "classes" and metric not in _BY_WINNERS) or metric == "nll":
        return metric_of(kind, "")
    return metric


def chosen_rows(num_rows: int, seed: int, num_features: int = 1) -> npt.NDArray[np.int64]:
    """Positions that are looked at, ascending: all of them up to `MOST_ROWS`, or what a wide tap allows."""
    most = min(MOST_ROWS, max(FEWEST_ROWS, MOST_ENTRIES // num_features))
    if num_rows <= most:
        return np.arange(num_rows)
    drawn = np.random.default_rng([seed, 4]).choice(num_rows, most, replace=False)
    return np.sort(drawn)


def screen(
    X_ND: npt.NDArray[np.floating],
    y_N: npt.NDArray[Any],
    *,
    kind: str,
    num_classes: int = 0,
    by: str = "",
    groups: Sequence[str] | npt.NDArray[np.str_] | None = None,
) -> Screened:
    """Look at one tap.

    Parameters
    ----------
    X_ND
        Features of labelled training rows.
    y_N
        Class codes; numbers, or labels of which some are unknown, also several a row.
    by
        The metric that will select heads.
    groups
        Group of each row; None where each is its own.
    """
    metric = screen_metric(kind, by)
    X_ND = np.asarray(X_ND, np.float32)
    onehot_NK = np.eye(num_classes)[y_N] if kind == "classes" else _filled(y_N)
    group_N = _own_groups(len(X_ND), groups)

    def score(predicted_NK: npt.NDArray[np.floating]) -> float:
        shown = np.eye(num_classes)[predicted_NK.argmax(axis=1)] if kind == "classes" else predicted_NK
        return point_metrics(kind, y_N, shown)[metric]

    ridges = [score(one) for one in left_out_ridge(X_ND, onehot_NK, group_N)]
    sign = sign_of(metric)
    return Screened(
        knn=score(left_out_votes(X_ND, onehot_NK, group_N)),
        ridge=sign * max(sign * one for one in ridges),
        logme=evidence_of(X_ND, onehot_NK),
        metric=metric,
        num_rows=len(X_ND),
    )


def _filled(y_N: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Numbers or labels as columns; what is unknown of a label is its mean over the others."""
    values_NK = np.asarray(y_N, np.float64).reshape(len(y_N), -1)
    return np.where(np.isnan(values_NK), np.nanmean(values_NK, axis=0), values_NK)


def left_out_votes(
    X_ND: npt.NDArray[np.floating], Y_NK: npt.NDArray[np.float64], group_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Weighted vote of the most similar rows of other groups, by cosine, (N, K)."""
    rows_ND = unit_rows(X_ND.astype(np.float64)).astype(np.float32)
    votes = np.empty_like(Y_NK)
    for start in range(0, len(rows_ND), _QUERIES):
        part = slice(start, start + _QUERIES)
        similarity = (rows_ND[part] @ rows_ND.T).astype(np.float64)
        similarity[group_N[part, None] == group_N] = -np.inf
        num = min(NEIGHBOURS, len(rows_ND) - 1)
        nearest = np.argpartition(-similarity, num - 1, axis=1)[:, :num]
        nearest.sort(axis=1)
        near = np.take_along_axis(similarity, nearest, axis=1)
        near = np.where(np.isfinite(near).any(axis=1, keepdims=True), near, 0.0)
        votes[part] = (softmax(near / TEMPERATURE)[:, :, None] * Y_NK[nearest]).sum(axis=1)
    return votes


def left_out_ridge(
    X_ND: npt.NDArray[np.floating], Y_NK: npt.NDArray[np.float64], group_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Ridge predictions of each row from the others, (A, N, K): exact leave-one-out, or folds of groups."""
    num_groups = int(group_N.max()) + 1
    if num_groups == len(group_N):
        path = ridge_path(X_ND, Y_NK, standardise=True)
        return np.stack(list(path.left_out(ArrayRows(X_ND), Y_NK, np.arange(len(X_ND)), None).each(ALPHAS)))
    found = np.empty((len(ALPHAS), *Y_NK.shape))
    for held, scores in fold_scores(X_ND, Y_NK, group_N % min(FOLDS, num_groups), ALPHAS, standardise=True):
        found[:, held] = scores
    return found


def evidence_of(X_ND: npt.NDArray[np.floating], Y_NK: npt.NDArray[np.float64]) -> float:
    """LogME; where rows are fewer than features, over the rows' own coordinates, which leave it as it is."""
    rows_ND = X_ND.astype(np.float64)
    if len(rows_ND) < rows_ND.shape[1]:
        eigenvalues, basis = np.linalg.eigh(rows_ND @ rows_ND.T)
        rows_ND = basis * np.sqrt(np.maximum(eigenvalues, 0.0))
    gram = Gram()
    gram.add(rows_ND, {"y": Y_NK})
    return logme(gram.normal("y"))


def _own_groups(num: int, groups: Sequence[str] | npt.NDArray[np.str_] | None) -> npt.NDArray[np.int64]:
    if groups is None:
        return np.arange(num)
    codes: npt.NDArray[np.int64] = np.unique(np.asarray(groups, str), return_inverse=True)[1]
    return codes
