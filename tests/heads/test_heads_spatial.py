"""Convolutional and attentive heads against linear models and torch's own layers, on maps and tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedpipe.errors import ConfigError, DataError, ShapeError
from embedpipe.heads.attentive import AttentiveClassifierHead, AttentiveNet, AttentiveRegressorHead
from embedpipe.heads.conv import ConvClassifierHead, ConvNet, ConvRegressorHead
from embedpipe.heads.conv_dense import DenseConvClassifierHead, DenseConvRegressorHead
from embedpipe.heads.nets import LinearNet
from embedpipe.heads.registry import fit_grid, load_head, save_head
from embedpipe.heads.rows import ArrayRows
from embedpipe.heads.stacked import Course, Recipe, Sampled, train_stack


@pytest.fixture(scope="module")
def maps():
    """Maps whose class is where the bright corner lies: nothing is left of it in their average."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5, 4, 4)).astype("f4")
    codes = rng.integers(0, 2, 300)
    for n, code in enumerate(codes):
        X[n, 0, :2] += 2.0 if code else -2.0
        X[n, 0, 2:] -= 2.0 if code else -2.0
    return X, codes


def stack(params, members):
    return {name: p.expand(members, *p.shape).clone() for name, p in params.items()}


def test_one_by_one_convolution_and_pooling_is_the_linear_model_on_averaged_maps(maps):
    X, codes = maps
    course = Course("adamw", "constant", 20, None, 64, 0)
    recipes = [Recipe(0.01, 0.1), Recipe(0.1, 0.0)]
    pooled = X.mean(axis=(2, 3))

    def sampled(Z):
        return Sampled(ArrayRows(Z), codes, None, np.zeros(1), np.ones(1))

    conv = train_stack(ConvNet(5, 2, 0, 3, "mean"), "softmax", 2, sampled(X), None, recipes, course)
    linear = train_stack(LinearNet(5, 2), "softmax", 2, sampled(pooled), None, recipes, course)
    for one, other in zip(conv, linear, strict=True):
        np.testing.assert_allclose(one.params["output.weights"], other.params["weights"], atol=1e-4)
        np.testing.assert_allclose(one.params["output.bias"], other.params["bias"], atol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "max", "keep"])
def test_the_stack_computes_what_torchs_layers_do(pool):
    generator = torch.Generator().manual_seed(0)
    net = ConvNet(3, 2, 4, 3, pool)
    members = [net.initial(generator) for _ in range(3)]
    x = torch.randn((6, 3, 5, 4), generator=generator)
    together = net.outputs({name: torch.stack([one[name] for one in members]) for name in members[0]}, x)
    for found, params in zip(together, members, strict=True):
        layers = [torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 1)]
        for layer, name in zip(layers, ("first", "second", "output"), strict=True):
            weight = params[f"{name}.weights"].reshape(layer.weight.shape)
            layer.load_state_dict({"weight": weight, "bias": params[f"{name}.bias"].ravel()})
        here = layers[1](layers[0](x).relu()).relu()
        if pool == "keep":
            wanted = layers[2](here).permute(1, 0, 2, 3).flatten(1)
        else:
            here = here.mean((2, 3), keepdim=True) if pool == "mean" else here.amax((2, 3), keepdim=True)
            wanted = layers[2](here)[:, :, 0, 0].T
        torch.testing.assert_close(found, wanted)


def test_attention_is_torchs_multi_head_attention():
    generator = torch.Generator().manual_seed(1)
    batch, tokens, features, queries, each = 4, 7, 12, 3, 4
    x = torch.randn((batch, tokens, features), generator=generator)
    attention = torch.nn.MultiheadAttention(features, queries, batch_first=True)
    query = torch.randn((1, 1, features), generator=generator)
    with torch.no_grad():
        attention.in_proj_bias.zero_()
        wanted, _ = attention(query.expand(batch, 1, features), x, x)
        key_query, key, value = attention.in_proj_weight.chunk(3)
        projected = (query[0, 0] @ key_query.T).view(queries, each)
        folded = torch.einsum("qe,qef->qf", projected, key.view(queries, each, features))
        params = {
            "query.weights": folded * (features / each) ** 0.5,
            "value.weights": value.view(queries, each, features).transpose(1, 2),
            "value.bias": torch.zeros((queries, 1, each)),
            "output.weights": attention.out_proj.weight,
            "output.bias": attention.out_proj.bias[:, None],
        }
        found = AttentiveNet(features, features, queries, queries * each).outputs(stack(params, 2), x)
    torch.testing.assert_close(found[1].T, wanted[:, 0])


def test_no_query_is_the_average_of_tokens():
    net = AttentiveNet(6, 3, 2, 4)
    params = net.initial(torch.Generator().manual_seed(0))
    params["query.weights"].zero_()
    x = torch.randn((5, 4, 6))
    alike = x.mean(dim=1, keepdim=True).expand_as(x)
    torch.testing.assert_close(net.outputs(stack(params, 1), x), net.outputs(stack(params, 1), alike))


def test_places_of_a_map_are_tokens():
    net = AttentiveNet(6, 3, 2, 4)
    params = stack(net.initial(torch.Generator().manual_seed(0)), 1)
    x = torch.randn((5, 6, 2, 3))
    torch.testing.assert_close(net.outputs(params, x), net.outputs(params, x.flatten(2).transpose(1, 2)))


