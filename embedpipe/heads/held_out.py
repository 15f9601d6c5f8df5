"""Which training rows a fit holds out of itself: to stop on, or to choose by. Groups are held out whole.

Knows nothing of features.
"""

# N rows

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


def one_in(num: int, num_rows: int, labels: np.ndarray | None, groups: np.ndarray | None, seed: int) -> Index:
    """Positions of one row in `num`, at random within each label; a label keeps at least one row.

    Parameters
    ----------
    labels
        Class of each row, or None where there are none.
    groups
        Of each row, or None: one group in `num` then, each of the label of its first row.
    """
    order = np.random.default_rng(seed).permutation(num_rows)
    unit = order if groups is None else order[np.sort(np.unique(groups[order], return_index=True)[1])]
    kinds = np.zeros(len(unit), np.int64) if labels is None else labels[unit]
    held = np.concatenate([unit[kinds == kind][num - 1 :: num] for kind in np.unique(kinds)])
    if groups is None:
        return held
    out = np.isin(groups, groups[held])
    if labels is not None:
        # a group may hold all rows of a label that is not its first row's
        bare = np.setdiff1d(labels, labels[~out])
        out &= ~np.isin(groups, groups[np.isin(labels, bare)])
    return np.flatnonzero(out)


def folds_of_rows(
    num_folds: int, num_rows: int, labels: np.ndarray | None, groups: np.ndarray | None, seed: int
) -> Index:
    """Fold of each row, shape (N,): at random, spread evenly over each label.

    As many folds as `num_folds`, or as there are rows, or groups, where these are fewer.
    """
    order = np.random.default_rng(seed).permutation(num_rows)
    unit = order if groups is None else order[np.sort(np.unique(groups[order], return_index=True)[1])]
    if labels is not None:
        unit = unit[np.argsort(labels[unit], kind="stable")]
    folds = np.empty(num_rows, np.int64)
    folds[unit] = np.arange(len(unit)) % num_folds
    if groups is None:
        return folds
    of_group = np.empty(int(groups.max()) + 1, np.int64)
    of_group[groups[unit]] = folds[unit]
    folds[:] = of_group[groups]
    return folds
