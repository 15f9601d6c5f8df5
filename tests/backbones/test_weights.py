import hashlib
import pickle
import urllib.error

import pytest
import safetensors.torch
import torch
import torchvision

from embedpipe.backbones.weights import load_into, read_state_dict, weights_digest
from embedpipe.errors import ConfigError, WeightsError


@pytest.fixture(scope="module")
def resnet_state():
    torch.manual_seed(1)
    return torchvision.models.resnet18(weights=None).state_dict()


@pytest.fixture
def saved(tmp_path, resnet_state):
    """Write a changed state dict of resnet18; None removes a tensor."""

    def save(name="w.safetensors", **changes):
        state = dict(resnet_state)
        for key, value in changes.items():
            key = key.replace("__", ".")
            if value is None:
                del state[key]
            else:
                state[key] = value
        path = tmp_path / name
        if name.endswith(".safetensors"):
            safetensors.torch.save_file(state, path)
        else:
            torch.save(state, path)
        return name

    return save


def test_safetensors_and_pth_load_the_same_weights(make, saved, resnet_state):
    first, second = make(weights=saved("w.safetensors")), make(weights=saved("w.pth"))
    assert first.weights_digest == second.weights_digest != make(weights="random:0").weights_digest
    assert torch.equal(
        first.module.state_dict()["layer1.0.conv1.weight"], resnet_state["layer1.0.conv1.weight"]
    )
    assert first.role == "transferred"


def test_a_checkpoint_of_data_parallel_is_opened(make, tmp_path, saved, resnet_state):
    wrapped = {"state_dict": {f"module.{key}": value for key, value in resnet_state.items()}, "model": None}
    torch.save(wrapped, tmp_path / "checkpoint.pth")
    assert make(weights="checkpoint.pth").weights_digest == make(weights=saved()).weights_digest


def test_digest_is_over_sorted_names_dtypes_shapes_and_bytes():
    module = torch.nn.Linear(2, 1)
    expected = hashlib.blake2b(digest_size=16)
    for key, shape in (("bias", (1,)), ("weight", (1, 2))):
        value = module.state_dict()[key].numpy().tobytes()
        expected.update(f"{key}\0float32\0{shape}\0".encode() + value)
    assert weights_digest(module) == expected.hexdigest()


def test_digest_does_not_see_the_memory_format():
    module = torch.nn.Conv2d(4, 4, 3)
    before = weights_digest(module)
    assert weights_digest(module.to(memory_format=torch.channels_last)) == before


class Payload:
    """Would create a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_in_place_of_a_state_dict_is_refused_and_never_run(make, tmp_path):
    touched = tmp_path / "touched"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"w": Payload(touched)}))
    with pytest.raises(
        WeightsError, match=r"evil\.pth is not a file of weights .* since a pickle can run code; save"
    ):
        make(weights="evil.pth")
    torch.save({"w": Payload(touched)}, tmp_path / "evil2.pth")
    with pytest.raises(WeightsError, match="expected a state dict, names and tensors only"):
        make(weights="evil2.pth")
    assert not touched.exists()


def test_a_whole_model_in_place_of_a_state_dict_is_refused(make, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"save one with torch\.save\(model\.state_dict\(\), path\)"):
        make(weights="model.pth")


@pytest.mark.parametrize(
    ("name", "content"), [("w.safetensors", b"hello"), ("w.pth", b""), ("w.pth", b"text")]
)
def test_a_file_that_holds_no_weights_is_one_sentence(make, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="is not a file of weights"):
        make(weights=name)


def test_other_values_beside_tensors_are_named(tmp_path):
    torch.save({"epoch": 3, "weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="found other values under epoch; save model"):
        read_state_dict(tmp_path / "w.pth")


def test_a_missing_file_is_named(make, tmp_path):
    with pytest.raises(WeightsError, match=r"backbones\.b\.weights: no such file: .*nowhere\.pth"):
        make(weights="nowhere.pth")


def test_everything_that_does_not_fit_is_listed_in_one_error(make, saved):
    name = saved(layer1__0__conv1__weight=torch.zeros(64, 64, 5, 5), conv1__weight=None, extra=torch.zeros(2))
    with pytest.raises(WeightsError) as caught:
        make(weights=name)
    message = str(caught.value)
    assert "does not fit torchvision:resnet18" in message
    assert "1 missing: conv1.weight" in message
    assert "1 unexpected: extra" in message
    assert "layer1.0.conv1.weight expected (64, 64, 3, 3), found (64, 64, 5, 5)" in message


def test_a_classifier_of_another_size_is_no_error_where_no_tap_needs_it(make, saved):
    name = saved(fc__weight=torch.zeros(7, 512), fc__bias=torch.zeros(7))
    backbone = make(weights=name, taps={"layer4": ["gap"]})
    headless = make(weights=saved("headless.pth", fc__weight=None, fc__bias=None), taps={"layer4": ["gap"]})
    assert backbone.weights_digest == headless.weights_digest


@pytest.mark.parametrize("tap", ["fc"])
def test_a_tap_at_a_classifier_of_another_size_is_refused(make, saved, tap):
    name = saved(fc__weight=torch.zeros(7, 512), fc__bias=torch.zeros(7))
    with pytest.raises(
        WeightsError, match=r"tap 'fc' lies at or behind the classifier, .*\(fc.bias, fc.weight\)"
    ):
        make(weights=name, taps={tap: ["flatten"], "layer1": ["gap"]})


def test_files_from_before_batches_were_counted_still_load(resnet_state):
    state = {key: value for key, value in resnet_state.items() if "num_batches_tracked" not in key}
    assert load_into(torchvision.models.resnet18(weights=None), state, "here", "resnet18") == frozenset()


def test_an_unknown_weights_name_lists_those_there_are(make):
    with pytest.raises(ConfigError) as caught:
        make(weights="IMAGENET1K_V9")
    assert "resnet18 has no weights 'IMAGENET1K_V9' (did you mean 'IMAGENET1K_V1'?)" in str(caught.value)
    assert "it has IMAGENET1K_V1, DEFAULT; also random:<seed>" in str(caught.value)


def test_without_network_one_sentence_says_where_to_put_the_file(make, monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(WeightsError) as caught:
        make(weights="DEFAULT")
    message = str(caught.value)
    assert "could not download https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert message.endswith(f"put it at {tmp_path / 'hub' / 'checkpoints' / 'resnet18-f37072fd.pth'}")


def test_enum_weights_are_loaded_by_torchvision(make, monkeypatch, resnet_state):
    enum = torchvision.models.get_model_weights("resnet18")
    monkeypatch.setattr(enum, "get_state_dict", lambda self, *args, **kwargs: resnet_state)
    backbone = make(weights="IMAGENET1K_V1")
    assert torch.equal(backbone.module.state_dict()["conv1.weight"], resnet_state["conv1.weight"])


def test_a_source_model_that_was_not_trained_says_how_to(make):
    with pytest.raises(
        WeightsError, match=r"no source model 'letters' at .*; train it first: embedpipe source letters"
    ):
        make("glyphnet", "source:letters")


def test_glyphnet_has_no_enum_weights(make):
    with pytest.raises(
        ConfigError, match=r"expected random:<seed>, source:<S> or a .safetensors or .pth path"
    ):
        make("glyphnet", "DEFAULT")


def test_an_unknown_torchvision_model_is_answered_with_the_near_one(make):
    with pytest.raises(
        ConfigError, match=r"torchvision has no model 'resnet19' \(did you mean 'resnet1.*'\?\)"
    ):
        make("torchvision:resnet19")