def test_a_neighbourhood_tells_what_an_average_cannot(maps):
    X, codes = maps
    options = {"epochs": 40, "lr": 0.01}
    (conv,) = fit_grid("conv", [options], X[:200], codes[:200], kind="classes", seed=0)
    (flat,) = fit_grid("conv", [{**options, "hidden": 0}], X[:200], codes[:200], kind="classes", seed=0)
    assert conv.score(X[200:], codes[200:]) > 0.9
    assert flat.score(X[200:], codes[200:]) < 0.7


def test_attention_finds_the_token_that_matters():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 6, 8)).astype("f4")
    codes = rng.integers(0, 2, 400)
    place = rng.integers(0, 6, 400)
    X[:, :, 1] *= 3.0
    X[np.arange(400), place, 0] += 6.0  # marks the token
    X[np.arange(400), place, 1] = np.where(codes, 2.0, -2.0)
    options = {"queries": 2, "width": 16, "lr": 0.02, "epochs": 80}
    (head,) = fit_grid("attentive", [options], X[:300], codes[:300], kind="classes", seed=0)
    assert head.score(X[300:], codes[300:]) > 0.9
    (mean,) = fit_grid("sgd", [{}], X[:300].mean(axis=1), codes[:300], kind="classes", seed=0)
    assert mean.score(X[300:].mean(axis=1), codes[300:]) < 0.7


@pytest.mark.parametrize(
    ("family", "shape"), [("conv", (5, 4, 4)), ("attentive", (16, 5)), ("attentive", (5, 4, 4))]
)
def test_a_grid_equals_a_loop_over_it(maps, family, shape):
    X, codes = maps[0].reshape(300, *shape), maps[1]
    grid = [{"lr": lr, "epochs": 4, "patience": 1, "batch": 50} for lr in (1e-3, 1e-2)]
    more = {"kind": "classes", "seed": 0, "X_val": X[200:], "y_val": codes[200:]}
    for candidate, head in zip(grid, fit_grid(family, grid, X[:200], codes[:200], **more), strict=True):
        (alone,) = fit_grid(family, [candidate], X[:200], codes[:200], **more)
        assert head.best_epoch_ == alone.best_epoch_
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        (ConvClassifierHead, (4, 3, 3)),
        (ConvRegressorHead, (4, 3, 3)),
        (AttentiveClassifierHead, (5, 4)),
        (AttentiveRegressorHead, (4, 3, 3)),
    ],
)
def test_a_saved_head_predicts_what_it_did(tmp_path, head, shape):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, *shape)).astype("f4")
    y = np.arange(60) % 3 + (0.5 if "Regressor" in head.__name__ else 0)
    fitted = head(epochs=2).fit(X, y if "Regressor" in head.__name__ else y.astype(int))
    save_head(fitted, tmp_path)
    loaded = load_head(tmp_path)
    assert loaded.stopped_ == "epochs"
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))


def test_a_grid_is_kept_for_targets_of_every_place(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3, 5, 4)).astype("f4")
    y = np.where(X[:, 0] + np.roll(X[:, 1], 1, axis=1) > 0, 7, 3)  # of the place and of its neighbour
    y[:, 0] = -1
    head = DenseConvClassifierHead(epochs=60, lr=0.01).fit(X[:60], y[:60])
    assert head.predict(X[60:]).shape == (20, 5, 4)
    assert head.predict_proba(X[60:]).shape == (20, 2, 5, 4)
    assert set(np.unique(head.predict(X))) == {3, 7} and head.score(X[60:], y[60:]) > 0.9
    save_head(head, tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).predict(X), head.predict(X))


def test_places_without_a_label_count_nothing():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3, 4, 4)).astype("f4")
    y = 5.0 + 3.0 * X[:, 0] - X[:, 2]
    holed = y.copy()
    holed[rng.random(y.shape) < 0.3] = np.nan
    head = DenseConvRegressorHead(hidden=0, lr=0.05, epochs=200, weight_decay=0).fit(X[:30], holed[:30])
    assert head.predict(X).shape == y.shape and head.score(X[30:], y[30:]) > 0.999


@pytest.mark.parametrize(
    ("head", "shape", "words"),
    [
        (
            ConvClassifierHead,
            (9,),
            "expected maps of shape .samples, channels, height, width., found features of",
        ),
        (ConvClassifierHead, (9, 2), "tap a map with the reduction none, or with grid:k"),
        (AttentiveClassifierHead, (9,), "expected tokens of shape .samples, tokens, features. or maps"),
    ],
)
def test_other_inputs_are_refused_in_one_sentence(head, shape, words):
    X = np.zeros((6, *shape), "f4")
    with pytest.raises(ShapeError, match=words):
        head().fit(X, np.arange(6) % 2)


def test_targets_off_the_grid_and_maps_of_another_tap_are_refused():
    X, y = np.zeros((6, 3, 4, 4), "f4"), np.zeros((6, 4, 5), int)
    with pytest.raises(ShapeError, match=r"expected a target for every place, shape \(6, 4, 4\)"):
        DenseConvClassifierHead().fit(X, y)
    with pytest.raises(DataError, match="expected labels of two classes or more"):
        DenseConvClassifierHead().fit(X, y[:, :, :4])
    fitted = ConvClassifierHead(epochs=1).fit(X, np.arange(6) % 2)
    with pytest.raises(ShapeError, match="predict features of the same tap"):
        fitted.predict(X[:, :, :3])
    with pytest.raises(ConfigError, match="a width that 3 queries divide, found 16"):
        AttentiveClassifierHead(3, width=16).fit(X, np.arange(6) % 2)
