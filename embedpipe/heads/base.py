"""What every head is: a scikit-learn estimator that is fitted as a grid and saved as arrays and values.

A family implements `_fit_many`, which fits heads that share their training rows, and the scores; checking
input, classes and messages is done here, once. Knows nothing of any family, nor of files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from embedpipe.errors import ConfigError, DataError, EmbedpipeError, NotFitted, ShapeError
from embedpipe.heads.rows import MEMORY_NBYTES, ArrayRows, CheckedRows, Rows, in_memory
from embedpipe.heads.stored import KeptRows
from embedpipe.heads.training import Training

# N rows, D features, K classes


class HeadNotFitted(NotFitted, NotFittedError):  # type: ignore[misc]
    """A head was asked to predict before it was fitted; also scikit-learn's own error of that name."""


@dataclass(frozen=True)
class HeadState:
    """What a fitted head is apart from its parameters: arrays and JSON values.

    Attributes
    ----------
    far : dict of Rows
        Arrays that do not fit memory: written as float32 arrays, and given back as such.
    """

    tensors: dict[str, np.ndarray]
    values: dict[str, Any]
    far: dict[str, Rows] = field(default_factory=dict)


class Head(BaseEstimator):  # type: ignore[misc]
    """Base of all heads.

    Attributes
    ----------
    family : str
        Name in the registry.
    kind : str
        ``classes`` or ``number``.
    converged_ : bool
        Whether the fit reached its optimum, as its own stopping rule measures it.
    n_features_in_ : int
    """

    family: ClassVar[str]
    kind: ClassVar[str]
    learned: ClassVar[tuple[str, ...]] = ()
    """Names of fitted arrays, in the order in which they are saved."""
    learned_values: ClassVar[tuple[str, ...]] = ()
    """Names of fitted scalars."""
    streams: ClassVar[bool] = False
    """Whether `_fit_many` reads `Training.rows` by blocks, and so learns from more rows than fit memory."""
    maps: ClassVar[bool] = False
    """Whether a row may be a map or tokens rather than a vector."""

    converged_: bool
    n_features_in_: int
    failure_: str | None = None
    """Why the fit cannot be used, in a few words; None where it can. Such a head is reported, never selected."""

    def fit(self, X: Any, y: Any) -> Self:
        """Fit on rows X (N, D) with targets y (N,)."""
        training = self._training(X, y)
        self._fit_prepared([self], training)
        return self

    @classmethod
    def fit_grid(
        cls,
        candidates: Sequence[Mapping[str, Any]],
        X: Any,
        y: Any,
        *,
        seed: int = 0,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight: Any = None,
        groups: Any = None,
        memory_nbytes: int = MEMORY_NBYTES,
    ) -> list[Self]:
        """Fit one head per candidate on the same rows; see `embedpipe.heads.registry.fit_grid`."""
        heads = [cls._from_candidate(candidate) for candidate in candidates]
        if not heads:
            return []
        for head in heads:
            if "random_state" in head.get_params(deep=False):
                head.set_params(random_state=seed)
        if isinstance(X, Rows):
            X = in_memory(X, memory_nbytes, heads[0].family, cls.streams)
        training = heads[0]._training(X, y, X_val, y_val, cls._weights_or_refuse(sample_weight))
        training = replace(
            training,
            groups=None if groups is None else group_codes(groups, sample_weight),
            memory_nbytes=memory_nbytes,
        )
        for head in heads[1:]:
            for name in ("n_features_in_", "feature_names_in_", "classes_"):
                if hasattr(heads[0], name):
                    setattr(head, name, getattr(heads[0], name))
        cls._fit_prepared(heads, training)
        return heads

    @classmethod
    def _from_candidate(cls, candidate: Mapping[str, Any]) -> Self:
        return cls(**candidate)

    @classmethod
    def _fit_prepared(cls, heads: Sequence[Self], training: Training) -> None:
        """Fit `heads` after whatever they do to rows first: nothing, save where a family says so."""
        cls._fit_many(heads, training)

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        """Fit `heads`, which differ in their parameters alone, on the same rows."""
        raise NotImplementedError

    @classmethod
    def _weights_or_refuse(cls, sample_weight: Any) -> Any:
        if sample_weight is not None and not issubclass(cls, WeightedHead):
            raise ConfigError(f"{cls.__name__}: takes no sample weights; choose a family that does")
        return sample_weight

    def _training(
        self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, sample_weight: Any = None
    ) -> Training:
        raise NotImplementedError

    def _weighted(
        self, rows: Rows, y: np.ndarray, sample_weight: Any
    ) -> tuple[Rows, np.ndarray, np.ndarray | None]:
        """Rows that count, their targets and weights; None where all count the same."""
        if sample_weight is None:
            return rows, y, None
        try:
            weight_N = _check_sample_weight(sample_weight, y, dtype=np.float64, ensure_non_negative=True)
        except ValueError as error:
            raise DataError(f"{type(self).__name__}: cannot be fitted: {error}") from error
        counts = np.flatnonzero(weight_N > 0)
        return (
            (rows, y, weight_N) if len(counts) == len(y) else (rows.take(counts), y[counts], weight_N[counts])
        )

    def _check_fit(self, X: Any, y: Any, *, numeric: bool) -> tuple[Rows, np.ndarray]:
        name = type(self).__name__
        rows = X if isinstance(X, Rows) else None
        if not self.maps:
            _refuse_maps(X, name)
        if isinstance(X, ArrayRows):
            X, rows = X.X, None
        try:
            if rows is not None:
                # values are checked block by block as they are read
                shape = (rows.shape[0], math.prod(rows.shape[1:]))
                target = validate_data(self, X="no_validation", y=y, y_numeric=numeric, multi_output=numeric)
                if len(target) != shape[0]:
                    raise DataError(f"{name}: expected targets of {shape[0]} rows, found {len(target)}")
                self.n_features_in_ = shape[1]
                return _checked(rows, name), target
            X_ND, target = validate_data(
                self,
                X,
                y,
                dtype=[np.float64, np.float32],
                y_numeric=numeric,
                multi_output=numeric,
                ensure_min_samples=2,
                allow_nd=self.maps,
            )
        except EmbedpipeError:
            raise
        except ValueError as error:
            raise DataError(f"{name}: cannot be fitted: {error}") from error
        return ArrayRows(X_ND), target

    def _check_predict(self, X: Any) -> np.ndarray:
        name = type(self).__name__
        try:
            check_is_fitted(self, "converged_")
        except NotFittedError as error:
            raise HeadNotFitted(
                f"{name} is not fitted yet: call fit before predict, or load a saved head"
            ) from error
        return self._check_rows(X)

    def _check_rows(self, X: Any) -> np.ndarray:
        """Rows in the form that `fit` saw, whether or not the fit is finished."""
        name = type(self).__name__
        if not self.maps:
            _refuse_maps(X, name)
        try:
            X_ND: np.ndarray = validate_data(
                self, X, dtype=[np.float64, np.float32], reset=False, allow_nd=self.maps
            )
        except ValueError as error:
            raise DataError(f"{name}: cannot predict: {error}") from error
        return X_ND

    def _validation_rows(self, X: Any) -> Rows:
        if isinstance(X, Rows) and not isinstance(X, ArrayRows):
            return _checked(X, type(self).__name__)
        return ArrayRows(self._check_rows(X.X if isinstance(X, ArrayRows) else X))

    def _seen(self, X_ND: np.ndarray) -> np.ndarray:
        """Checked rows as the weights of a linear head see them."""
        return X_ND

    def state(self) -> HeadState:
        """Everything learned, for saving."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in self.learned}
        values = {name: getattr(self, name) for name in self.learned_values}
        return HeadState(tensors, {"converged_": bool(self.converged_), **values})

    def restore(self, state: HeadState) -> None:
        """Take back what `state` gave."""
        for name in self.learned:
            setattr(self, name, state.tensors[name])
        for name in ("converged_", *self.learned_values):
            setattr(self, name, state.values[name])

    def archive(self) -> bytes | None:
        """What arrays and values cannot hold, as bytes; None for nearly every head."""
        return None

    def restore_archive(self, data: bytes) -> None:
        """Take back what `archive` gave."""
        raise TypeError(f"{type(self).__name__} keeps no archive")


class WeightedHead(Head):
    """A head whose rows may count differently."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit on rows X (N, D) with targets y (N,), each as if it stood there `sample_weight` times."""
        training = self._training(X, y, sample_weight=sample_weight)
        self._fit_prepared([self], training)
        return self


