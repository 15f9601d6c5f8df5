"""Second moments of features, accumulated over blocks of rows in float64, in parts by fold.

Everything that least squares, discriminants and evidence need of the rows, at the size of D x D: reads blocks
of features and targets, and knows nothing of files, of losses or of strengths. The moments of the features are
shared by the targets of any number of tasks, and grow with new rows.
"""

# N rows, D features, K targets, F folds

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from embedpipe.errors import DataError, ShapeError
from embedpipe.params import did_you_mean

ROWS = 4096
"""Rows converted to float64 at a time: bounds memory at 4096 x D."""
ROUNDING = 1e-13
"""Spread of a column, as a share of its second moment about the shift, that is nothing but rounding."""


@dataclass(frozen=True)
class Normal:
    """Moments of some rows about their means: what the normal equations are made of.

    Attributes
    ----------
    weight : float
        Sum of the weights of the rows; their number where they have none.
    mean, gram : float64 arrays, shapes (D,) and (D, D)
        Weighted mean of the features, and their scatter: the sum of squares and products about it.
    target_mean, cross, target_square : float64 arrays, shapes (K,), (D, K) and (K,)
        The same for the targets, and for features with targets.
    constant : bool array, shape (D,)
        Columns that vary no more than rounding does.
    """

    weight: float
    mean: np.ndarray
    gram: np.ndarray
    target_mean: np.ndarray
    cross: np.ndarray
    target_square: np.ndarray
    constant: np.ndarray

    def scale_D(self, *, standardise: bool) -> np.ndarray:
        """Standard deviation of each column, 1 where it is constant; ones without `standardise`."""
        if not standardise:
            return np.ones_like(self.mean)
        std_D = np.sqrt(np.maximum(np.diagonal(self.gram), 0.0) / self.weight)
        scale_D: np.ndarray = np.where(self.constant, 1.0, std_D)
        return scale_D

    def columns(self, chosen: np.ndarray) -> Normal:
        """Moments of some of the columns."""
        return replace(
            self,
            mean=self.mean[chosen],
            gram=self.gram[np.ix_(chosen, chosen)],
            cross=self.cross[chosen],
            constant=self.constant[chosen],
        )

    def squared_error(self, coef_KD: np.ndarray, intercept_K: np.ndarray) -> np.ndarray:
        """Sum over these rows of the squared error of a linear model, shape (K,): exact, without the rows."""
        about_mean_K = (
            self.target_square
            - 2.0 * np.einsum("kd,dk->k", coef_KD, self.cross)
            + np.einsum("kd,kd->k", coef_KD @ self.gram, coef_KD)
        )
        shift_K = self.target_mean - coef_KD @ self.mean - intercept_K
        error_K: np.ndarray = np.maximum(about_mean_K, 0.0) + self.weight * np.square(shift_K)
        return error_K


class _Moments:
    """Sums by fold, of rows shifted to be near zero."""

    def __init__(self, num_folds: int, num_features: int) -> None:
        self.weight_F = np.zeros(num_folds)
        self.sum_FD = np.zeros((num_folds, num_features))
        self.gram_FDD = np.zeros((num_folds, num_features, num_features))

    def add(self, fold: int, rows_ND: np.ndarray, weight_N: np.ndarray | None, sign: float = 1.0) -> None:
        # one operand on both sides: BLAS then computes one triangle alone
        rooted_ND = rows_ND if weight_N is None else rows_ND * np.sqrt(weight_N)[:, None]
        self.weight_F[fold] += sign * (len(rows_ND) if weight_N is None else weight_N.sum())
        self.sum_FD[fold] += sign * (rows_ND.sum(axis=0) if weight_N is None else weight_N @ rows_ND)
        product_DD = rooted_ND.T @ rooted_ND
        self.gram_FDD[fold] += product_DD if sign > 0 else -product_DD


