"""Image encoders of transformers and timm against what the libraries give themselves, and models of a user's own."""

import io
import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.errors import ConfigError, WeightsError


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("vision")
    for kind, name in (("vit", "vit"), ("dinov2_with_registers", "registers"), ("vit_mae", "mae")):
        tiny_models.make_vit(found / name, kind=kind)
    tiny_models.make_own(found)
    tiny_models.make_program(found / "net.pt2")
    return found


@pytest.fixture
def load(folder):
    def opened(model, taps=None, **options):
        checked = BackboneOptions(model=model, taps=taps or {"last": ["none"]}, **options)
        return load_backbone("b", checked, folder, source_dir=folder)

    return opened


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)) for _ in range(3)]


def features(backbone, images):
    x = torch.stack([backbone.pixels(image) for image in images])
    return {tap: value.numpy() for tap, value in backbone.forward(backbone.tap_specs())(x).items()}


def states(folder, images):
    """Hidden states of transformers' own model behind its own image processor, and its last hidden state."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        given = processor(images, return_tensors="pt")
        out = model(**given, output_hidden_states=True)
    return [state.numpy() for state in out.hidden_states], out.last_hidden_state.numpy()


@pytest.mark.parametrize(("name", "num_prefix"), [("vit", 1), ("registers", 4)])
def test_images_are_prepared_and_embedded_as_by_transformers(folder, load, pictures, name, num_prefix):
    expected, last = states(folder / name, pictures)
    backbone = load(
        f"transformers:{name}",
        {"hidden.0": ["none"], "hidden.1": ["none", "cls"], "last": ["none", "grid:2"]},
    )
    found = features(backbone, pictures)
    for layer in (0, 1):
        np.testing.assert_allclose(found[f"hidden.{layer}.none"], expected[layer], atol=2e-5)
    np.testing.assert_allclose(
        found["hidden.2.none"], last, atol=2e-5
    )  # behind the final norm, as the model says
    np.testing.assert_array_equal(found["hidden.1.cls"], found["hidden.1.none"][:, 0])
    patches = last[:, num_prefix:].reshape(3, 2, 2, 2, 2, -1).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found["hidden.2.grid2"], patches.reshape(3, -1), atol=2e-5)


def test_a_size_that_is_a_bare_number_is_of_both_sides_as_transformers_has_it(folder, load, pictures):
    target = folder / "older"
    shutil.copytree(folder / "vit", target)
    file = target / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": 32}))
    found = features(load("transformers:older"), pictures)["hidden.2.none"]
    np.testing.assert_allclose(found, states(target, pictures)[1], atol=2e-5)


def test_a_processor_whose_class_cannot_be_opened_is_refused_unless_params_say_all(folder, load):
    target = folder / "unknown"
    shutil.copytree(folder / "vit", target)
    file = target / "preprocessor_config.json"
    named = {"image_processor_type": "NoSuchImageProcessor", "auto_map": {}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **named}))
    with pytest.raises(
        ConfigError, match=r"unknown: expected an image processor .* found NoSuchImageProcessor: "
    ):
        load("transformers:unknown")
    said = {"resize_px": 32, "crop_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert load("transformers:unknown", preprocess=said).input_shape == (3, 32, 32)


def test_the_final_norm_is_passed_once_by_inner_layers_alone(folder, load, pictures):
    plain, normed = (
        features(load("transformers:vit", {"blocks": ["none"]}, norm=norm), pictures)
        for norm in ("none", "final")
    )
    norm = load("transformers:vit").module.layernorm
    with torch.no_grad():
        expected = norm(torch.from_numpy(plain["hidden.1.none"])).numpy()
    np.testing.assert_allclose(normed["hidden.1.none"], expected, atol=1e-5)
    np.testing.assert_array_equal(normed["hidden.2.none"], plain["hidden.2.none"])


def test_a_masked_autoencoder_sees_every_patch_in_its_order(load, pictures):
    backbone = load("transformers:mae", {"hidden.0": ["none"]})
    embeddings = backbone.module.embeddings
    found = features(backbone, pictures)["hidden.0.none"]
    x = torch.stack([backbone.preprocess(image) for image in pictures])
    with torch.no_grad():
        patches = embeddings.patch_embeddings(x) + embeddings.position_embeddings[:, 1:]
    np.testing.assert_allclose(found[:, 1:], patches.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "num_prefix"),
    [
        ("test_vit", 1),
        ("test_vit3", None),
        ("vit_tiny_patch16_224", 1),
        ("deit_tiny_distilled_patch16_224", 2),
    ],
)
def test_tokens_before_the_patches_are_asked_of_timms_model(load, name, num_prefix):
    backbone = load(
        f"timm:{name}", {"blocks": ["gap"]}, weights="random:0", preprocess={"resize_px": 64, "crop_px": 64}
    )
    expected = backbone.module.num_prefix_tokens
    assert num_prefix in (None, expected)
    assert {info.num_prefix for info in backbone.tap_infos(backbone.tap_specs()).values()} == {expected}


def test_class_tokens_that_come_late_are_not_taken_for_patches(load):
    backbone = load(
        "timm:cait_xxs24_224",
        {"blocks.0": ["none"]},
        weights="random:0",
        preprocess={"resize_px": 32, "crop_px": 32},
    )
    (info,) = backbone.tap_infos(backbone.tap_specs()).values()
    assert backbone.module.num_prefix_tokens == 1 and info.num_prefix == 0 and info.shape[0] == 4


@pytest.mark.parametrize(
    ("name", "layout"),
    [("test_vit", "NTD"), ("test_convnext", "NCHW"), ("swin_tiny_patch4_window7_224", "NHWC")],
)
def test_timms_layouts_are_told_apart(load, name, layout):
    backbone = load(f"timm:{name}", {"last": ["gap", "grid:1"]}, weights="random:0")
    assert {info.layout for info in backbone.tap_infos(backbone.tap_specs()).values()} == {layout}


def test_timms_last_block_normed_is_forward_features(load, pictures):
    import timm

    backbone = load("timm:test_vit", {"last": ["none"]}, weights="random:0", norm="final")
    data = timm.data.resolve_model_data_config(backbone.module)
    transform = timm.data.create_transform(**data, is_training=False)
    x = torch.stack([transform(image) for image in pictures])
    assert torch.equal(x, torch.stack([backbone.preprocess(image) for image in pictures]))
    with torch.no_grad():
        expected = backbone.module.forward_features(x).numpy()
    (found,) = features(backbone, pictures).values()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_folder_that_timm_has_written_needs_nothing_else(load, folder, pictures):
    import timm
    from safetensors.torch import save_file

    model = timm.create_model("test_vit", num_classes=3).eval()
    target = folder / "saved_timm"
    target.mkdir()
    save_file(model.state_dict(), target / "model.safetensors")
    told = {
        "architecture": "test_vit",
        "num_classes": 3,
        "pretrained_cfg": {"mean": [0.1] * 3, "license": "mit"},
    }
    (target / "config.json").write_text(json.dumps(told))
    backbone = load("timm:saved_timm", {"last": ["cls"]})
    assert (
        backbone.origin == {"source": "saved_timm", "licence": "mit"}
        and '"mean":[0.1,0.1,0.1]' in backbone.preprocessing
    )
    x = torch.stack([backbone.preprocess(image) for image in pictures])
    with torch.no_grad():
        tokens = model.blocks(model.norm_pre(model._pos_embed(model.patch_embed(x))))
    np.testing.assert_allclose(features(backbone, pictures)["blocks.5.cls"], tokens[:, 0].numpy(), atol=1e-5)


OWN = "python:own_models"
IMAGES = {"preprocess": {"crop_px": 16, "mean": [0.0] * 3, "std": [1.0] * 3}}
GREY = {"preprocess": {"crop_px": 16, "mean": [0.0], "std": [1.0]}}
NORMED = {"weights": "random:0", "norm": "final"}
MISTAKES = [
    ("timm:vit_tinny_patch16_224", {}, r"timm .* has no model 'vit_tinny_patch16_224' \(did you mean"),
    ("timm:test_vit", {}, r"timm/test_vit\.r160_in1k on the hub needs revision"),
    ("timm:resnet18", NORMED, r"has no norm behind its last block"),
    (
        "timm:swin_tiny_patch4_window7_224",
        {**NORMED, "taps": {"blocks": ["gap"]}},
        r"takes 768 features, layers\.0 has 96",
    ),
    (f"{OWN}:number", {}, r"expected an nn\.Module with the methods preprocess\(sample\)"),
    (f"{OWN}:half", {}, r"found Linear without preprocess and describe"),
    (f"{OWN}:fails", {}, r"failed with RuntimeError: out of cheese"),
    (f"{OWN}:absent", {}, r"expected a function absent in own_models, found none; it has"),
    ("python:no_such_module:f", {}, r"expected a module no_such_module beside params\.yaml or inst"),
    (f"{OWN}:colours", {"arguments": {"widht": 3}}, r"unexpected keyword argument 'widht'"),
    ("pt2:net.pt2", {}, r"give resize_px, crop_px, mean and std; missing: crop_px, mean, std"),
    ("pt2:absent.pt2", IMAGES, r"expected a program of torch\.export, found no such file"),
    ("pt2:net.pt2", GREY, r"takes no batches of images of 1×16×16"),
]


@pytest.mark.parametrize(("model", "options", "message"), MISTAKES)
def test_a_mistake_is_one_sentence(load, model, options, message):
    with pytest.raises((ConfigError, WeightsError), match=message) as caught:
        load(model, **options)
    assert str(caught.value).startswith("params.yaml: backbones.b") and "\n" not in str(caught.value)


def test_a_program_of_a_fixed_batch_says_how_to_export_it(load, folder):
    tiny_models.make_program(folder / "fixed.pt2", dynamic=False)
    given = {"preprocess": {"crop_px": 16, "mean": [0.0] * 3, "std": [1.0] * 3}}
    with pytest.raises(ConfigError, match=r"export it with a dynamic batch dimension"):
        load("pt2:fixed.pt2", **given)


class Evil:
    def __reduce__(self):
        return print, ("it ran",)


@pytest.mark.parametrize(
    "how", ["pickle", "old pickle", "flag", "number", "expression", "library", "object", "twice"]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_program_that_could_run_code_is_refused(load, folder, how, capsys):
    evil = folder / f"evil_{how}.pt2"
    with zipfile.ZipFile(folder / "net.pt2") as source, zipfile.ZipFile(evil, "w") as out:
        for name in source.namelist():
            data = source.read(name)
            if how == "expression" and name.endswith("model.json"):
                data = data.replace(b"Symbol('s", b"__import__('os').system('echo it ran') or Symbol('s")
            if how in ("flag", "number") and name.endswith("weights_config.json"):
                flag = b"true" if how == "flag" else b"1"
                data = data.replace(b'"use_pickle": false', b'"use_pickle": ' + flag)
            if how == "old pickle" and name.endswith("sample_inputs/model.pt"):
                data = b"cbuiltins\nprint\n(S'it ran'\ntR."  # of protocol 0, which begins with no byte of its own
            out.writestr(name, data)
        if how == "library":
            out.writestr("net/data/aotinductor/model/model.so", b"\x7fELF")
        if how == "object":
            out.writestr("net/data/constants/opaque_obj_0", b"cbuiltins\nprint\n(S'it ran'\ntR.")
        if how == "twice":
            out.writestr("net/data/sample_inputs/MODEL.pt", b"")
        if how == "pickle":
            held = io.BytesIO()
            pickle.dump(Evil(), held)
            out.writestr("net/data/sample_inputs/other.pt", held.getvalue())
    given = {"preprocess": {"crop_px": 16, "mean": [0.0] * 3, "std": [1.0] * 3}}
    with pytest.raises(
        WeightsError, match=r"could run code|expected a size, found the expression|each entry once"
    ):
        load(f"pt2:{evil.name}", **given)
    assert "it ran" not in capsys.readouterr().out


def test_a_model_with_two_towers_asks_which(folder, load, pictures):
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={
            **small,
            "vocab_size": 60,
            "max_position_embeddings": 16,
            "eos_token_id": 3,
            "bos_token_id": 2,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    target = folder / "clip"
    transformers.CLIPModel(config).save_pretrained(target)
    tiny_models.make_tokenizer(target, 16)
    processor = (folder / "vit/preprocessor_config.json").read_text()
    (target / "preprocessor_config.json").write_text(processor)
    with pytest.raises(ConfigError, match=r"CLIPModel embeds texts and images; say which half with modality"):
        load("transformers:clip")
    images, texts = (load("transformers:clip", {"last": ["none"]}, modality=one) for one in ("image", "text"))
    assert images.modality == "image" and texts.modality == "text"
    assert images.architecture != texts.architecture and images.weights_digest != texts.weights_digest
    assert features(images, pictures)["hidden.2.none"].shape == (3, 17, 16)