class ClassifierHead(ClassifierMixin, Head):  # type: ignore[misc]
    """Base of heads that learn classes.

    Attributes
    ----------
    classes_ : array, shape (K,)
        Sorted labels that occur in training: columns of `predict_proba`.
    """

    kind = "classes"
    classes_: np.ndarray

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores, shape (N, K); of the second class alone, shape (N,), where there are two."""
        scores_NK = self._scores(self._check_predict(X))
        return scores_NK[:, 1] - scores_NK[:, 0] if scores_NK.shape[1] == 2 else scores_NK

    def predict(self, X: Any) -> np.ndarray:
        """The class of the highest score; the first of equals."""
        winners_N = np.argmax(self._scores(self._check_predict(X)), axis=1)
        predicted: np.ndarray = self.classes_[winners_N]
        return predicted

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities, float64, shape (N, K); rows sum to 1."""
        return self._probabilities(self._scores(self._check_predict(X)))

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        """Scores of checked rows, float64, shape (N, K)."""
        raise NotImplementedError

    def _probabilities(self, scores_NK: np.ndarray) -> np.ndarray:
        return softmax(scores_NK)

    def _training(
        self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, sample_weight: Any = None
    ) -> Training:
        rows, labels = self._check_fit(X, y, numeric=False)
        check_classification_targets(labels)
        rows, labels, weight = self._weighted(rows, labels, sample_weight)
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise DataError(
                f"{type(self).__name__}: the training rows hold one class only, {classes.tolist()[0]!r}: "
                "expected at least two; check the labels and the split"
            )
        self.classes_ = classes
        if X_val is None or y_val is None:
            return Training(rows, codes.astype(np.int64), classes, weight=weight)
        y_val = np.asarray(y_val)
        seen = np.flatnonzero(np.isin(y_val, classes))
        return Training(
            rows,
            codes.astype(np.int64),
            classes,
            self._validation_rows(X_val).take(seen),
            np.searchsorted(classes, y_val[seen]).astype(np.int64),
            weight,
        )


