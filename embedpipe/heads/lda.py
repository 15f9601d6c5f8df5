"""Linear discriminants with shrinkage: every shrinkage from one eigendecomposition of the moments.

Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from embedpipe.heads.base import WeightedHead, grouped
from embedpipe.heads.gram import Normal
from embedpipe.heads.linear import LinearClassifierHead, Scaling
from embedpipe.heads.prepared import PreparedHead
from embedpipe.heads.stored import moments_of
from embedpipe.heads.training import Training

# N rows, D features, K classes

ALL = "classes"


class Discriminants:
    """Discriminants for every shrinkage over the same rows.

    Parameters
    ----------
    normal
        Moments of features and one-hot classes.
    standardise
        Scale columns to unit variance first.

    References
    ----------
    Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", equations 4.10 and 18.8.
    """

    def __init__(self, normal: Normal, *, standardise: bool) -> None:
        scale_D = normal.scale_D(standardise=standardise)
        # about the mean of all rows where columns are standardised, else about zero: as a pipeline would have it
        origin_D = normal.mean if standardise else np.zeros_like(normal.mean)
        self.scaling = Scaling(origin_D, scale_D)
        self.prior_K = normal.target_mean
        counts_K = self.prior_K * normal.weight
        # the cross moments of one-hot classes are their means, times how often they occur
        apart_DK = normal.cross / scale_D[:, None] / counts_K
        total_DD = normal.gram / scale_D[:, None] / scale_D
        within_DD = (total_DD - (apart_DK * counts_K) @ apart_DK.T) / normal.weight
        self.means_DK = apart_DK + ((normal.mean - origin_D) / scale_D)[:, None]
        eigenvalues_D, self.basis_DD = np.linalg.eigh(within_DD)
        self.eigenvalues_D = np.maximum(eigenvalues_D, 0.0)

    def weights(self, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights (K, D) and intercepts (K,) over raw features; directions without any spread are left out."""
        spread_D = (1.0 - shrinkage) * self.eigenvalues_D + shrinkage * self.eigenvalues_D.mean()
        used = spread_D > len(spread_D) * np.finfo(np.float64).eps * max(spread_D.max(), 1e-300)
        inverse_D = np.where(used, 1.0 / np.where(used, spread_D, 1.0), 0.0)
        weights_DK = self.basis_DD @ (inverse_D[:, None] * (self.basis_DD.T @ self.means_DK))
        halves_K = 0.5 * (weights_DK * self.means_DK).sum(axis=0)
        return self.scaling.fold(weights_DK, np.log(self.prior_K) - halves_K)


class LdaHead(PreparedHead, WeightedHead, LinearClassifierHead):
    """Linear discriminant analysis: Gaussian classes that share one covariance.

    Parameters
    ----------
    shrinkage : float
        Share, in [0, 1], of the covariance that is replaced by its mean variance in every direction: 0 trusts
        the covariance as it is, 1 is the nearest class mean.
    standardise : bool
        Scale columns to unit variance on the training rows.
    normalise : bool
        Scale rows to unit length first.
    pca : int, optional
        Replace columns by as many principal components of the training rows.
    whiten : bool
        Scale the components to unit variance.
    class_weight : None, str or mapping
        ``balanced``: each class is as likely as any other; or weights by label.

    Notes
    -----
    Equal to scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)``, with equal ``priors`` where
    classes are balanced. `predict_proba` is the
    model's own, as likely to be overconfident as its Gaussians are wrong.
    """

    family = "lda"
    streams = True

    def __init__(
        self,
        shrinkage: float = 0.1,
        *,
        standardise: bool = True,
        normalise: bool = False,
        pca: int | None = None,
        whiten: bool = False,
        class_weight: Any = None,
    ) -> None:
        self.shrinkage = shrinkage
        self.standardise = standardise
        self.normalise = normalise
        self.pca = pca
        self.whiten = whiten
        self.class_weight = class_weight

    @classmethod
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        for alike in grouped(heads, "class_weight"):
            weight = training.weight_of(alike[0].class_weight)
            normal = moments_of(training.rows, {ALL: training.onehot}, weight=weight).normal(ALL)
            for group in grouped(alike, "standardise"):
                found = Discriminants(normal, standardise=group[0].standardise)
                for head in group:
                    head._take(*found.weights(head.shrinkage))

    def _take(self, coef_KD: np.ndarray, intercept_K: np.ndarray) -> None:
        if len(coef_KD) == 2:
            coef_KD, intercept_K = coef_KD[1:] - coef_KD[:1], intercept_K[1:] - intercept_K[:1]
        self.coef_, self.intercept_ = coef_KD, intercept_K
        self.converged_ = True
