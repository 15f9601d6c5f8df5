"""What of a state dict is loaded, and what is said of the rest."""

import pytest
import torch
from torch import nn

from embedpipe.backbones.glyphnet import GlyphNet
from embedpipe.backbones.weights import read_state_dict
from embedpipe.errors import ConfigError, WeightsError
from embedpipe.transfer.initialise import load_state


@pytest.fixture
def source():
    torch.manual_seed(1)
    return GlyphNet(52, width=4)


def fresh(num_classes=52, width=4, seed=2):
    torch.manual_seed(seed)
    return GlyphNet(num_classes, width=width)


def equal(module, state):
    return {name for name, value in module.state_dict().items() if torch.equal(value, state[name])}


def test_all_of_it_is_loaded_and_nothing_is_left(source):
    module, state = fresh(), source.state_dict()
    report = load_state(module, state)
    assert equal(module, state) == set(state)
    assert (report.share, report.missing, report.mismatched, report.unused) == (1.0, (), (), ())


def test_a_head_that_changed_size_stays_new_and_is_said_to_be(source):
    module, state = fresh(num_classes=10), source.state_dict()
    before = module.classifier.weight.clone()
    report = load_state(module, state)
    assert torch.equal(module.classifier.weight, before)
    assert report.share == 1.0 and len(report.reinitialised) == 2
    assert "the head changed size and is new (classifier.weight (10, 16), found (52, 16)" in str(report)
    assert not [name for name in report.loaded if name.startswith("classifier")]


def test_a_prefix_loads_what_lies_below_it_and_nothing_else(source):
    module, state = fresh(), source.state_dict()
    unlike = set(state) - equal(module, state)
    report = load_state(module, state, by="prefix", names=["block1", "block2"], at_least=0.1)
    loaded = equal(module, state) & unlike
    assert loaded == {name for name in unlike if name.startswith(("block1.", "block2."))}
    assert {name.split(".")[0] for name in report.missing} == {"block3", "block4", "classifier"}


def test_a_list_loads_the_tensors_it_names(source):
    module, state = fresh(), source.state_dict()
    report = load_state(module, state, by="list", names=["block1.conv1.weight"], at_least=0.0)
    assert report.loaded == ("block1.conv1.weight",)
    assert torch.equal(module.block1.conv1.weight, state["block1.conv1.weight"])


def test_shapes_load_a_network_whose_names_differ(source):
    renamed = {name.replace("block", "stage"): value for name, value in source.state_dict().items()}
    module = fresh()
    report = load_state(module, renamed, by="shape")
    assert report.share == 1.0 and equal(module, source.state_dict()) == set(source.state_dict())


def test_a_variance_never_takes_the_place_of_a_mean():
    module = nn.BatchNorm1d(3)
    state = {"a.running_var": torch.full((3,), 9.0), "a.running_mean": torch.full((3,), 4.0)}
    load_state(module, state, by="shape", at_least=0.0)
    assert module.running_mean.tolist() == [4.0] * 3 and module.running_var.tolist() == [9.0] * 3


def test_a_checkpoint_of_another_architecture_is_refused_with_what_was_found():
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).state_dict()
    with pytest.raises(WeightsError) as caught:
        load_state(fresh(), other, where="transfer.full.load.weights: old.pth")
    said = str(caught.value)
    assert said.startswith(
        "transfer.full.load.weights: old.pth: expected at least 50% of the parameters, loaded 0"
    )
    assert "a checkpoint of another architecture" in said and "\n" not in said


def test_another_width_is_another_architecture(source):
    with pytest.raises(WeightsError, match="of another shape"):
        load_state(fresh(width=6), source.state_dict())


def test_a_layer_that_does_not_exist_is_refused_with_a_near_name(source):
    with pytest.raises(ConfigError, match=r"the network has no layer 'blok1' \(did you mean 'block1'\?\)"):
        load_state(fresh(), source.state_dict(), by="prefix", names=["blok1"])


def test_a_pickle_in_place_of_a_state_dict_is_refused(tmp_path, source):
    torch.save(source, tmp_path / "whole.pth")
    with pytest.raises(
        WeightsError, match=r"whole\.pth is not a file of weights .* since a pickle can run code"
    ):
        read_state_dict(tmp_path / "whole.pth", "transfer.full.load.weights")