class RegressorHead(RegressorMixin, Head):  # type: ignore[misc]
    """Base of heads that learn one number a sample, or several."""

    kind = "number"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X: Any) -> np.ndarray:
        """Predicted values, float64, shape (N,), or (N, M) where M numbers were learned."""
        return self._values(self._check_predict(X))

    def _values(self, X_ND: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _training(
        self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, sample_weight: Any = None
    ) -> Training:
        rows, target = self._check_fit(X, y, numeric=True)
        values = _numbers(target)
        rows, values, weight = self._weighted(rows, values, sample_weight)
        if X_val is None or y_val is None:
            return Training(rows, values, weight=weight)
        return Training(rows, values, None, self._validation_rows(X_val), _numbers(y_val), weight)


def _numbers(y: Any) -> np.ndarray:
    """Float64 (N,), or (N, M) of several numbers."""
    values = np.asarray(y, dtype=np.float64)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def softmax(scores_NK: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exp = np.exp(scores_NK - scores_NK.max(axis=-1, keepdims=True))
    result: np.ndarray = exp / exp.sum(axis=-1, keepdims=True)
    return result


def grouped(heads: Iterable[Any], *names: str) -> list[list[Any]]:
    """Heads that agree in the parameters `names`, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for head in heads:
        values = (getattr(head, name) for name in names)
        key = tuple(_hashable(value) for value in values)
        groups.setdefault(key, []).append(head)
    return list(groups.values())


def group_codes(groups: Any, sample_weight: Any = None) -> np.ndarray | None:
    """Groups of the rows that count, as numbers; None where each row is its own."""
    names = np.asarray(groups)
    if sample_weight is not None:
        names = names[np.asarray(sample_weight) > 0]
    codes: np.ndarray
    found, codes = np.unique(names, return_inverse=True)
    return None if len(found) == len(names) else codes.astype(np.int64)


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value


def _checked(rows: Rows, who: str) -> Rows:
    """Rows whose values are checked as they are read; kept moments are of rows that were."""
    return rows if isinstance(rows, KeptRows) else CheckedRows(rows, who)


def _refuse_maps(X: Any, name: str) -> None:
    shape = getattr(X, "shape", ())
    if len(shape) > 2:
        raise ShapeError(
            f"{name}: expected features of shape (samples, features), found {tuple(shape)}; "
            "tap the map with a reduction that flattens it, such as gap or grid:2"
        )
