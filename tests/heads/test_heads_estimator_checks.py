"""scikit-learn's own estimator checks, on every head that claims its interface; none but one is expected to fail.

That one asks that a row of weight two equals the row twice, to the bit of the weights. Batches drawn from another
number of rows are other batches, and folds drawn from it other folds: scikit-learn's own SGD, perceptrons and
cross-validated estimators are excepted from it too. Heads of many labels take a matrix of 0, 1 and NaN, which no check
gives, and heads of maps take more than two dimensions: these do not claim the interface.
"""

from __future__ import annotations

import warnings

from sklearn.utils.estimator_checks import parametrize_with_checks

from embedpipe.heads.centroid import CentroidHead
from embedpipe.heads.foreign import SklearnClassifierHead, SklearnRegressorHead
from embedpipe.heads.greedy import GreedyClassifierHead, GreedyRegressorHead
from embedpipe.heads.group_lasso import (
    GroupLassoClassifierHead,
    GroupLassoRegressorHead,
)
from embedpipe.heads.knn import KnnClassifierHead, KnnRegressorHead
from embedpipe.heads.layerwise import LayerwiseClassifierHead, LayerwiseRegressorHead
from embedpipe.heads.lda import LdaHead
from embedpipe.heads.logistic import LogisticHead
from embedpipe.heads.mlp import MlpClassifierHead, MlpRegressorHead
from embedpipe.heads.neural import NeuralHead
from embedpipe.heads.ridge import RidgeClassifierHead, RidgeRegressorHead
from embedpipe.heads.sgd import SgdClassifierHead, SgdRegressorHead
from embedpipe.heads.svm import SvmHead

HEADS = [
    LogisticHead(tol=1e-22),  # weights and repeats are compared to 1e-7
    LogisticHead(tol=1e-22, multi_class="one_vs_rest"),
    RidgeClassifierHead(),
    RidgeRegressorHead(),
    SvmHead(tol=1e-17),
    LdaHead(),
    CentroidHead(),
    KnnClassifierHead(),
    KnnRegressorHead(),
    SgdClassifierHead(epochs=40),
    SgdRegressorHead(epochs=40),
    MlpClassifierHead(hidden=16, epochs=40),
    MlpRegressorHead(hidden=16, epochs=40),
    LayerwiseClassifierHead(epochs=40, lr=0.02),
    LayerwiseRegressorHead(epochs=40, lr=0.02),
    GroupLassoClassifierHead(strength=0.01, tol=1e-10),
    GroupLassoRegressorHead(strength=0.01, tol=1e-10),
    GreedyClassifierHead(),
    GreedyRegressorHead(),
    SklearnClassifierHead("sklearn:discriminant_analysis.LinearDiscriminantAnalysis"),
    SklearnRegressorHead("sklearn:linear_model.Ridge"),
]


def excepted(head):
    if isinstance(head, NeuralHead):
        reason = "repeated rows make other batches"
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    if isinstance(head, (GreedyClassifierHead, GreedyRegressorHead)):
        return {"check_sample_weight_equivalence_on_dense_data": "repeated rows fall into other folds"}
    return {}


@parametrize_with_checks(HEADS, expected_failed_checks=excepted)
def test_scikit_learns_checks_hold(estimator, check):
    with warnings.catch_warnings():
        # the checks themselves skip what does not apply by a warning
        warnings.simplefilter("default")
        check(estimator)
