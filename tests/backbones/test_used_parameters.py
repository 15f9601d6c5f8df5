"""Which parameters reach a tap of a model that is tapped as it runs: all that do, and none from behind it."""

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from embedpipe.backbones.hooked import HookedModel, Layers
from embedpipe.backbones.observed import observe
from embedpipe.errors import WeightsError

X = torch.zeros((2, 3, 8))


def used(module, node, x=X, norm=None):
    module.eval().requires_grad_(False)
    observed = observe(module, lambda model, value: model(value), x)
    names = tuple(name for name in observed.outputs if name)
    graph = HookedModel(module, lambda model, value: model(value), observed, Layers({}, names, norm=norm))
    return graph.used_parameters([node])


def below(module, *prefixes):
    return {key for key in module.state_dict() if key.startswith(prefixes)}


def encoder(**rest):
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True, **rest)
    return nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(8), enable_nested_tensor=False)


@pytest.mark.parametrize("norm_first", [False, True])
def test_attention_reads_a_projection_that_is_never_called(norm_first):
    model = encoder(norm_first=norm_first)
    assert used(model, "layers.1") == below(model, "layers.0.", "layers.1.")
    assert "layers.1.self_attn.out_proj.weight" in used(model, "layers.1.self_attn")
    assert not used(model, "layers.1.self_attn") & below(model, "layers.1.linear2", "layers.2", "norm")
    assert used(model, "norm") == set(model.state_dict())


def test_a_small_vision_transformer_reads_its_parameters_block_by_block():
    model = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=4
    )
    first = {"class_token", "encoder.pos_embedding", *below(model, "conv_proj")}
    layers = [f"encoder.layers.encoder_layer_{i}" for i in range(3)]
    found = used(model, layers[1], torch.zeros((2, 3, 16, 16)))
    assert found == first | below(model, layers[0], layers[1])
    assert f"{layers[1]}.self_attention.out_proj.weight" in found
    assert used(model, "heads", torch.zeros((2, 3, 16, 16))) == set(model.state_dict())


class Reading(nn.Module):
    """Parameters of its own before and behind a layer, one that is tied, one in a view, and two that nothing reads."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.layer = nn.Linear(8, 8)
        self.experts = Experts()
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.layer.weight
        self.after = nn.Parameter(torch.ones(1, 8))
        self.register_buffer("shift", torch.zeros(8))
        self.unread = nn.Linear(8, 8)

    def forward(self, x):
        x = self.experts(self.layer(x * self.scale))
        x = nn.functional.linear(x, self.tied.weight, self.tied.bias) * self.after[0]
        return x + self.shift


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.choices = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x):
        return self.choices[int(x.mean() > 1)](x)


def test_what_is_read_outside_of_any_module_counts_from_when_it_is_read():
    model = Reading()
    at_layer = {"scale", "layer.weight", "layer.bias", "tied.weight"}
    assert used(model, "layer") == at_layer
    # an expert that this input did not take may be taken by another
    assert used(model, "experts") == at_layer | below(model, "experts.")
    assert not used(model, "experts") & {"after", "shift", "tied.bias", "unread.weight"}


def test_the_final_norm_that_blocks_pass_is_read_with_them():
    model = encoder()
    assert used(model, "layers.0", norm="norm") == below(model, "layers.0.", "norm.")


OWN = """
import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def preprocess(self, image):
        return torch.zeros((3, 8, 8))

    def describe(self):
        return {"modality": "image", "preprocessing": "none", "blocks": ["norm", "attn"]}

    def forward(self, x):
        x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
        return self.attn(x, x, x, need_weights=False)[0]


def attention():
    return Attention()
"""


def test_a_tap_that_reads_a_projection_which_was_not_loaded_is_refused(make, tmp_path):
    """The last module that holds weights counts as a classifier, which a file may lack; here it is no classifier."""
    (tmp_path / "attention.py").write_text(OWN)
    model = nn.ModuleDict(
        {"embed": nn.Conv2d(3, 8, 4), "norm": nn.LayerNorm(8), "attn": nn.MultiheadAttention(8, 2)}
    )
    state = {key: value for key, value in model.state_dict().items() if "out_proj" not in key}
    safetensors.torch.save_file(state, tmp_path / "part.safetensors")
    options = {"model": "python:attention:attention", "weights": "part.safetensors"}
    assert make(**options, taps={"norm": ["none"]}).tap_specs()[0].node == "norm"
    with pytest.raises(WeightsError, match=r"tap 'attn' lies at or behind the classifier.*out_proj"):
        make(**options, taps={"attn": ["none"]})
