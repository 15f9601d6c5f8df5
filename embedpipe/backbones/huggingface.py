"""Encoders of the transformers library, for texts and images, from a folder or the hub.

Its layers' outputs are the nodes ``hidden.0`` … ``hidden.N``: the numbering of transformers' own `hidden_states`.
Code that comes with a model is run only where params.yaml says so.
"""

# N samples, C channels, H W height and width, L tokens of a text with its padding, T tokens of an image

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embedpipe.backbones.hooked import BEFORE, HookedModel, Layers, mask_of
from embedpipe.backbones.hub import Found, find_folder, first_line, missing_extra, weight_files
from embedpipe.backbones.inputs import Inputs
from embedpipe.backbones.models import build_seeded
from embedpipe.backbones.observed import Call, Observed, observe, observe_images
from embedpipe.backbones.opening import Opened, freeze
from embedpipe.backbones.options import BackboneOptions
from embedpipe.backbones.positions import PositionLookups
from embedpipe.backbones.processors import steps_of_folder
from embedpipe.backbones.staging import PADDING
from embedpipe.backbones.tokens import FastEncoder, SlowEncoder, TokenInputs
from embedpipe.backbones.weights import load_into, read_state_dict
from embedpipe.errors import ConfigError, WeightsError
from embedpipe.spec import digest

_VOLATILE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "auto_map")
_TOWERS = {"text": ("text_model", "language_model"), "image": ("vision_model", "vision_tower")}
_NUM_TRIED = 9  # tokens of the texts that a model is observed with: no usual width or number of heads


