"""What params.yaml may not say, though each section alone is right."""

import json

import projects
import pytest

from embedpipe.config import load_params
from embedpipe.errors import ConfigError
from embedpipe.steps.sections import Sections
from embedpipe.workspace import find_workspace

LETTERS = {"domain": "source", "source": {"kind": "glyphs"}}


@pytest.fixture
def refused(tmp_path):
    """Change the small project's params and return what is said about them."""

    def refuse(change):
        params = projects.small_params()
        change(params)
        projects.write_params(tmp_path, params)
        with pytest.raises(ConfigError) as caught:
            load_params(tmp_path / "params.yaml")
        return str(caught.value)

    return refuse


def test_a_source_model_may_not_learn_from_what_heads_are_judged_on(refused):
    def change(params):
        params["source"] = {"own": {"model": "glyphnet", "on": "shapes", "labels": "label"}}

    assert refused(change) == (
        "params.yaml: source.own.on: expected a data set of domain source, found 'shapes' of domain target: a model "
        "trained on it has seen what heads are judged on; train it on other data, or set "
        "datasets.shapes.domain: source"
    )


def test_a_task_is_on_the_target_domain(refused):
    def change(params):
        params["datasets"]["letters"] = LETTERS
        params["tasks"]["letter"] = {"on": "letters", "labels": "letter"}

    assert refused(change) == (
        "params.yaml: tasks.letter.on: expected a data set of domain target, found 'letters' of domain source: no "
        "backbone embeds the source domain"
    )


def test_images_are_not_embedded_by_a_backbone_of_texts_nor_texts_by_one_of_images(refused):
    encoder = {"model": "transformers:encoder", "modality": "text", "taps": {"last": ["mean_tokens"]}}

    def with_text_backbone(params):
        params["backbones"]["words"] = encoder
        params["tasks"]["shape"]["backbones"] = ["net", "words"]

    assert refused(with_text_backbone).splitlines() == [
        "params.yaml: backbones.words: expected a data set of texts to embed, found shapes (image)",
        "params.yaml: tasks.shape.backbones: expected backbones that embed images, as shapes has, found 'words', which "
        "embeds texts",
    ]

    def with_texts(params):
        params["datasets"]["shapes"]["source"] = {"kind": "table", "path": "t.csv", "text": "body"}

    assert "backbones.net: expected a data set of images to embed, found shapes (text)" in refused(with_texts)

    def with_both(params):
        params["datasets"]["shapes"]["source"] = {
            "kind": "table",
            "path": "t.csv",
            "text": "body",
            "image": "file",
        }
        params["backbones"]["words"] = encoder
        params["tasks"]["shape"]["on"] = "shape"

    assert "modality" not in refused(with_both) and "to embed" not in refused(with_both)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("tasks.shape.heads", [], "tasks.shape.heads: expected at least one entry, found none"),
        ("tasks.shape.backbones", [], "tasks.shape.backbones: expected at least one entry, found none"),
        ("heads.ridge.taps", [], "heads.ridge.taps: expected at least one entry, found none"),
        ("heads.ridge.backbones", [], "heads.ridge.backbones: expected at least one entry, found none"),
        ("heads.ridge.taps", "block1*", "heads.ridge.taps: input should be a list; found 'block1*'"),
        ("heads.ridge.taps", [1], "heads.ridge.taps.0: input should be a valid string; found 1"),
        ("heads.ridge", 3, "heads.ridge: expected a mapping of hyperparameters, found 3"),
        ("compare.heads", [], "compare.heads: expected at least one entry, found none"),
        ("compare.k_shot", [True], "compare.k_shot.0: input should be a valid integer or 'all'; found True"),
        ("baselines", "pixels", "baselines: input should be a list; found 'pixels'"),
        ("seed", 2**32, "seed: input should be less than 4294967296; found 4294967296"),
        ("seed", -1, "seed: input should be greater than or equal to 0; found -1"),
        ("seed", True, "seed: input should be a valid integer; found True"),
    ],
)
def test_what_is_refused_is_said_as_the_user_wrote_it(refused, tmp_path, place, value, words):
    def change(params):
        *parents, last = place.split(".")
        section = params
        for key in parents:
            section = section[key]
        section[last] = value

    assert refused(change) == f"params.yaml: {words}"


def test_a_stage_refuses_a_seed_in_the_same_words(tmp_path):
    params = {**projects.small_params(), "seed": 2**32}
    projects.write_params(tmp_path, params)
    with pytest.raises(ConfigError, match="seed: input should be less than 4294967296; found"):
        Sections(find_workspace(tmp_path)).seed()


def test_info_says_what_extraction_would_refuse_here(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    params = projects.small_params()
    taps = {"blocks": ["gap"]}
    params["backbones"] |= {
        "lost": {"model": "glyphnet", "weights": "weights/a.pth", "taps": taps},
        "unknown": {"model": "torchvision:resnet19", "weights": "random:0", "taps": taps},
        "unnamed": {"model": "torchvision:resnet18", "weights": "IMAGENET", "taps": taps},
        "vague": {"model": "glyphnet", "weights": "DEFAULT", "taps": taps},
    }
    params["extract"]["device"] = "cuda"
    projects.write_params(tmp_path, params)
    code, out, _ = cli(tmp_path, "info")
    assert code == 2 and "is valid" not in out
    for piece in (
        f"backbones.lost.weights: expected a file of weights, found none at {tmp_path}/weights/a.pth",
        "backbones.unknown.model: torchvision has no model 'resnet19' (did you mean 'resnet1",
        "backbones.unnamed.weights: resnet18 has no weights 'IMAGENET' (did you mean 'IMAGENET1K_V1'?)",
        "backbones.vague.weights: expected random:<seed>, source:<S> or a .safetensors or .pth path",
        "extract.device: expected a CUDA device, found none",
    ):
        assert piece in out, out
    code, out, _ = cli(tmp_path, "info", "--json")
    assert code == 2 and len(json.loads(out)["problems"]) == 5
