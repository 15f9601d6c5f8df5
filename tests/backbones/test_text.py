"""Text encoders against transformers' own outputs: hidden states, reductions behind the mask, cutting, windows."""

import json
import shutil

import numpy as np
import pytest
import tiny_models
import torch

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.backbones.tokens import SlowEncoder
from embedpipe.errors import ConfigError, ShapeError, UnreadableSample, WeightsError
from embedpipe.extract.probe import probe_features

TEXTS = ["the cat sat on the mat", "win a free prize now", "a", "see you later at home " * 5]


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return tiny_models.make_bert(tmp_path_factory.mktemp("text") / "bert")


@pytest.fixture
def open_bert(bert):
    def load(taps=None, **options):
        checked = BackboneOptions(
            model=f"transformers:{bert}", taps=taps or {"last": ["mean_tokens"]}, **options
        )
        return load_backbone("b", checked, bert.parent, source_dir=bert.parent)

    return load


def staged(backbone, texts):
    """All texts in one batch, padded to the longest length there is."""
    buffer = backbone.staging.buffer(len(texts))
    for row, text in zip(buffer, texts, strict=True):
        ids = backbone.inputs.stage(text)
        row[: len(ids)] = ids
    return buffer


def embed(backbone, texts):
    found = backbone.forward(backbone.tap_specs())(staged(backbone, texts))
    return {tap: value.numpy() for tap, value in found.items()}


