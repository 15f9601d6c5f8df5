"""Estimators of scikit-learn as heads, behind the same interface and saved without a pickle.

Only types on the list in `allowed` are let in; warnings that a fit did not converge become `converged_`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from embedpipe.errors import ConfigError
from embedpipe.heads import archive
from embedpipe.heads.allowed import estimator_class
from embedpipe.heads.base import ClassifierHead, Head, RegressorHead, softmax
from embedpipe.heads.training import Training

# N rows, D features, K classes


class _Foreign(Head):
    """What both kinds of target share.

    Attributes
    ----------
    pipeline_ : sklearn.pipeline.Pipeline
        Scaling, where asked for, and the fitted estimator.
    """

    pipeline_: Any

    def __init__(
        self,
        estimator: str,
        params: Mapping[str, Any] | None = None,
        *,
        standardise: bool = True,
        random_state: int = 0,
    ) -> None:
        self.estimator = estimator
        self.params = params
        self.standardise = standardise
        self.random_state = random_state

    @property
    def family(self) -> str:  # type: ignore[override]
        """The estimator's own name, ``sklearn:<dotted name>``."""
        return self.estimator

    @classmethod
    def _from_candidate(cls, candidate: Mapping[str, Any]) -> Self:
        own = {name: candidate[name] for name in ("estimator", "standardise") if name in candidate}
        rest = {name: value for name, value in candidate.items() if name not in ("estimator", "standardise")}
        return cls(params=rest, **own)

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        for head in heads:
            head._fit_one(training)

    def _fit_one(self, training: Training) -> None:
        found = estimator_class(self.estimator)()
        settings = dict(self.params or {})
        if "random_state" in found.get_params():
            settings.setdefault("random_state", self.random_state)
        steps = [StandardScaler()] if self.standardise else []
        # most of scikit-learn's solvers are at their best in float64
        rows_ND = training.X_ND.astype(np.float64)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                estimator = found.set_params(**settings)
                if training.y.ndim > 1 and not get_tags(estimator).target_tags.multi_output:
                    estimator = MultiOutputRegressor(estimator)
                self.pipeline_ = make_pipeline(*steps, estimator).fit(rows_ND, training.y)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{self.estimator}: scikit-learn refused to fit it: {error}") from error
        self.converged_ = not any(issubclass(w.category, ConvergenceWarning) for w in caught)

    def archive(self) -> bytes:
        """The fitted pipeline as a canonical skops archive."""
        return archive.dump(self.pipeline_, self.estimator)

    def restore_archive(self, data: bytes) -> None:
        """Take back what `archive` gave."""
        self.pipeline_ = archive.load(data)


class SklearnClassifierHead(_Foreign, ClassifierHead):
    """A classifier of scikit-learn.

    Parameters
    ----------
    estimator : str
        ``sklearn:<dotted name>``, on the allow-list.
    params : mapping, optional
        The estimator's own parameters.
    standardise : bool
        Scale columns to zero mean and unit variance on the training rows.
    random_state : int
        Given to the estimator where it takes one and `params` names none.

    Notes
    -----
    `predict_proba` is the estimator's own, or the softmax of its decision function (a sigmoid where there
    are two classes) where it has none: ranked as the estimator ranks, but not calibrated.
    """

    def predict(self, X: Any) -> np.ndarray:
        """What the estimator predicts."""
        rows_ND = self._check_predict(X).astype(np.float64)
        predicted: np.ndarray = self.classes_[self.pipeline_.predict(rows_ND)]
        return predicted

    def decision_function(self, X: Any) -> np.ndarray:
        """The estimator's decision function, or its log-probabilities where it has none."""
        scores_NK = self._scores(self._check_predict(X))
        return scores_NK[:, 1] - scores_NK[:, 0] if scores_NK.shape[1] == 2 else scores_NK

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities, float64, shape (N, K); rows sum to 1."""
        rows_ND = self._check_predict(X)
        if hasattr(self.pipeline_, "predict_proba"):
            proba_NK: np.ndarray = self.pipeline_.predict_proba(rows_ND.astype(np.float64))
            return proba_NK
        return softmax(self._scores(rows_ND))

    def _scores(self, X_ND: np.ndarray) -> np.ndarray:
        rows_ND = X_ND.astype(np.float64)
        if hasattr(self.pipeline_, "decision_function"):
            scores: np.ndarray = self.pipeline_.decision_function(rows_ND)
        else:
            scores = np.log(np.maximum(self.pipeline_.predict_proba(rows_ND), 1e-300))
        return np.stack([np.zeros_like(scores), scores], axis=1) if scores.ndim == 1 else scores


class SklearnRegressorHead(_Foreign, RegressorHead):
    """A regressor of scikit-learn; several numbers are learnt one by one where it takes one alone.

    Parameters
    ----------
    estimator : str
        ``sklearn:<dotted name>``, on the allow-list.
    params : mapping, optional
        The estimator's own parameters.
    standardise : bool
        Scale columns to zero mean and unit variance on the training rows.
    random_state : int
        Given to the estimator where it takes one and `params` names none.
    """

    def _values(self, X_ND: np.ndarray) -> np.ndarray:
        values: np.ndarray = np.asarray(self.pipeline_.predict(X_ND.astype(np.float64)), dtype=np.float64)
        return values
