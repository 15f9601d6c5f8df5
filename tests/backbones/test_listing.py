import pytest

from embedpipe.backbones import BackboneOptions
from embedpipe.backbones.listing import list_nodes
from embedpipe.errors import ConfigError


def listed(tmp_path, **raw):
    raw = {"weights": "DEFAULT", "taps": {"no_such_node": ["gap"]}} | raw
    return list_nodes("b", BackboneOptions(**raw), tmp_path, source_dir=tmp_path)


def test_nodes_are_listed_without_weights_and_with_a_wrong_tap(tmp_path):
    nodes = {node.name: node for node in listed(tmp_path, model="torchvision:resnet18")}
    last = nodes["layer4.1.relu_1"]
    assert (last.shape, last.layout, last.nbytes_float16) == ((512, 7, 7), "NCHW", 2 * 512 * 7 * 7)
    assert last.modules == ("layer4", "layer4.1") and last.is_block
    assert nodes["flatten"].layout == "ND" and nodes["flatten"].shape == (512,)


def test_nodes_are_those_of_torchvisions_documentation(tmp_path):
    import torchvision
    from torchvision.models.feature_extraction import get_graph_node_names

    _, expected = get_graph_node_names(torchvision.models.resnet18(weights=None))
    assert ["x", *(node.name for node in listed(tmp_path, model="torchvision:resnet18"))] == expected


def test_depth_rises_to_one_at_the_models_output(tmp_path):
    depths = [node.depth for node in listed(tmp_path, model="torchvision:mobilenet_v3_small")]
    assert depths == sorted(depths) and 0 < depths[0] < depths[-1] == 1.0


def test_shapes_follow_the_input_size_of_the_options(tmp_path):
    options = {"preprocess": {"resize_px": 64, "crop_px": 64}}
    nodes = {node.name: node.shape for node in listed(tmp_path, model="torchvision:swin_t", **options)}
    assert nodes["features.7.1.add_1"] == (2, 2, 768)


def test_an_unknown_model_is_an_error_here_too(tmp_path):
    with pytest.raises(ConfigError, match="torchvision has no model 'resnet17'"):
        listed(tmp_path, model="torchvision:resnet17")
