import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from embedpipe.errors import ConfigError, ShapeError
from embedpipe.reduce import get_reduction
from embedpipe.spec import TapSpec

MODELS = ["torchvision:resnet18", "torchvision:swin_t", "torchvision:mobilenet_v3_small", "glyphnet"]


def hooked(module, name, x):
    """Output of a module in the plain model, by a hook: the reference for a tap."""
    kept = []
    handle = module.get_submodule(name).register_forward_hook(lambda _, __, out: kept.append(out.clone()))
    with torch.inference_mode():
        module(x)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("model", MODELS)
def test_parameters_and_buffers_are_unchanged_after_forwards(model, make, batch):
    backbone = make(model, taps={"blocks": ["none"]})
    before = copy.deepcopy(backbone.module.state_dict())
    for precision in ("float32", "bfloat16"):
        backbone.forward(backbone.tap_specs(), precision=precision)(batch(backbone))
    after = backbone.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(part.training for part in backbone.module.modules())
    assert not any(value.requires_grad for value in backbone.module.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_every_tap_equals_a_hook_on_the_plain_model(model, make, batch):
    backbone = make(model, taps={"blocks": ["none"]})
    x = batch(backbone)
    found = backbone.forward(backbone.tap_specs())(x)
    for spec, info in zip(
        backbone.tap_specs(), backbone.tap_infos(backbone.tap_specs()).values(), strict=True
    ):
        expected = hooked(backbone.module, spec.node, x)
        expected = expected.permute(0, 3, 1, 2) if info.layout == "NHWC" else expected
        torch.testing.assert_close(found[spec.name], expected, rtol=1e-4, atol=1e-5)
        assert found[spec.name].dtype == torch.float32


def test_an_in_place_relu_behind_a_tap_does_not_reach_it(make, batch):
    backbone = make(taps={"layer1.0.bn1": ["none", "flatten"], "layer1.0.relu": ["none"]})
    x = batch(backbone)
    found = backbone.forward(backbone.tap_specs())(x)
    expected = hooked(backbone.module, "layer1.0.bn1", x)
    torch.testing.assert_close(found["layer1.0.bn1.none"], expected, rtol=1e-4, atol=1e-5)
    assert float(found["layer1.0.bn1.flatten"].min()) < 0 <= float(found["layer1.0.relu.none"].min())


def test_nothing_behind_the_deepest_tap_is_computed(make, batch):
    backbone = make(taps={"layer2": ["gap"], "layer1": ["gap"]})
    ran = []
    for name, part in backbone.module.named_modules():
        if not list(part.children()):
            part.register_forward_hook(lambda *_, name=name: ran.append(name))
    backbone.forward(backbone.tap_specs())(batch(backbone))
    assert "layer2.1.conv2" in ran
    assert not [name for name in ran if name.startswith(("layer3", "layer4", "avgpool", "fc"))]


def test_features_do_not_depend_on_which_other_taps_are_asked_for(make, batch):
    backbone = make(taps={"layer1": ["gap"], "layer3": ["gap", "grid:2"]})
    x, specs = batch(backbone), backbone.tap_specs()
    together = backbone.forward(specs)(x)
    for spec in specs:
        assert torch.equal(backbone.forward([spec])(x)[spec.name], together[spec.name])


@pytest.mark.parametrize("model", MODELS)
def test_tap_shapes_are_those_of_the_features(model, make, batch):
    backbone = make(model, taps={"blocks": ["gap", "mean_std", "none"], "last": ["grid:2", "gem"]})
    found = backbone.forward(backbone.tap_specs())(batch(backbone))
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == backbone.tap_shapes()


def test_forward_says_which_input_it_expects(make):
    backbone = make()
    with pytest.raises(ShapeError, match=r"b: expected input \(N, 3, 64, 64\), found \(2, 3, 32, 32\)"):
        backbone.forward(backbone.tap_specs())(torch.zeros(2, 3, 32, 32))


def test_lower_precision_stays_near_and_is_reduced_in_float32(make, batch):
    backbone = make("glyphnet", taps={"blocks": ["gap"]})
    x = batch(backbone, 16)
    full, half = (backbone.forward(backbone.tap_specs(), precision=p)(x) for p in ("float32", "bfloat16"))
    for name in full:
        assert half[name].dtype == torch.float32
        error = torch.linalg.norm(half[name] - full[name]) / torch.linalg.norm(full[name])
        assert 0 < float(error) < 0.03


def test_selectors_stand_for_the_main_stages(make):
    resnet = make(taps={"blocks": ["gap"], "last": ["grid:2", "gap"]})
    assert [spec.name for spec in resnet.tap_specs()] == [
        "layer1.gap", "layer2.gap", "layer3.gap", "layer4.gap", "layer4.grid2",
    ]  # fmt: skip
    assert resnet.tap_specs("float32")[0] == TapSpec("layer1", "gap", "float32")
    swin = make("torchvision:swin_t", taps={"every:3": ["gap"]})
    assert [spec.node for spec in swin.tap_specs()] == ["features.1", "features.4", "features.7"]
    assert make("glyphnet").blocks == ("block1", "block2", "block3", "block4")


def test_taps_come_in_order_of_depth_whatever_the_order_written(make):
    backbone = make(taps={"layer3": ["gap"], "layer1": ["gap"]})
    assert [spec.node for spec in backbone.tap_specs()] == ["layer1", "layer3"]


def test_a_module_name_stands_for_its_output_node(make, batch):
    backbone = make(taps={"layer1": ["none"], "layer1.1.relu_1": ["none"]})
    first, second = backbone.forward(backbone.tap_specs())(batch(backbone)).values()
    assert torch.equal(first, second)


def test_an_unknown_node_is_answered_with_near_ones_and_all_problems_at_once(make):
    with pytest.raises(ConfigError) as caught:
        make(taps={"layer9": ["gap"], "layer4": ["cls"]})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(
        "params.yaml: backbones.b.taps: unknown node 'layer9'; near names: layer4, layer3"
    )
    assert "main stages: layer1, layer2, layer3, layer4" in lines[0]
    assert lines[1].startswith("params.yaml: backbones.b.taps.layer4: node layer4: cls: does not fit a map")


def test_a_reduction_that_does_not_fit_names_the_node_and_the_shape(make):
    with pytest.raises(ShapeError, match=r"node layer4: grid:3: finer than the map, which has 2×2 places"):
        make(taps={"layer4": ["grid:3"]})


def test_vit_knows_its_class_token_and_the_grid_of_its_patches(small_vit, make, batch):
    backbone = make(taps={"last": ["cls", "mean_tokens", "grid:2", "none"], "every:2": ["cls"]}, **small_vit)
    assert backbone.blocks == tuple(f"encoder.layers.encoder_layer_{i}" for i in range(4))
    last = backbone.blocks[-1]
    info = next(iter(backbone.tap_infos([TapSpec(last, "none")]).values()))
    assert (info.layout, info.shape, info.num_prefix) == ("NTD", (17, 12), 1)
    x = batch(backbone)
    tokens = hooked(backbone.module, last, x).double().numpy()
    found = backbone.forward(backbone.tap_specs())(x)
    np.testing.assert_allclose(found[f"{last}.cls"], tokens[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[f"{last}.mean_tokens"], tokens[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    cells = tokens[:, 1:].reshape(3, 2, 2, 2, 2, 12).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found[f"{last}.grid2"], cells.reshape(3, -1), rtol=1e-4, atol=1e-5)


def test_a_vit_is_built_for_the_size_of_its_images(make):
    backbone = make("torchvision:vit_b_32", preprocess={"crop_px": 64}, taps={"every:6": ["grid:2"]})
    assert set(backbone.tap_shapes().values()) == {(768 * 4,)}


def test_an_image_size_the_model_cannot_take_is_one_sentence(small_vit, make):
    with pytest.raises(ConfigError, match=r"takes no input of 3×24×24 \(.*32.*\); set preprocess.crop_px"):
        make(small_vit["model"], preprocess={"resize_px": 24, "crop_px": 24})


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone(make):
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first, again, other = (make("glyphnet", f"random:{seed}").weights_digest for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


def test_roles_and_architectures_name_what_a_backbone_is(make):
    pixels = make("pixels", None, {"pixels": ["flatten"]}, image_px=4)
    assert (pixels.role, pixels.architecture, pixels.input_shape) == ("pixels", "pixels", (1, 4, 4))
    random = make("glyphnet", width=6, image_px=16)
    assert (random.role, random.architecture) == ("random", "glyphnet:width=6,image_px=16")
    assert make().architecture == "torchvision:resnet18"


def test_pixels_are_the_image_itself(make):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    backbone = make("pixels", None, {"pixels": ["flatten"]})
    x = backbone.preprocess(Image.fromarray(image))[None]
    found = backbone.forward(backbone.tap_specs())(x)["pixels.flatten"]
    np.testing.assert_allclose(found[0], image.reshape(-1) / 255.0, rtol=1e-6)


def test_features_are_those_of_torchvisions_own_extractor(make, batch):
    from torchvision.models.feature_extraction import create_feature_extractor

    backbone = make(taps={"layer2": ["gap"], "layer3": ["none"]})
    extractor = create_feature_extractor(
        backbone.module, ["layer2", "layer3"], suppress_diff_warning=True
    ).eval()
    x = batch(backbone)
    with torch.inference_mode():
        reference = extractor(x)
    found = backbone.forward(backbone.tap_specs())(x)
    torch.testing.assert_close(found["layer3.none"], reference["layer3"], rtol=1e-4, atol=1e-5)
    expected = get_reduction("gap").apply(reference["layer2"], "NCHW")
    torch.testing.assert_close(found["layer2.gap"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_torchvision_model_has_blocks_that_can_be_pooled(name):
    from embedpipe.backbones import BackboneOptions
    from embedpipe.backbones.graph import ModelGraph
    from embedpipe.backbones.models import open_architecture

    options = BackboneOptions(model=f"torchvision:{name}", weights="random:0", taps={"last": ["gap"]})
    architecture = open_architecture(options, Path(), "here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.init, "trunc_normal_", lambda tensor, *args, **kwargs: tensor
        )  # seconds a model
        module = architecture.build().eval()
    graph = ModelGraph(module, architecture.base.input_shape)
    for block in graph.block_names:
        assert graph.info(block).layout in ("NCHW", "NHWC", "NTD")
    assert all(0 < info.depth <= 1 for info in graph.infos)
