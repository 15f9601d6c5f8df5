"""Layouts of nodes, and that a layout says what the axes are: by an image that is bright in one corner."""

import pytest
import torch
from torch import nn

from embedpipe.backbones.graph import ModelGraph


def layouts(module, names, input_shape=(3, 16, 16)):
    graph = ModelGraph(module.eval(), input_shape)
    return [(graph.info(name).layout, graph.info(name).shape) for name in names]


class Permuting(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, stride=4)
        self.norm = nn.LayerNorm(5)
        self.mix = nn.Linear(5, 7)

    def forward(self, x):
        x = self.conv(x).permute(0, 2, 3, 1)
        return self.mix(self.norm(x)).mean(dim=(1, 2))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, stride=4)
        self.prefix = nn.Parameter(torch.zeros(1, 2, 6))
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        x = self.conv(x)
        channels_first = x.flatten(2)
        x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), channels_first.transpose(1, 2)], dim=1)
        return self.norm(x)[:, 0]


class Shuffling(nn.Module):
    def forward(self, x):
        num, channels, height, width = x.shape
        x = x.view(num, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        x = x.view(num, channels, height, width)
        windows = x.reshape(num, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1)
        windows = windows.reshape(num, (height // 4) * (width // 4), 16, channels)
        windows = torch.relu(windows)
        x = windows.reshape(num, height // 4, width // 4, 4, 4, channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(num, channels, height, width)


def test_linear_layers_behind_a_permutation_work_on_channels_last():
    assert layouts(Permuting(), ["conv", "permute", "mix", "mean"]) == [
        ("NCHW", (5, 4, 4)), ("NHWC", (4, 4, 5)), ("NHWC", (4, 4, 7)), ("ND", (7,)),
    ]  # fmt: skip


def test_tokens_are_known_with_their_prefix_and_channels_first_tokens_are_not_taken_for_them():
    module = Tokens()
    assert layouts(module, ["flatten", "transpose", "norm", "getitem_1"]) == [
        ("other", (6, 16)), ("NTD", (16, 6)), ("NTD", (18, 6)), ("ND", (6,)),
    ]  # fmt: skip
    graph = ModelGraph(module, (3, 16, 16))
    assert (graph.info("norm").num_prefix, graph.info("transpose").num_prefix) == (2, 0)


def test_axes_that_are_split_and_put_together_again_keep_their_meaning():
    graph = ModelGraph(Shuffling().eval(), (4, 16, 16))
    assert graph.infos[-1].layout == "NCHW"
    assert graph.info("relu").layout == "other"


def test_windows_as_large_as_the_map_keep_the_meaning_of_axes():
    graph = ModelGraph(Shuffling().eval(), (4, 4, 4))
    assert graph.infos[-1].layout == "NCHW"


def test_outputs_without_a_row_a_sample_cannot_be_tapped():
    class Folding(nn.Module):
        def forward(self, x):
            folded = x.flatten(0, 1)
            return folded.sum() + x

    graph = ModelGraph(Folding().eval(), (3, 4, 4))
    assert [info.name for info in graph.infos] == ["add"]


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "regnet_y_400mf"])
def test_blocks_of_other_cnns_are_maps(name, make):
    backbone = make(f"torchvision:{name}", taps={"blocks": ["gap"]})
    infos = backbone.tap_infos(backbone.tap_specs()).values()
    assert {info.layout for info in infos} == {"NCHW"} and len(infos) >= 3
