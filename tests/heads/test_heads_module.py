"""Heads as torch modules: they answer what the estimators answer, whatever preprocessing was folded in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from embedpipe.errors import ConfigError, NotFitted, ShapeError, WeightsError
from embedpipe.heads.module import HeadModule, head_module
from embedpipe.heads.registry import fit_grid, load_head, save_head
from embedpipe.heads.ridge import RidgeClassifierHead

FEW = {"epochs": 3, "patience": 0, "batch": 16}
MIXTURE = {"widths": (12, 12), "fusion": "mixture", **FEW}
ATTENTION = {"widths": (10, 14), "fusion": "attention", "width": 8, "queries": 2, **FEW}
CLASSES = [
    ("ridge", {"alpha": 1.0}),
    ("ridge", {"alpha": 1.0, "normalise": True, "pca": 5, "whiten": True}),
    ("logistic", {"C": 0.1}),
    ("logistic", {"C": 0.1, "multi_class": "one_vs_rest"}),
    ("logistic", {"C": 0.1, "normalise": True, "standardise": False}),
    ("logistic", {"C": 0.1, "pca": 4}),
    ("svm", {"C": 0.1}),
    ("lda", {"shrinkage": 0.2, "pca": 6, "whiten": True}),
    ("centroid", {}),
    ("centroid", {"metric": "cosine"}),
    ("sgd", FEW),
    ("mlp", {"hidden": 8, "layers": 2, **FEW}),
    ("layerwise", MIXTURE),
    ("layerwise", ATTENTION),
    ("group_lasso", {"widths": (12, 12), "max_iter": 50}),
    ("sklearn:linear_model.LogisticRegression", {}),
    ("sklearn:linear_model.RidgeClassifier", {"standardise": False}),
    ("sklearn:linear_model.SGDClassifier", {"loss": "log_loss"}),
    ("sklearn:linear_model.SGDClassifier", {"loss": "hinge", "fit_intercept": False}),
    ("sklearn:svm.LinearSVC", {}),
    ("sklearn:discriminant_analysis.LinearDiscriminantAnalysis", {}),
]
NUMBERS = [
    ("ridge", {"alpha": 1.0, "normalise": True}),
    ("sgd", FEW),
    ("mlp", {"hidden": 8, **FEW}),
    ("layerwise", MIXTURE),
    ("group_lasso", {"widths": (12, 12), "max_iter": 50}),
    ("sklearn:linear_model.Lasso", {"alpha": 0.01}),
    ("sklearn:svm.LinearSVR", {"max_iter": 10_000}),
]


def fitted(family, params, X, y, kind):
    (head,) = fit_grid(family, [params], X, y, kind=kind, seed=0)
    return head


def answers(head, X):
    with torch.no_grad():
        return head_module(head).predict_proba(torch.from_numpy(X)).numpy()


def ids(cases):
    return [f"{family}-{'-'.join(str(value) for value in params.values())}" for family, params in cases]


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize(("family", "params"), CLASSES, ids=ids(CLASSES))
def test_the_module_gives_the_heads_own_probabilities(features, family, params, num_classes):
    X, codes = features(60, 24, num_classes)
    head = fitted(family, params, X, codes, "classes")
    unseen = np.concatenate([features(20, 24, num_classes, seed=1)[0], np.zeros((1, 24), np.float32)])
    np.testing.assert_allclose(answers(head, unseen), head.predict_proba(unseen), atol=2e-5)
    assert head_module(head).classes == tuple(head.classes_.tolist())


@pytest.mark.parametrize(("family", "params"), NUMBERS, ids=ids(NUMBERS))
def test_the_module_gives_the_heads_own_numbers(features, family, params):
    X, codes = features(60, 24, 4)
    head = fitted(family, params, X, codes * 10.0 + 300.0, "number")
    np.testing.assert_allclose(answers(head, X), head.predict(X), rtol=1e-5)


@pytest.mark.parametrize(("family", "params"), [("ridge", {"alpha": 1.0}), ("logistic", {"normalise": True})])
def test_the_module_gives_the_probability_of_each_label(features, family, params):
    X, codes = features(60, 24, 4)
    Y = np.stack([codes == 0, codes > 1], axis=1).astype(float)
    head = fitted(family, params, X, Y, "multilabel")
    np.testing.assert_allclose(answers(head, X), head.predict_proba(X), atol=2e-5)


@pytest.mark.parametrize("family", ["conv", "attentive"])
@pytest.mark.parametrize("kind", ["classes", "number"])
def test_the_module_of_a_head_on_maps_gives_what_it_predicts(features, family, kind):
    X, codes = features(40, 3 * 4 * 2, 3)
    X = X.reshape(-1, 3, 4, 2)
    y = codes if kind == "classes" else codes * 2.0
    head = fitted(family, {**FEW, "width": 8} if family == "attentive" else FEW, X, y, kind)
    wanted = head.predict_proba(X) if kind == "classes" else head.predict(X)
    np.testing.assert_allclose(answers(head, X), wanted, atol=2e-5)


@pytest.mark.parametrize("kind", ["dense", "dense_number"])
def test_the_module_of_a_dense_head_gives_every_place(features, kind):
    X, _ = features(20, 3 * 4 * 2, 3)
    X = X.reshape(-1, 3, 4, 2)
    y = (X[:, 0] > np.median(X[:, 0])).astype(np.int64 if kind == "dense" else float)
    head = fitted("conv", {"epochs": 2, "patience": 0}, X, y, kind)
    wanted = head.predict_proba(X) if kind == "dense" else head.predict(X)
    np.testing.assert_allclose(answers(head, X), wanted, atol=2e-5)


@pytest.mark.parametrize("kind", ["classes", "number"])
@pytest.mark.parametrize(
    "params", [{}, {"weights": "distance", "standardise": True}, {"weights": "uniform", "k": 99}]
)
def test_neighbours_become_a_module_without_parameters(features, params, kind):
    X, codes = features(60, 24, 3)
    head = fitted("knn", params, X, codes if kind == "classes" else codes * 2.0, kind)
    unseen = features(20, 24, 3, seed=1)[0]
    module = head_module(head, trainable=False)
    wanted = head.predict_proba(unseen) if kind == "classes" else head.predict(unseen)
    np.testing.assert_allclose(module.predict_proba(torch.from_numpy(unseen)).numpy(), wanted, atol=2e-5)
    assert not list(module.parameters())


@pytest.mark.parametrize(
    ("family", "params", "kind"),
    [
        ("logistic", {"normalise": True}, "classes"),
        ("centroid", {"metric": "cosine"}, "classes"),
        ("mlp", {"hidden": 8, **FEW}, "number"),
        ("layerwise", ATTENTION, "classes"),
        ("knn", {}, "classes"),
    ],
)
def test_a_module_is_built_again_from_its_description(features, family, params, kind):
    X, codes = features(60, 24, 3)
    module = head_module(fitted(family, params, X, codes, kind), trainable=False)
    again = HeadModule.build(json.loads(json.dumps(module.describe())))
    again.load_state_dict(module.state_dict())
    rows = torch.from_numpy(X)
    assert torch.equal(again.predict_proba(rows), module.predict_proba(rows))
    assert (again.kind, again.classes) == (module.kind, module.classes)


def test_what_is_no_description_of_a_head_is_refused():
    with pytest.raises(WeightsError, match="not the description of a head"):
        HeadModule.build({"net": ["linear", 3]})


def test_in_float64_the_module_is_the_head_up_to_rounding(features, tmp_path):
    X, codes = features(60, 24, 3)
    save_head(fitted("ridge", {"alpha": 0.5, "pca": 5}, X, codes, "classes"), tmp_path)
    head = load_head(tmp_path)
    found = head_module(head, dtype=torch.float64).predict_proba(torch.from_numpy(X.astype(np.float64)))
    np.testing.assert_allclose(found.detach().numpy(), head.predict_proba(X), atol=1e-12)


def test_maps_are_laid_out_flat_for_a_head_on_rows(features):
    X, codes = features(40, 24, 3)
    module = head_module(fitted("lda", {}, X, codes, "classes"))
    rows = torch.from_numpy(X)
    assert torch.equal(module(rows.view(-1, 6, 2, 2)), module(rows))


@pytest.mark.parametrize(("family", "params"), [("logistic", {"normalise": True}), ("layerwise", MIXTURE)])
def test_cross_entropy_of_the_outputs_trains_weights_and_leaves_preprocessing_alone(features, family, params):
    X, codes = features(60, 24, 3)
    module = head_module(fitted(family, params, X, codes, "classes"))
    buffers = {name: one.clone() for name, one in module.named_buffers()}
    before = torch.nn.functional.cross_entropy(module(torch.from_numpy(X)), torch.from_numpy(codes))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01)
    before.backward()
    optimiser.step()
    after = torch.nn.functional.cross_entropy(module(torch.from_numpy(X)), torch.from_numpy(codes))
    assert after < before
    assert all(torch.equal(one, buffers[name]) for name, one in module.named_buffers())


@pytest.mark.parametrize(
    ("family", "params"),
    [("logistic", {"multi_class": "one_vs_rest"}), ("mlp", {"hidden": 8, **FEW}), ("layerwise", ATTENTION)],
)
def test_the_module_exports_for_any_number_of_rows(features, family, params):
    X, codes = features(40, 24, 3)
    module = head_module(fitted(family, params, X, codes, "classes"))
    rows = torch.from_numpy(X)
    program = torch.export.export(module, (rows[:4],), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.testing.assert_close(program.module()(rows), module(rows))


@pytest.mark.parametrize(
    ("family", "params"),
    [("knn", {}), ("sklearn:svm.SVC", {"kernel": "rbf"}), ("sklearn:linear_model.SGDClassifier", None)],
)
def test_a_head_that_cannot_become_a_module_is_refused_with_those_that_can(features, family, params):
    X, codes = features(40, 24, 3)
    head = fitted(family, {"loss": "modified_huber"} if params is None else params, X, codes, "classes")
    with pytest.raises(ConfigError, match=r"cannot become a module.*, since .*; logistic, ridge, .* can"):
        head_module(head)


def test_an_unfitted_head_and_features_of_another_tap_are_refused(features):
    with pytest.raises(NotFitted, match="RidgeClassifierHead is not fitted yet"):
        head_module(RidgeClassifierHead())
    X, codes = features(40, 24, 3)
    module = head_module(fitted("ridge", {}, X, codes, "classes"))
    with pytest.raises(
        ShapeError, match=r"expected features of shape \(rows, 24\), found \(3, 7\); give it the tap"
    ):
        module(torch.zeros(3, 7))