class _Targets:
    """Sums by fold of one task's targets, and the moments of the rows that lack one."""

    def __init__(self, shift_K: np.ndarray, num_folds: int, num_features: int) -> None:
        self.shift_K = shift_K
        self.cross_FDK = np.zeros((num_folds, num_features, len(shift_K)))
        self.sum_FK = np.zeros((num_folds, len(shift_K)))
        self.square_FK = np.zeros((num_folds, len(shift_K)))
        self.missing: _Moments | None = None

    def add(
        self, fold: int, rows_ND: np.ndarray, Y_NK: np.ndarray, weight_N: np.ndarray | None, sign: float = 1.0
    ) -> None:
        num_folds, num_features, _ = self.cross_FDK.shape
        lacking_N = np.isnan(Y_NK).any(axis=1)
        if lacking_N.any():
            self.missing = self.missing or _Moments(num_folds, num_features)
            weight = None if weight_N is None else weight_N[lacking_N]
            self.missing.add(fold, rows_ND[lacking_N], weight, sign)
        shifted_NK = np.where(lacking_N[:, None], 0.0, Y_NK - self.shift_K)
        weighted_NK = shifted_NK if weight_N is None else shifted_NK * weight_N[:, None]
        self.cross_FDK[fold] += sign * (rows_ND.T @ weighted_NK)
        self.sum_FK[fold] += sign * weighted_NK.sum(axis=0)
        self.square_FK[fold] += sign * (weighted_NK * shifted_NK).sum(axis=0)


