"""Preprocessing inside a linear head, learned on its training rows alone: unit length, principal components.

What is linear is folded into the weights, so that a head with principal components predicts from raw features as
one without them does; unit length is not, and is applied again when the head predicts. Knows nothing of losses.
"""

# N rows, D features, M principal components, K outputs

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from embedpipe.errors import ConfigError
from embedpipe.heads.base import Head, grouped
from embedpipe.heads.linear import Scaling, unit_rows
from embedpipe.heads.rows import ArrayRows, Index, Rows, array_of
from embedpipe.heads.stored import moments_of
from embedpipe.heads.training import Training

MOST_ROTATED = 8192
NULL = 1e-12


@dataclass(frozen=True)
class Prepared:
    """Training rows as the head's own fit sees them.

    Attributes
    ----------
    training : Training
    standardise : bool
        Whether the fit is still to scale columns.
    scaling, components : Scaling and float64 array, shape (D, M), or None
        Rows that the fit sees are scaled ones times the components.
    """

    training: Training
    standardise: bool
    scaling: Scaling | None = None
    components: np.ndarray | None = None

    @classmethod
    def of(
        cls, training: Training, *, normalise: bool, pca: int | None, whiten: bool, standardise: bool
    ) -> Prepared:
        """Learn what is to be learned.

        Raises
        ------
        ConfigError
            If `whiten` is asked for without `pca`, or `pca` is below 1.
        """
        if pca is None and whiten:
            raise ConfigError("whiten: expected a number of components beside it, found none: give pca")
        if pca is not None and pca < 1:
            raise ConfigError(f"pca: expected 1 component or more, found {pca}")
        if normalise:
            training = _through(training, _UnitLength())
        if pca is None:
            return cls(training, standardise)
        scaling, components_DM = _principal(training.rows, pca, whiten, standardise, training.weight)
        projection = _Projection(scaling, components_DM)
        return cls(_through(training, projection), False, scaling, components_DM)


class PreparedHead(Head):
    """Mixin of heads that begin with a product of the rows; stands before the family's base.

    Its parameters are the family's own: `normalise` scales rows to unit length first; `pca` replaces columns
    (standardised ones with `standardise`) by as many principal components; `whiten` gives these unit variance.
    """

    normalise: bool
    pca: int | None
    whiten: bool
    standardise: bool

    def _prepared(self, training: Training) -> Prepared:
        return Prepared.of(
            training,
            normalise=self.normalise,
            pca=self.pca,
            whiten=self.whiten,
            standardise=self.standardise,
        )

    @classmethod
    def _fit_prepared(cls, heads: Sequence[Self], training: Training) -> None:
        for group in grouped(heads, "normalise", "pca", "whiten", "standardise"):
            first = group[0]
            if not first.normalise and first.pca is None and not first.whiten:
                cls._fit_many(group, training)
                continue
            prepared = first._prepared(training)
            plain = {"normalise": False, "pca": None, "whiten": False, "standardise": prepared.standardise}
            inner = [cls(**{**head.get_params(deep=False), **plain}) for head in group]
            for head, one in zip(group, inner, strict=True):
                one.__dict__.update({name: value for name, value in vars(head).items() if name.endswith("_")})
            cls._fit_many(inner, prepared.training)
            for head, one in zip(group, inner, strict=True):
                fitted = {name: value for name, value in vars(one).items() if name.endswith("_")}
                head.__dict__.update(fitted)
                if prepared.scaling is not None and prepared.components is not None:
                    head._lead_back(prepared.scaling, prepared.components)

    def _lead_back(self, scaling: Scaling, components_DM: np.ndarray) -> None:
        """Weights over raw features, of weights over components."""
        coef = np.atleast_2d(getattr(self, "coef_"))  # noqa: B009
        intercept = np.atleast_1d(getattr(self, "intercept_"))  # noqa: B009
        coef_KD, intercept_K = scaling.fold(components_DM @ coef.T, intercept)
        is_one = getattr(self, "coef_").ndim == 1  # noqa: B009
        self.__dict__["coef_"] = coef_KD[0] if is_one else coef_KD
        self.__dict__["intercept_"] = float(intercept_K[0]) if is_one else intercept_K

    def _seen(self, X_ND: np.ndarray) -> np.ndarray:
        """Rows as the weights see them."""
        return unit_rows(X_ND.astype(np.float64)) if self.normalise else X_ND