def reference(folder, texts):
    """Hidden states (layers, N, L, D) and mask (N, L) as a user of transformers gets them."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    given = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    given.pop("token_type_ids", None)
    with torch.no_grad():
        out = model(**given, output_hidden_states=True)
    return np.stack([state.numpy() for state in out.hidden_states]), given["attention_mask"].numpy().astype(
        bool
    )


def test_every_hidden_state_is_that_of_transformers(bert, open_bert):
    states, mask = reference(bert, TEXTS)
    backbone = open_bert({"hidden.0": ["none"], "blocks": ["none"]})
    assert backbone.blocks == ("hidden.1", "hidden.2", "hidden.3")
    found = embed(backbone, TEXTS)
    for layer, state in enumerate(states):
        for row, (own, inside) in enumerate(zip(state, mask, strict=True)):
            values = found[f"hidden.{layer}.none"][row]
            np.testing.assert_allclose(values[: inside.sum()], own[inside], atol=2e-6)
            assert not values[inside.sum() :].any()  # lengths can be told from where zeros begin


def test_reductions_count_the_tokens_of_a_text_and_no_padding(bert, open_bert):
    states, mask = reference(bert, TEXTS)
    names = ["mean_tokens", "max_tokens", "cls", "last_token", "mean_std", "length"]
    found = embed(open_bert({"last": names}), TEXTS)
    for row, inside in enumerate(mask):
        own = states[-1][row][inside].astype(np.float64)
        expected = {
            "mean_tokens": own.mean(0), "max_tokens": own.max(0), "cls": own[0], "last_token": own[-1],
            "mean_std": np.concatenate([own.mean(0), own.std(0)]), "length": [len(own)],
        }  # fmt: skip
        for name in names:
            np.testing.assert_allclose(found[f"hidden.3.{name}"][row], expected[name], atol=3e-6)


def test_inner_modules_are_nodes_by_name(bert, open_bert):
    backbone = open_bert(
        {"encoder.layer.1": ["cls"], "hidden.2": ["cls"], "encoder.layer.0.intermediate": ["max_tokens"]}
    )
    found = embed(backbone, TEXTS)
    np.testing.assert_array_equal(found["encoder.layer.1.cls"], found["hidden.2.cls"])
    assert found["encoder.layer.0.intermediate.max_tokens"].shape == (4, 32)


def test_nothing_behind_the_deepest_tap_runs(open_bert):
    backbone = open_bert({"hidden.1": ["mean_tokens"]})
    backbone.module.encoder.layer[1].register_forward_pre_hook(lambda *_: pytest.fail("layer 1 was computed"))
    assert embed(backbone, TEXTS)["hidden.1.mean_tokens"].shape == (4, 16)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_has_the_same_bits_whatever_stands_beside_it(open_bert, precision):
    backbone = open_bert({"blocks": ["mean_tokens"]})
    forward = backbone.forward(backbone.tap_specs(), precision=precision)
    long = (
        "see you later at home " * 20
    )  # fills the whole length, so that a batch of them alone has no padding
    for text in (TEXTS[0], long):
        length = backbone.staging.padded(len(backbone.inputs.stage(text)))
        rows = []
        for others in ([], ["the"] * 3, [long] * 3 if text == long else ["a cat"] * 3):
            for place in (0, 3):
                buffer = backbone.staging.buffer(4, length)
                texts = [*others]
                texts.insert(place, text) if others else None
                for i, one in enumerate(texts or [None] * place + [text]):
                    if one is not None:
                        ids = backbone.inputs.stage(one)
                        buffer[i, : len(ids)] = ids
                rows.append(forward(buffer)["hidden.3.mean_tokens"][place].numpy())
        assert all(np.array_equal(rows[0], row) for row in rows[1:])


def test_compiled_blocks_give_the_same_features(open_bert, monkeypatch):
    real, compiled = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda part: compiled.append(1) or real(part, backend="eager"))
    backbone = open_bert({"blocks": ["mean_tokens"], "encoder.layer.2.attention": ["cls"]})
    x = staged(backbone, TEXTS)
    fast = backbone.forward(backbone.tap_specs(), compiled=True)(x)
    plain = backbone.forward(backbone.tap_specs())(x)
    assert len(compiled) == 2  # the third has a tap inside
    for tap, values in plain.items():
        torch.testing.assert_close(fast[tap], values, rtol=1e-4, atol=1e-5)


def test_prompt_dims_and_l2_are_done_and_named_in_the_spec(bert, open_bert):
    plain = embed(open_bert(), [f"free {text}" for text in TEXTS])["hidden.3.mean_tokens"]
    backbone = open_bert(prompt="free ", dims=6, l2=True)
    found = embed(backbone, TEXTS)["hidden.3.mean_tokens"]
    cut = plain[:, :6] / np.linalg.norm(plain[:, :6], axis=1, keepdims=True)
    np.testing.assert_allclose(found, cut, atol=1e-6)
    assert backbone.tap_shapes() == {"hidden.3.mean_tokens": (6,)}
    steps = json.loads(backbone.preprocessing)
    assert steps["prompt"] == "free " and steps["output"] == {"dims": 6, "l2": True, "norm": "none"}
    assert (
        steps["max_length"] == 48
        and len(steps["tokenizer"]) == 32
        and steps["batch_tolerance"]["float32"] == 1e-5
    )


def test_another_tokenizer_prompt_or_length_is_another_spec(bert, open_bert, tmp_path):
    def spec(folder=bert, **options):
        checked = BackboneOptions(model=f"transformers:{folder}", taps={"last": ["cls"]}, **options)
        return load_backbone("b", checked, tmp_path, source_dir=tmp_path).preprocessing

    other = tmp_path / "other"
    shutil.copytree(bert, other)
    assert spec(other) == spec()  # a folder may move
    content = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(content.replace('"##z"', '"##_"'))
    assert len({spec(), spec(other), spec(prompt="a "), spec(max_length=20), spec(l2=True)}) == 5


def test_texts_beyond_the_longest_are_cut_and_counted(open_bert):
    backbone = open_bert(max_length=8)
    inputs = backbone.inputs
    assert len(inputs.stage("the cat")) == 4 and inputs.cut.num == 0
    ids = inputs.stage("the cat sat on the mat at home")
    assert len(ids) == 8 and ids[-1] == 3 and inputs.cut.num == 1  # the last token is [SEP] all the same


def test_windows_hold_every_token_and_repeat_the_overlap(open_bert):
    inputs = open_bert().inputs.with_windows(8, 2, "rows")
    text = "the cat sat on the mat at home later see you now"
    windows = [inputs.stage(text, part).tolist() for part in range(inputs.num_windows(text))]
    content = [ids[1:-1] for ids in windows]
    whole = list(content[0])
    for one in content[1:]:
        assert one[:2] == whole[-2:]
        whole += one[2:]
    assert whole == open_bert().inputs.stage(text)[1:-1].tolist()
    assert all(len(ids) <= 8 for ids in windows) and inputs.num_windows("a") == 1 and inputs.cut.num == 0


def test_windows_that_leave_no_room_are_refused(open_bert):
    with pytest.raises(ConfigError, match=r"rows\.tokens: expected at most 48, as the model takes, found 99"):
        open_bert().inputs.with_windows(99, 2, "rows")
    with pytest.raises(
        ConfigError, match=r"rows\.overlap: expected less than the 6 tokens of text in a window, found 6"
    ):
        open_bert().inputs.with_windows(8, 6, "rows")


def test_weights_from_a_seed_a_pickle_of_tensors_and_a_file(bert, open_bert, tmp_path):
    def opened(folder, **options):
        checked = BackboneOptions(model=f"transformers:{folder}", taps={"last": ["cls"]}, **options)
        return load_backbone("b", checked, tmp_path, source_dir=tmp_path)

    own = opened(bert)
    assert opened(bert, weights="random:3").role == "random"
    assert opened(bert, weights="random:3").weights_digest == opened(bert, weights="random:3").weights_digest
    pickled = tiny_models.make_bert(tmp_path / "pickled", safe=False)
    assert opened(pickled).weights_digest == own.weights_digest
    file = bert / "model.safetensors"
    assert opened(bert, weights=str(file)).weights_digest == own.weights_digest


def test_weights_that_could_run_code_are_refused(bert, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("it ran",)

    folder = tmp_path / "evil"
    shutil.copytree(bert, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    options = BackboneOptions(model="transformers:evil", taps={"last": ["cls"]})
    with pytest.raises(
        WeightsError, match=r"expected weights as \.safetensors or pytorch_model\.bin, found none"
    ):
        load_backbone("b", options, tmp_path, source_dir=tmp_path)
    (folder / "tf_model.h5").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"found tf_model\.h5, which are not read"):
        load_backbone("b", options, tmp_path, source_dir=tmp_path)
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="expected tensors alone, in safetensors or a pickle without code"):
        load_backbone("b", options, tmp_path, source_dir=tmp_path)


@pytest.mark.slow
def test_a_tokenizer_written_in_python_is_the_same_wherever_it_lies(tmp_path):
    import transformers

    digests = set()
    for name in ("one", "two"):
        transformers.CanineTokenizer(model_max_length=64).save_pretrained(tmp_path / name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / name, local_files_only=True)
        digests.add(SlowEncoder(tokenizer).digest())
    assert len(digests) == 1
    assert [len(ids) for ids in SlowEncoder(tokenizer).windows("hello world", 8, 2)] == [8, 8, 5]


def test_code_that_comes_with_a_model_is_not_run(bert, tmp_path):
    folder = tmp_path / "coded"
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "coded", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('it ran')")
    options = BackboneOptions(model="transformers:coded", taps={"last": ["cls"]})
    with pytest.raises(
        ConfigError, match="comes with Python code of its own, which is not run; read it, then set trust"
    ):
        load_backbone("b", options, tmp_path, source_dir=tmp_path)


def test_code_that_is_run_names_the_store_and_comes_from_the_folder_alone(bert, tmp_path, monkeypatch):
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    found = []
    for name, bias in (("one", 0.0), ("two", 1.0), ("far", 0.0)):
        folder = tmp_path / name
        shutil.copytree(bert, folder)
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "other/place--mine.Mine" if name == "far" else "mine.Mine"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "mine.py").write_text(
            "from transformers import BertModel\n\n\nclass Mine(BertModel):\n    def forward(self, *args, **more):\n"
            f"        out = super().forward(*args, **more)\n        out[0].add_({bias})\n        return out\n"
        )
        options = BackboneOptions(
            model=f"transformers:{name}", taps={"last": ["cls"]}, trust_remote_code=True
        )
        if name == "far":
            with pytest.raises(ConfigError, match=r"found other/place--mine\.Mine, of another repository"):
                load_backbone("b", options, tmp_path, source_dir=tmp_path)
        else:
            found.append(load_backbone("b", options, tmp_path, source_dir=tmp_path))
    assert type(found[0].module).__name__ == "Mine"
    assert found[0].weights_digest == found[1].weights_digest
    assert found[0].architecture != found[1].architecture


def test_a_part_that_was_not_saved_cannot_be_tapped(bert, tmp_path):
    import safetensors.torch

    folder = tmp_path / "half"
    shutil.copytree(bert, folder)
    state = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {key: value for key, value in state.items() if not key.startswith("pooler")}
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    def opened(node):
        options = BackboneOptions(model="transformers:half", taps={node: ["none"]})
        return load_backbone("b", options, tmp_path, source_dir=tmp_path)

    assert opened("last").weights_digest == opened("hidden.1").weights_digest
    with pytest.raises(WeightsError, match=r"tap 'pooler' lies at or behind .*pooler\.dense\.bias"):
        opened("pooler")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "transformers:./absent"},
            r"model: expected a folder with a model, found none at .*absent",
        ),
        (
            {"model": "transformers:intfloat/e5-small-v2"},
            r"there is no folder intfloat/e5-small-v2 .* needs revision",
        ),
        (
            {"model": "transformers:e5"},
            r"'e5' is neither a folder beside params.yaml nor <owner>/<name> on the hub",
        ),
        ({"revision": "1a2b3c4"}, r"revision: .*bert is a folder, which has no commits"),
        (
            {"weights": "DEFAULT"},
            r"weights: expected random:<seed>, a \.safetensors or \.pth path, or nothing",
        ),
        ({"max_length": 99}, r"max_length: expected at most 48, the places that the model knows, found 99"),
        ({"norm": "final"}, r"norm: BertModel has no norm behind its last layer"),
        ({"dims": 17}, r"dims: expected at most 16, as hidden\.3\.mean_tokens has, found 17"),
        ({"modality": "image"}, r"modality: expected text, as BertModel takes, found image"),
        (
            {"l2": True, "taps": {"last": ["none"]}},
            r"l2: expected taps that are vectors, found hidden\.3\.none",
        ),
    ],
)
def test_a_mistake_is_one_sentence(bert, tmp_path, options, message):
    raw = {"model": f"transformers:{bert}", "taps": {"last": ["mean_tokens"]}} | options
    with pytest.raises(ConfigError, match=message) as caught:
        load_backbone("b", BackboneOptions(**raw), tmp_path, source_dir=tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("params.yaml: backbones.b")


SMALL = {"vocab_size": 60, "num_hidden_layers": 2, "num_attention_heads": 2}
PLACES = {  # of 48 tokens each, kept in tables of several names and offsets
    "roberta": ("Roberta", {**SMALL, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 50}),
    "gpt2": ("GPT2", {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}),
    "opt": (
        "OPT",
        {**SMALL, "hidden_size": 16, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 48},
    ),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": 60, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "sinusoidal_pos_embds": True,
            "max_position_embeddings": 48,
        },
    ),
}  # fmt: skip


def written(folder, name, config, longest=1000):
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, f"{name}Config")(**config)
    getattr(transformers, f"{name}Model")(made).save_pretrained(folder)
    tiny_models.make_tokenizer(folder, longest)
    return {"model": f"transformers:{folder.name}", "weights": None, "taps": {"last": ["mean_tokens"]}}


@pytest.mark.parametrize("kind", PLACES)
def test_texts_longer_than_the_places_of_a_model_are_refused_before_anything_runs(make, tmp_path, kind):
    options = written(tmp_path / kind, *PLACES[kind])
    with pytest.raises(ConfigError) as caught:
        make(**options, max_length=49)
    assert str(caught.value) == (
        "params.yaml: backbones.b.max_length: expected at most 48, the places that the model knows, found 49"
    )
    longest = make(**options).inputs.max_length  # the tokenizer's files say 1000
    backbone = make(**options, max_length=longest)
    ids = torch.ones((1, longest), dtype=torch.int32)
    assert (
        longest == 48
        and torch.isfinite(backbone.forward(backbone.tap_specs())(ids)["hidden.2.mean_tokens"]).all()
    )


def test_a_model_that_computes_places_takes_longer_texts_than_its_configuration_says(make, tmp_path):
    config = {**SMALL, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 48}
    options = written(tmp_path / "llama", "Llama", config)
    assert make(**options).inputs.max_length == 48
    assert make(**options, max_length=60).inputs.max_length == 60


def test_reductions_of_images_do_not_fit_texts(open_bert):
    with pytest.raises(
        ShapeError, match=r"grid:2: does not fit the tokens of a text, .*reductions that do: mean_std, cls"
    ):
        open_bert({"last": ["grid:2"]})


def test_a_hub_name_without_network_says_what_to_do(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    options = BackboneOptions(model="transformers:intfloat/e5", revision="1a2b3c4", taps={"last": ["cls"]})
    with pytest.raises(
        WeightsError, match=r"could not fetch intfloat/e5 at 1a2b3c4 .* run `embedpipe prefetch` where"
    ):
        load_backbone("b", options, tmp_path, source_dir=tmp_path)


def test_a_hub_model_is_fetched_once_with_nothing_that_is_not_needed(bert, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, *, revision, allow_patterns, ignore_patterns, local_files_only=False):
        asked.append((name, revision, local_files_only, allow_patterns))
        return str(bert)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    commit = "0123456789abcdef0123456789abcdef01234567"
    options = BackboneOptions(model="transformers:intfloat/e5", revision=commit, taps={"last": ["cls"]})
    backbone = load_backbone("b", options, tmp_path, source_dir=tmp_path)
    ((name, revision, local_only, patterns),) = asked
    assert (name, revision, local_only) == ("intfloat/e5", commit, True)
    assert (
        "*.safetensors*" in patterns and "*.py" not in patterns and not any("bin" in one for one in patterns)
    )
    assert backbone.origin["source"] == f"hub:intfloat/e5@{bert.name}"


def test_licence_and_origin_are_read_from_the_model_card(bert, tmp_path):
    folder = tmp_path / "carded"
    shutil.copytree(bert, folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    options = BackboneOptions(model="transformers:carded", taps={"last": ["cls"]})
    backbone = load_backbone("b", options, tmp_path, source_dir=tmp_path)
    assert backbone.origin == {"source": "carded", "licence": "apache-2.0"}


def test_an_image_given_to_a_text_backbone_is_unreadable_by_name(open_bert):
    with pytest.raises(UnreadableSample, match="expected a text, found int"):
        open_bert().inputs.stage(3)


def test_the_built_in_texts_come_out_in_their_order(open_bert):
    backbone = open_bert({"last": ["length"]})
    from embedpipe.extract.probe import probe_texts

    found = probe_features(backbone, backbone.forward(backbone.tap_specs()))["hidden.3.length"][:, 0]
    np.testing.assert_array_equal(found, [len(backbone.inputs.stage(text)) for text in probe_texts()])
