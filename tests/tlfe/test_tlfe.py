"""TLFE: a frozen source read once, a mapping of the right kind, a target that learns, and clear refusals."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from embedpipe.errors import ConfigError, DataError, NotFitted, ShapeError, TrainingFailed, WeightsError
from embedpipe.tlfe import TLFE
from embedpipe.tlfe.mapping import Conv, Flat, Layerwise, PerToken, make_mapping
from embedpipe.tlfe.source import keys_of
from embedpipe.tlfe.target import tail_of

PX = 12


class Source(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self):
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.features = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(6, 5)

    def forward(self, x):
        return self.classifier(self.features(self.early(x)).mean(dim=(2, 3)))


class Target(nn.Module):
    """Three stages, the second with a shortcut, and a classifier."""

    def __init__(self, num_classes=2, width=8):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.layer2 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.layer3 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(width, 16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.layer1(x)
        x = self.layer2(x) + x[:, :, ::2, ::2]
        x = self.layer3(x)
        return self.fc(self.hidden(self.pool(x).flatten(1)).relu())


def images(num=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.arange(num) % 2
    x = torch.randn((num, 3, PX, PX), generator=generator)
    x[:, 0] += 1.5 * codes[:, None, None]
    return x, codes


def loader_of(x, y, batch=16, shuffle=False):
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=shuffle)


@pytest.fixture
def loaders():
    return {"train": loader_of(*images(), shuffle=True), "val": loader_of(*images(20, seed=1))}


@pytest.fixture
def models():
    torch.manual_seed(0)
    return Source(), Target()


def test_the_target_learns_from_features_and_the_source_stays_as_it_was(loaders, models):
    source, target = models
    before = {name: one.clone() for name, one in source.state_dict().items()}
    first = {name: one.clone() for name, one in target.state_dict().items()}
    tlfe = TLFE(source_model=source, target_model=target, transfer_layers=["features"], device="cpu")
    tlfe.fit(loaders, epochs=8, verbose=False, save_best_only=True, learning_rate=0.03, batch=16)
    assert tlfe.score(loaders["val"]) >= 0.9
    assert all(torch.equal(one, before[name]) for name, one in source.state_dict().items())
    assert not source.training and not any(one.requires_grad for one in source.parameters())
    # from the place on, and nothing before it
    assert tlfe.target_at_ == "layer1"
    assert torch.equal(target.layer1[0].weight, first["layer1.0.weight"])
    assert not torch.equal(target.fc.weight, first["fc.weight"])


def test_a_second_fit_with_another_target_does_not_run_the_source_again(loaders, models):
    source, target = models
    tlfe = TLFE(source, target, ["features"], "cpu")
    tlfe.fit(loaders, epochs=1, verbose=False)
    num = tlfe.source.num_computed
    assert num == 48 + 20 + 2  # every image once; one more for the shape, twice
    tlfe.fit(loaders, epochs=1, verbose=False, target_model=Target(3, width=5))
    assert tlfe.source.num_computed == num + 1
    assert tlfe.num_outputs_ == 3


def test_a_store_that_is_given_serves_the_next_process(loaders, models, tmp_path):
    source, target = models
    TLFE(source, target, ["features"], "cpu", store=tmp_path).fit(loaders, epochs=1, verbose=False)
    again = TLFE(source, Target(), ["features"], "cpu", store=tmp_path)
    again.fit(loaders, epochs=1, verbose=False)
    assert again.source.num_computed == 1
    other = TLFE(Source(), Target(), ["features"], "cpu", store=tmp_path)  # other weights, another group
    other.fit(loaders, epochs=1, verbose=False)
    assert other.source.num_computed == 70 and len(list(tmp_path.iterdir())) == 2


def test_features_of_another_activation_or_of_replaced_weights_are_never_mixed(loaders, tmp_path):
    torch.manual_seed(0)
    source, other = (nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Flatten()) for act in (nn.ReLU(), nn.Tanh()))
    other.load_state_dict(source.state_dict())
    first, second = (TLFE(net, Target(), ["1"], device="cpu", store=tmp_path) for net in (source, other))
    specs = []
    for tlfe in (first, second):
        tlfe.fit(loaders, epochs=1, verbose=False)
        specs.append(tlfe.source.spec())
        assert tlfe.source.num_computed == 70  # all 68, and two asked for their shapes
    with torch.no_grad():
        source[0].weight.mul_(2)
    first.fit(loaders, epochs=1, verbose=False)
    assert len({spec.fingerprint for spec in (*specs, first.source.spec())}) == 3


def test_a_loader_that_can_be_read_once_is_refused_before_a_batch_is_lost(loaders, models):
    once = (pair for pair in loaders["train"])
    with pytest.raises(ConfigError, match="loader 'train': expected what can be read more than once"):
        TLFE(*models, device="cpu").fit({"train": once}, epochs=1, verbose=False)
    assert len(list(once)) == 3


def test_stored_features_are_the_layers_own_outputs(loaders, models):
    source, target = models
    tlfe = TLFE(source, target, ["early", "features"], "cpu", dtype="float32")
    tlfe.fit(loaders, epochs=1, verbose=False)
    x, y = images()
    found, labels = tlfe.features.samples(keys_of(x), y).batch(torch.tensor([5, 0]))
    early = source.early(x[[5, 0]])
    torch.testing.assert_close(found[0], early)
    torch.testing.assert_close(found[1], source.features(early))
    assert labels.tolist() == [1, 0]


def test_the_best_epoch_on_validation_is_kept_or_the_last(loaders, models):
    source, target = models
    tlfe = TLFE(source, target, ["features"], "cpu").fit(loaders, epochs=6, verbose=False, learning_rate=0.02)
    assert tlfe.score(loaders["val"]) == pytest.approx(max(tlfe.history_.scores))
    last = TLFE(source, Target(), ["features"], "cpu")
    last.fit(loaders, epochs=3, verbose=False, save_best_only=False, learning_rate=0.02)
    assert last.score(loaders["val"]) == pytest.approx(last.history_.scores[-1])


def test_saved_and_loaded_it_predicts_the_same(loaders, models, tmp_path):
    source, target = models
    tlfe = TLFE(source, target, ["early", "features"], "cpu").fit(loaders, epochs=1, verbose=False)
    tlfe.save(tmp_path / "tlfe.safetensors")
    again = TLFE.load(tmp_path / "tlfe.safetensors", source, Target(), device="cpu")
    x, _ = images(10, seed=2)
    np.testing.assert_array_equal(again.predict_scores(x), tlfe.predict_scores(x))
    np.testing.assert_allclose(again.predict_proba(x).sum(axis=1), 1.0)
    assert again.predict(x.numpy()).dtype == np.int64


def test_numbers_are_learnt_too(models):
    x, codes = images()
    loaders = {"train": loader_of(x, codes.float() * 3)}
    tlfe = TLFE(models[0], Target(1), ["features"], "cpu")
    tlfe.fit(loaders, epochs=12, verbose=False, learning_rate=0.03, batch=16)
    assert tlfe.score(loaders["train"]) > -1.0  # their variance is 2.25
    assert tlfe.predict(x[:3]).shape == (3,)


@pytest.mark.parametrize(
    ("wanted", "sources", "target", "kind"),
    [
        (None, {"a": (4, 6, 6)}, (8, 3, 3), Conv),
        (None, {"a": (4, 6, 6)}, (8, 9, 9), Conv),
        (None, {"a": (10,)}, (8,), Flat),
        (None, {"a": (10,)}, (8, 2, 2), Flat),
        (None, {"a": (5, 10)}, (5, 8), PerToken),
        ("linear", {"a": (4, 6, 6)}, (8, 3, 3), Flat),
        (None, {"a": (4, 6, 6), "b": (7,)}, (8, 3, 3), Layerwise),
        ("layerwise", {"a": (4, 6, 6)}, (8, 3, 3), Layerwise),
    ],
)
def test_the_mapping_is_chosen_from_the_shapes_and_gives_the_targets(wanted, sources, target, kind):
    mapping = make_mapping(wanted, sources, target, "there")
    assert isinstance(mapping, kind)
    assert mapping(*(torch.zeros(2, *shape) for shape in sources.values())).shape == (2, *target)


def test_a_convolution_that_keeps_the_size_is_a_matrix_at_each_place():
    mapping = make_mapping("conv", {"a": (4, 5, 5)}, (3, 5, 5), "there")
    x = torch.randn(2, 4, 5, 5)
    wanted = (
        torch.einsum("kc,nchw->nkhw", mapping.conv.weight[:, :, 0, 0], x) + mapping.conv.bias[:, None, None]
    )
    torch.testing.assert_close(mapping(x), wanted)


def test_the_tail_computes_what_the_whole_target_does():
    target = Target().eval()
    x = torch.randn(2, 3, PX, PX)
    tail = tail_of(target, (3, PX, PX), "layer1", (6, 6, 6))
    assert tail.shape == (8, PX, PX)
    torch.testing.assert_close(tail.module(target.layer1(x)), target(x))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"transfer_layers": ["feature"]},
            ConfigError,
            "transfer_layers: the model has no layer 'feature'; near names",
        ),
        ({"transfer_layers": []}, ConfigError, "expected one layer of the source or more"),
        ({"transfer_layers": "features"}, ConfigError, "expected a list, found 'features'"),
        ({"target_at": "layer9"}, ConfigError, r"target_at: the target has no layer 'layer9' \(did you mean"),
        ({"target_at": "layer2"}, ConfigError, "something leads around 'layer2', such as a shortcut"),
        (
            {"mapping": "cnv"},
            ConfigError,
            r"expected linear, conv, layerwise, found 'cnv' \(did you mean 'conv'\?\)",
        ),
        (
            {"mapping": "conv", "target_at": "hidden"},
            ShapeError,
            r"mapping 'conv': expected a map .* at both ends",
        ),
        (
            {"mapping": "conv", "transfer_layers": ["early", "features"]},
            ShapeError,
            "expected one layer, found 2",
        ),
        (
            {"target_input_shape": (1, 8, 8)},
            ShapeError,
            r"target_model: takes no images of shape \(1, 8, 8\)",
        ),
        ({"device": "cuda"}, ConfigError, "expected a CUDA device, found none"),
        ({"device": "gpu"}, ConfigError, "expected auto, cpu or cuda, found 'gpu'"),
        ({"dtype": "int8"}, ConfigError, "expected float16 or float32, found 'int8'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(loaders, models, options, error, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=words):
        TLFE(*models, **{"transfer_layers": ["features"], "device": "cpu", **options}).fit(
            loaders, epochs=1, verbose=False
        )


def test_a_linear_mapping_beyond_all_measure_is_refused():
    with pytest.raises(ShapeError, match="would have 3,355,443,200 weights, expected at most 67,108,864"):
        make_mapping("linear", {"a": (512, 32, 32)}, (100, 8, 8), "there")


@pytest.mark.parametrize(
    ("loaders", "error", "words"),
    [
        ({"train": []}, DataError, "loader 'train': expected at least one batch, found none"),
        ({"train": loader_of(*images()), "val": []}, DataError, "loader 'val': expected at least one batch"),
        ({"training": []}, ConfigError, "expected {'train': loader, 'val': loader}, found training"),
        ({"train": loader_of(*images()), "vall": []}, ConfigError, r"found 'vall' \(did you mean 'val'\?\)"),
        (
            {"train": [torch.zeros(2, 3, PX, PX)]},
            DataError,
            r"expected pairs \(inputs, targets\), found Tensor",
        ),
        (
            {"train": [(torch.zeros(2, 3, PX, PX), torch.zeros(3))]},
            DataError,
            "expected as many targets as inputs",
        ),
        (
            {"train": loader_of(images()[0], images()[1] + 1)},
            DataError,
            "loader 'train': expected labels of 0 to 1, found 2",
        ),
    ],
)
def test_loaders_that_give_nothing_or_nonsense_are_refused(models, loaders, error, words):
    with pytest.raises(error, match=words):
        TLFE(*models, ["features"], "cpu").fit(loaders, epochs=1, verbose=False)


def test_a_loss_that_is_not_finite_stops_in_one_sentence(loaders, models):
    with pytest.raises(TrainingFailed, match=r"TLFE: the loss is (nan|infinite) at step"):
        TLFE(*models, ["features"], "cpu").fit(loaders, epochs=20, verbose=False, learning_rate=1e30)


def test_a_pickle_another_architecture_and_another_source_are_refused(loaders, models, tmp_path):
    source, target = models
    tlfe = TLFE(source, target, ["features"], "cpu")
    with pytest.raises(NotFitted, match="TLFE is not fitted yet"):
        tlfe.predict(images(2)[0])
    tlfe.fit(loaders, epochs=1, verbose=False)
    path = tmp_path / "tlfe.safetensors"
    tlfe.save(path)
    with pytest.raises(WeightsError, match=r"a checkpoint of another architecture: expected .* of shape"):
        TLFE.load(path, source, Target(width=5), device="cpu")
    with pytest.raises(WeightsError, match="expected a source of weights"):
        TLFE.load(path, Source(), Target(), device="cpu")
    torch.save(target.state_dict(), tmp_path / "pickled.pt")
    with pytest.raises(WeightsError, match="found a pickle, which could run any code and is not read"):
        TLFE.load(tmp_path / "pickled.pt", source, Target(), device="cpu")
    with pytest.raises(WeightsError, match="found no such file"):
        TLFE.load(tmp_path / "none", source, Target(), device="cpu")


@pytest.mark.slow
def test_alexnet_to_resnet18_runs_on_random_images_and_on_a_folder(tmp_path):
    from PIL import Image

    path = Path(__file__).parents[2] / "examples/alexnet_to_resnet18.py"
    spec = importlib.util.spec_from_file_location("alexnet_to_resnet18", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    tlfe = example.main(["--epochs", "1", "--device", "cpu"])
    assert tlfe.target_at_ == "layer3" and tlfe.num_outputs_ == 2
    generator = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (tmp_path / name).mkdir()
        for place in range(4):
            Image.fromarray(generator.integers(0, 255, (70, 80, 3), np.uint8)).save(
                tmp_path / name / f"{place}.png"
            )
    tlfe = example.main(
        [str(tmp_path), "--epochs", "1", "--image-px", "64", "--batch", "4", "--device", "cpu"]
    )
    assert tlfe.num_outputs_ == 3