class _UnitLength:
    """Rows of unit length."""

    def width(self, num_features: int) -> int:
        return num_features

    def __call__(self, X_ND: np.ndarray) -> np.ndarray:
        return unit_rows(X_ND.astype(np.float64))


@dataclass(frozen=True)
class _Projection:
    """Scaled rows on the principal components."""

    scaling: Scaling
    components: np.ndarray

    def width(self, num_features: int) -> int:
        return int(self.components.shape[1])

    def __call__(self, X_ND: np.ndarray) -> np.ndarray:
        projected_NM: np.ndarray = self.scaling.apply(X_ND) @ self.components
        return projected_NM


@dataclass(frozen=True)
class TransformedRows:
    """Rows through a map of vectors, as they are read."""

    rows: Rows
    transform: _UnitLength | _Projection

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows`."""
        return (self.rows.shape[0], self.transform.width(self.rows.shape[1]))

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """See `Rows`."""
        for part, block in self.rows.blocks():
            yield part, self.transform(block)

    def gather(self, index: Index) -> np.ndarray:
        """See `Rows`."""
        return self.transform(self.rows.gather(index))

    def take(self, index: Index) -> Rows:
        """See `Rows`."""
        return TransformedRows(self.rows.take(index), self.transform)


def _through(training: Training, transform: _UnitLength | _Projection) -> Training:
    """Training whose rows, and rows for early stopping, are seen through a map."""
    rows_val = None if training.rows_val is None else _transformed(training.rows_val, transform)
    return replace(training, rows=_transformed(training.rows, transform), rows_val=rows_val)


def _transformed(rows: Rows, transform: _UnitLength | _Projection) -> Rows:
    found = TransformedRows(rows, transform)
    return ArrayRows(array_of(found)) if isinstance(rows, ArrayRows) else found


def _principal(
    rows: Rows, pca: int, whiten: bool, standardise: bool, weight: np.ndarray | None
) -> tuple[Scaling, np.ndarray]:
    """Scaling of columns, and the first components; as many as there are directions with any spread."""
    num_rows, num_features = rows.shape
    total = float(num_rows if weight is None else weight.sum())
    if num_rows < num_features:
        scaling = Scaling.of_rows(rows, standardise=standardise, weight=weight)
        rooted_ND = scaling.apply(array_of(rows))
        if weight is not None:
            rooted_ND *= np.sqrt(weight)[:, None]
        _, singular, right = np.linalg.svd(rooted_ND, full_matrices=False)
        spread, vectors = np.square(singular), right.T
    else:
        if num_features > MOST_ROTATED:
            raise ConfigError(
                f"pca: expected at most {MOST_ROTATED} columns to find components of, found {num_features}; "
                "tap with a reduction of fewer columns, such as gap"
            )
        normal = moments_of(rows, {}, weight=weight).normal()
        scale_D = normal.scale_D(standardise=standardise)
        scaling = Scaling(normal.mean, scale_D)
        eigenvalues, columns = np.linalg.eigh(normal.gram / scale_D[:, None] / scale_D)
        spread, vectors = eigenvalues[::-1], columns[:, ::-1]
    used = spread[:pca] > NULL * max(float(spread[0]), 1e-300)
    components_DM = vectors[:, :pca][:, used]
    if whiten:
        components_DM = components_DM / np.sqrt(spread[:pca][used] / total)
    return scaling, np.ascontiguousarray(components_DM)