def open_transformers(
    options: BackboneOptions, root: Path, where: str, *, with_weights: bool = True
) -> Opened:
    """Open an encoder with its tokenizer or image processor.

    Raises
    ------
    ConfigError
        If it is no encoder of texts or images, needs code of its own that is not allowed, or lacks its files.
    WeightsError
        If its weights cannot be fetched, are in a format that can run code, or do not fit.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise missing_extra(where, "text", "transformers") from error
    own_weights = options.weights is None and with_weights
    found = find_folder(options, root, where, weights=own_weights)
    code = _own_code(found, options, where)
    with _quietly():
        config, raw = _config(found, options, where)
        whole, missing = _model(transformers.AutoModel, config, found, options, root, where, own_weights)
        part, prefix = _part(whole, options, where)
        if prefix:
            missing = frozenset(
                key.removeprefix(f"{prefix}.") for key in missing if key.startswith(f"{prefix}.")
            )
        freeze(part)
        kind = str(getattr(part, "main_input_name", ""))
        if kind == "input_ids":
            opened = _text(part, found, options, where)
        elif kind == "pixel_values":
            opened = _image(part, found, options, where)
        else:
            raise ConfigError(
                f"{where}.model: expected an encoder of texts or images, found {type(part).__name__}, which takes "
                f"{kind or 'something else'}"
            )
    inputs, graph = opened
    described = {key: value for key, value in raw.items() if key not in _VOLATILE}
    identity = digest({**described, **code})[:12]
    name = type(whole).__name__ + (f".{prefix}" if prefix else "")
    return Opened(
        f"transformers:{name}:config={identity}", part, inputs, graph, missing, found.origin(), has_norm=True
    )


def _own_code(found: Found, options: BackboneOptions, where: str) -> dict[str, str]:
    """Digests of the Python files that are run, by name: they name the store as the configuration does."""
    if not options.trust_remote_code:
        return {}
    told = [found.optional(file).get("auto_map") for file in ("config.json", "tokenizer_config.json")]
    for name in re.findall(r"[\w./-]+--[\w.-]+", json.dumps(told)):
        raise ConfigError(
            f"{where}: {found.name}: expected code that lies beside the weights, found {name}, of another repository "
            "whose commit is not fixed; fetch it into a folder of yours and name that"
        )
    if not any(told):
        return {}
    files = sorted(found.folder.glob("*.py"))
    return {path.name: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in files}


def _config(found: Found, options: BackboneOptions, where: str) -> tuple[Any, dict[str, Any]]:
    import transformers

    raw = found.config(where)
    if "auto_map" in raw and not options.trust_remote_code:
        known = raw.get("model_type") in transformers.CONFIG_MAPPING
        if not known:
            raise ConfigError(
                f"{where}: {found.name} comes with Python code of its own, which is not run; read it, then set "
                "trust_remote_code: true"
            )
    try:
        config = transformers.AutoConfig.from_pretrained(
            found.folder, trust_remote_code=options.trust_remote_code
        )
    except Exception as error:  # files that are no configuration fail in any way
        raise ConfigError(
            f"{where}: {found.folder / 'config.json'}: expected a configuration that transformers "
            f"{transformers.__version__} knows, found: {first_line(error)}"
        ) from error
    for one in (config, getattr(config, "text_config", None)):
        if one is not None and hasattr(one, "use_cache"):
            one.use_cache = False
    if hasattr(config, "mask_ratio"):  # masked autoencoders see the whole image
        config.mask_ratio = 0.0
    return config, raw


def _model(
    auto: Any, config: Any, found: Found, options: BackboneOptions, root: Path, where: str, own_weights: bool
) -> tuple[nn.Module, frozenset[str]]:
    """The model, and the tensors that hold no loaded weights."""
    trust = options.trust_remote_code

    def build() -> nn.Module:
        model: nn.Module = auto.from_config(config, trust_remote_code=trust, dtype=torch.float32)
        return model

    if not own_weights:
        weights = options.weights or "random:0"
        if weights.startswith("random:"):
            return build_seeded(build, int(weights.removeprefix("random:"))), frozenset()
        if options.weights_path is None:
            raise ConfigError(
                f"{where}.weights: expected random:<seed>, a .safetensors or .pth path, or nothing for the model's "
                f"own, found {weights!r}"
            )
        path = root / options.weights_path
        module = build_seeded(build, 0)
        return module, load_into(
            module, read_state_dict(path, f"{where}.weights"), f"{where}.weights: {path}", "it"
        )
    files = weight_files(found, where)
    info: dict[str, Any] = {}

    def load() -> nn.Module:
        model: nn.Module
        model, told = auto.from_pretrained(
            found.folder,
            config=config,
            trust_remote_code=trust,
            dtype=torch.float32,
            use_safetensors=files[0].suffix == ".safetensors",
            weights_only=True,
            output_loading_info=True,
            local_files_only=True,
        )
        info.update(told)
        return model

    try:
        module = build_seeded(load, 0)  # parts that the files lack are drawn at random, and never read
    except Exception as error:
        raise WeightsError(
            f"{where}: {found.folder}: its weights could not be loaded ({first_line(error)}); expected tensors alone, "
            "in safetensors or a pickle without code, that fit config.json"
        ) from error
    mismatched = [str(one[0] if isinstance(one, tuple) else one) for one in info.get("mismatched_keys", ())]
    return module, frozenset([*info.get("missing_keys", ()), *mismatched])


def _part(whole: nn.Module, options: BackboneOptions, where: str) -> tuple[nn.Module, str]:
    """The encoder that is meant, and its path in the whole model."""
    config = whole.config
    if getattr(config, "is_encoder_decoder", False):
        encoder = whole.get_encoder()  # type: ignore[operator]
        path = next(path for path, module in whole.named_modules() if module is encoder)
        return encoder, path
    towers = {
        modality: next((name for name in names if isinstance(getattr(whole, name, None), nn.Module)), None)
        for modality, names in _TOWERS.items()
    }
    if towers["text"] and towers["image"]:
        if options.modality is None:
            raise ConfigError(
                f"{where}: {type(whole).__name__} embeds texts and images; say which half with modality: text or image"
            )
        name = towers[options.modality]
        assert name is not None
        return whole.get_submodule(name), name
    kind = {"input_ids": "text", "pixel_values": "image"}.get(str(getattr(whole, "main_input_name", "")))
    if options.modality is not None and kind not in (None, options.modality):
        raise ConfigError(
            f"{where}.modality: expected {kind}, as {type(whole).__name__} takes, found {options.modality}"
        )
    return whole, ""


def _text(
    module: nn.Module, found: Found, options: BackboneOptions, where: str
) -> tuple[Inputs, HookedModel]:
    tokenizer = _tokenizer(found, options, where)
    fast = getattr(tokenizer, "backend_tokenizer", None)
    encoder = SlowEncoder(tokenizer) if fast is None else FastEncoder(fast)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    room = module.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if len(tokenizer) > room:
        raise ConfigError(
            f"{where}: the tokenizer has {len(tokenizer):,} tokens, the model {room:,}; they do not belong together"
        )

    def call(model: nn.Module, ids_NL: torch.Tensor) -> Any:
        mask_NL = mask_of(ids_NL)
        own_NL = torch.where(ids_NL == PADDING, pad_id, ids_NL).long()
        return model(input_ids=own_NL, attention_mask=mask_NL.long())

    length = min(_NUM_TRIED, getattr(module.config, "max_position_embeddings", None) or _NUM_TRIED)
    lookups = PositionLookups(length - 1)
    with lookups:
        observed = observe(module, call, _some_ids(length))
    max_length = _max_length(module, call, lookups.places, tokenizer, found, options, where)
    inputs = TokenInputs(encoder, max_length, prompt=options.prompt)
    first = encoder.windows("a", max_length, 0)[0][:1]
    has_class = tokenizer.cls_token_id is not None and first == [tokenizer.cls_token_id]
    layers = _layers(module, observed, options, where, first_is_class=has_class)
    return inputs, HookedModel(module, call, observed, layers, longest=max_length, length=length)


def _some_ids(length: int) -> torch.Tensor:
    """Two texts, int32 (2, L), with a padded place."""
    ids_NL = torch.zeros((2, length), dtype=torch.int32)
    ids_NL[:, -1] = PADDING if length > 1 else 0
    return ids_NL


def _tokenizer(found: Found, options: BackboneOptions, where: str) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(
            found.folder, trust_remote_code=options.trust_remote_code, local_files_only=True
        )
    except Exception as error:
        raise ConfigError(
            f"{where}: {found.folder}: expected the files of a tokenizer (tokenizer.json) beside the weights, found "
            f"none that can be read ({first_line(error)})"
        ) from error


def _max_length(
    module: nn.Module,
    call: Call,
    places: int | None,
    tokenizer: Any,
    found: Found,
    options: BackboneOptions,
    where: str,
) -> int:
    """Tokens of the longest text: what is asked for, else what the files say; never more than there are places.

    Parameters
    ----------
    places
        Rows of the table in which the model looks places up, where it has one.
    """
    configured: int | None = getattr(module.config, "max_position_embeddings", None)
    asked = options.max_length
    if asked is not None:
        if places is not None and asked > places:
            raise ConfigError(
                f"{where}.max_length: expected at most {places}, the places that the model knows, found {asked}"
            )
        if places is None and configured is not None and asked > configured:  # it may compute more, or not
            try:
                with torch.no_grad():
                    call(module, _some_ids(asked))
            except Exception as error:
                raise ConfigError(
                    f"{where}.max_length: expected at most {configured}, as the model's configuration says, found "
                    f"{asked}, at which it fails ({first_line(error)})"
                ) from error
        return asked
    told = [
        found.optional("sentence_bert_config.json").get("max_seq_length"),
        tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else None,
        configured if places is None else places,
    ]
    known = [int(one) for one in told if one]
    if not known:
        raise ConfigError(f"{where}: the model's files name no longest text; set max_length")
    return min(known)


def _image(
    module: nn.Module, found: Found, options: BackboneOptions, where: str
) -> tuple[Inputs, HookedModel]:
    image_px = getattr(module.config, "image_size", None)
    base = steps_of_folder(found, options, image_px if isinstance(image_px, int) else None, where)
    inputs = base.override(options.preprocess, where)
    takes_noise = "noise" in inspect.signature(module.forward).parameters
    patch_px = getattr(module.config, "patch_size", None)

    def call(model: nn.Module, x_NCHW: torch.Tensor) -> Any:
        given: dict[str, Any] = {}
        if takes_noise and isinstance(
            patch_px, int
        ):  # masked autoencoders order patches by it: keep their order
            num = (x_NCHW.shape[2] // patch_px) * (x_NCHW.shape[3] // patch_px)
            given["noise"] = torch.arange(num, device=x_NCHW.device).repeat(x_NCHW.shape[0], 1) / num
        return model(pixel_values=x_NCHW, **given)

    observed = observe_images(module, call, inputs.input_shape, where)
    first_map = next(
        (
            seen.shape
            for path, seen in sorted(observed.outputs.items(), key=lambda one: one[1].order)
            if isinstance(module.get_submodule(path), nn.Conv2d)
        ),
        None,
    )
    patches = None if first_map is None else first_map[2] * first_map[3]
    layers = _layers(module, observed, options, where, num_patches=patches)
    return inputs, HookedModel(module, call, observed, layers)


def _layers(
    module: nn.Module,
    observed: Observed,
    options: BackboneOptions,
    where: str,
    *,
    num_patches: int | None = None,
    first_is_class: bool = False,
) -> Layers:
    """``hidden.0`` is what goes into the first layer, ``hidden.i`` what leaves layer i; the last is the model's own."""
    stack = _stack(module, observed)
    last = observed.result_path
    names: dict[str, str] = {}
    if stack:
        names["hidden.0"] = BEFORE + stack[0]
        names |= {f"hidden.{i}": path for i, path in enumerate(stack, start=1)}
    elif last is not None:
        names["hidden.last"] = last
    norm = observed.norm_behind(stack[-1]) if stack else None
    blocks = tuple(name for name in names if name != "hidden.0")
    normed: frozenset[str] = frozenset()
    if stack and norm is not None and last == norm:
        names[blocks[-1]] = norm
        normed = frozenset(blocks[-1:])
    if options.norm == "final" and norm is None:
        raise ConfigError(
            f"{where}.norm: {type(module).__name__} has no norm behind its last layer; leave the key out"
        )
    return Layers(
        names,
        blocks,
        norm=norm if options.norm == "final" else None,
        normed=normed,
        num_patches=num_patches,
        first_is_class=first_is_class,
        modules=tuple(stack),
    )


def _stack(module: nn.Module, observed: Observed) -> list[str]:
    """Paths of the layers: the first list of modules that all ran once, one after the other."""
    wanted = getattr(module.config, "num_hidden_layers", None)
    stacks = []
    for path, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part):
            paths = [f"{path}.{i}" if path else str(i) for i in range(len(part))]
            orders = [observed.outputs[one].order for one in paths if one in observed.outputs]
            if len(orders) == len(paths) and orders == sorted(orders):
                stacks.append(paths)
    return next((one for one in stacks if len(one) == wanted), stacks[0] if stacks else [])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What transformers says while it loads is said here in words of our own, or not worth saying."""
    import transformers

    told = transformers.utils.logging
    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity(logging.CRITICAL)
    told.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()