class Gram:
    """Accumulates moments of features and of the targets of any number of tasks, by fold.

    Parameters
    ----------
    num_folds : int
        Parts that can be taken out again; 1 where nothing is held out.

    Notes
    -----
    Rows and targets are shifted by the mean of the first block, so that means far from zero cost no digits.
    The moments of a task whose labels are missing for some rows are those of all rows less those of the rows
    that lack one: a mask costs as much as it hides.
    """

    def __init__(self, num_folds: int = 1) -> None:
        if num_folds < 1:
            raise ValueError(f"num_folds: expected at least 1, found {num_folds}")
        self.num_folds = num_folds
        self._shift_D: np.ndarray | None = None
        self._moments: _Moments | None = None
        self._targets: dict[str, _Targets] = {}
        self._sums: dict[int, np.ndarray] = {}

    def add(
        self,
        X_ND: np.ndarray,
        targets: Mapping[str, np.ndarray],
        *,
        folds: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        sign: float = 1.0,
    ) -> None:
        """Add a block of rows.

        Parameters
        ----------
        X_ND
            Features of any float dtype.
        targets
            Float targets (N, K) by task, NaN where missing; every block names the same tasks.
        folds
            Part of each row, from 0; all in part 0 by default.
        weight
            Weight of each row; as if the row stood there that many times.
        sign
            -1 takes the rows out again.

        Raises
        ------
        ShapeError
            If the block has another number of features than the first.
        DataError
            If it names other tasks than the first.
        """
        if self._moments is None or self._shift_D is None:
            self._begin(X_ND, targets)
        assert self._moments is not None and self._shift_D is not None
        self._check(X_ND, targets)
        self._sums.clear()
        for fold, place in self._pieces(len(X_ND), folds):
            rows_ND = X_ND[place].astype(np.float64) - self._shift_D
            weight_N = None if weight is None else weight[place].astype(np.float64)
            self._moments.add(fold, rows_ND, weight_N, sign)
            for name, Y_NK in targets.items():
                self._targets[name].add(fold, rows_ND, Y_NK[place], weight_N, sign)

    def learn(
        self,
        name: str,
        X_ND: np.ndarray,
        Y_NK: np.ndarray,
        *,
        folds: np.ndarray | None = None,
        sign: float = 1.0,
    ) -> None:
        """Add the targets of one more task for rows that were added; the features' own moments stay."""
        assert self._shift_D is not None
        if name not in self._targets:
            self._begin_task(name, Y_NK)
        for fold, place in self._pieces(len(X_ND), folds):
            rows_ND = X_ND[place].astype(np.float64) - self._shift_D
            self._targets[name].add(fold, rows_ND, Y_NK[place], None, sign)

    def state(self, name: str | None = None) -> dict[str, np.ndarray]:
        """Sums of the features, or of the whole targets of a task: what `of_state` and `take_state` take back."""
        assert self._shift_D is not None and self._moments is not None
        if name is None:
            moments = self._moments
            return {
                "shift": self._shift_D,
                "weight": moments.weight_F,
                "sum": moments.sum_FD,
                "gram": moments.gram_FDD,
            }
        found = self._target(name)
        assert found.missing is None, name
        sums = {"cross": found.cross_FDK, "sum": found.sum_FK, "square": found.square_FK}
        return {"shift": found.shift_K, **sums}

    @classmethod
    def of_state(cls, state: Mapping[str, np.ndarray]) -> Gram:
        """Moments of the features that `state` gave."""
        gram = cls(len(state["weight"]))
        gram._shift_D = state["shift"]
        gram._moments = _Moments(gram.num_folds, len(gram._shift_D))
        gram._moments.weight_F, gram._moments.sum_FD = state["weight"], state["sum"]
        gram._moments.gram_FDD = state["gram"]
        return gram

    def take_state(self, name: str, state: Mapping[str, np.ndarray]) -> None:
        """Targets of a task that `state` gave."""
        assert self._shift_D is not None
        found = _Targets(state["shift"], self.num_folds, len(self._shift_D))
        found.cross_FDK, found.sum_FK, found.square_FK = state["cross"], state["sum"], state["square"]
        self._targets[name] = found

    def relabel(
        self,
        name: str,
        X_ND: np.ndarray,
        old_NK: np.ndarray,
        new_NK: np.ndarray,
        *,
        folds: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> None:
        """Replace the targets of rows that were added: reads these rows alone. NaN stands for missing."""
        found = self._target(name)
        assert self._shift_D is not None
        self._sums.clear()
        for fold, place in self._pieces(len(X_ND), folds):
            rows_ND = X_ND[place].astype(np.float64) - self._shift_D
            weight_N = None if weight is None else weight[place].astype(np.float64)
            found.add(fold, rows_ND, old_NK[place], weight_N, -1.0)
            found.add(fold, rows_ND, new_NK[place], weight_N)

    def normal(
        self, name: str | None = None, *, without: int | None = None, only: int | None = None
    ) -> Normal:
        """Moments of one task's labelled rows: of all folds, exactly of all but `without`, or of `only` one.

        Without a name they are those of the features of all rows, and of no targets.

        Raises
        ------
        DataError
            If no such task was added, or no labelled row is left.
        """
        moments, shift_D = self._moments, self._shift_D
        assert moments is not None and shift_D is not None
        found = _Targets(np.zeros(0), self.num_folds, len(shift_D)) if name is None else self._target(name)
        missing = found.missing

        def total(sums_F: np.ndarray, less_F: np.ndarray | None = None) -> np.ndarray:
            summed: np.ndarray
            if only is not None:
                summed = sums_F[only].copy()
            else:
                summed = sums_F.sum(axis=0) if sums_F.ndim < 3 else self._whole(sums_F).copy()
            if without is not None:
                summed -= sums_F[without]
            return summed if less_F is None else summed - total(less_F)

        weight = float(total(moments.weight_F, None if missing is None else missing.weight_F))
        if weight <= 0:
            raise DataError(
                f"{name or 'features'}: no labelled row is left{'' if without is None else ' without fold '}"
                f"{'' if without is None else without}"
            )
        mean_D = total(moments.sum_FD, None if missing is None else missing.sum_FD) / weight
        gram_DD = total(moments.gram_FDD, None if missing is None else missing.gram_FDD)
        raw_D = np.diagonal(gram_DD).copy()
        gram_DD -= weight * np.outer(mean_D, mean_D)
        target_mean_K = total(found.sum_FK) / weight
        spread_D = np.diagonal(gram_DD)
        # a column equal to its shift leaves a few ulps of it
        ulps_D = weight * np.square(10 * np.finfo(np.float64).eps * (mean_D + shift_D))
        return Normal(
            weight,
            mean_D + shift_D,
            gram_DD,
            target_mean_K + found.shift_K,
            total(found.cross_FDK) - weight * np.outer(mean_D, target_mean_K),
            total(found.square_FK) - weight * np.square(target_mean_K),
            spread_D <= np.maximum(ROUNDING * raw_D, ulps_D),
        )

    def columns(self, name: str, chosen: np.ndarray) -> Gram:
        """Moments of some of the features, and of the targets of one task, all of whose rows have one."""
        moments, found = self._moments, self._target(name)
        assert moments is not None and self._shift_D is not None and found.missing is None
        some = Gram.of_state(
            {
                "shift": self._shift_D[chosen],
                "weight": moments.weight_F,
                "sum": moments.sum_FD[:, chosen],
                "gram": moments.gram_FDD[:, chosen[:, None], chosen],
            }
        )
        sums = {"cross": found.cross_FDK[:, chosen], "sum": found.sum_FK, "square": found.square_FK}
        some.take_state(name, {"shift": found.shift_K, **sums})
        return some

    def _whole(self, sums_F: np.ndarray) -> np.ndarray:
        """Sum over folds of a large array, kept until rows are added."""
        if id(sums_F) not in self._sums:
            self._sums[id(sums_F)] = sums_F.sum(axis=0)
        return self._sums[id(sums_F)]

    def _begin(self, X_ND: np.ndarray, targets: Mapping[str, np.ndarray]) -> None:
        self._shift_D = X_ND.mean(axis=0, dtype=np.float64)
        num_features = X_ND.shape[1]
        self._moments = _Moments(self.num_folds, num_features)
        for name, Y_NK in targets.items():
            self._begin_task(name, Y_NK)

    def _begin_task(self, name: str, Y_NK: np.ndarray) -> None:
        assert self._shift_D is not None
        labelled = ~np.isnan(Y_NK).any(axis=1)
        shift_K = Y_NK[labelled].mean(axis=0) if labelled.any() else np.zeros(Y_NK.shape[1])
        self._targets[name] = _Targets(shift_K, self.num_folds, len(self._shift_D))

    def _check(self, X_ND: np.ndarray, targets: Mapping[str, np.ndarray]) -> None:
        assert self._shift_D is not None
        if X_ND.ndim != 2 or X_ND.shape[1] != len(self._shift_D):
            raise ShapeError(f"expected rows of {len(self._shift_D)} features, found {X_ND.shape}")
        if set(targets) != set(self._targets):
            raise DataError(
                f"expected targets of {', '.join(self._targets)} as in the first block, "
                f"found {', '.join(targets) or 'none'}"
            )

    def _pieces(self, num_rows: int, folds: np.ndarray | None) -> list[tuple[int, np.ndarray | slice]]:
        """Rows of one fold each, at most `ROWS` at a time."""
        if folds is None:
            return [(0, slice(at, at + ROWS)) for at in range(0, num_rows, ROWS)]
        pieces: list[tuple[int, np.ndarray | slice]] = []
        for fold in range(self.num_folds):
            place = np.flatnonzero(folds == fold)
            pieces += [(fold, place[at : at + ROWS]) for at in range(0, len(place), ROWS)]
        return pieces

    def _target(self, name: str) -> _Targets:
        if name not in self._targets:
            known = list(self._targets)
            raise DataError(f"no targets {name!r} were added{did_you_mean(name, known)}: {', '.join(known)}")
        return self._targets[name]
