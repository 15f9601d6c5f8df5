"""One self-contained artefact of a trained arm: a folder that needs neither the project nor any other weights.

=================== ==========================================================================================
model.safetensors   every tensor: backbone down to the deepest tap, head with its preprocessing folded in
card.json           what they are tensors of, preprocessing, classes, data, metrics, digests of the files
README.md           the same for people: the model card
model.pt2           the network as `torch.export` writes it, for any number of images or texts
model.onnx          the same for ONNX runtimes
tokenizer.B.json    of a backbone of texts: what makes token ids of them
=================== ==========================================================================================

Networks take uint8 pixels that were decoded, resized and cropped as the card says, or token ids, and give
probabilities. A model of torchvision or glyphnet is built again from its description and its tensors; any other is read
from model.pt2, and there is no model.safetensors. Nothing is pickled into what `load` reads.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from embedpipe.backbones.inputs import Inputs
from embedpipe.backbones.staging import PADDING
from embedpipe.backbones.tokens import read_token_inputs
from embedpipe.errors import ConfigError, WeightsError
from embedpipe.manifest.files import write_bytes
from embedpipe.params import did_you_mean
from embedpipe.serve.module import ArmModule, ArmSpec, BodySpec
from embedpipe.serve.program import Program, export, export_needed, on_device
from embedpipe.serve.program import read as read_program
from embedpipe.serve.program import save as save_program

FORMAT_VERSION = 1
TENSORS, CARD, README, PT2, ONNX = "model.safetensors", "card.json", "README.md", "model.pt2", "model.onnx"
FORMATS = ("safetensors", "pt2", "onnx")
ONNX_NEEDS = ("onnx", "onnxscript")
EXAMPLE = 2
"""Images or texts that a network is traced with: one would be taken for the only number there is."""
EXAMPLE_TOKENS = 12
"""Of such a text: another number than any that a model may have of something else."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read."""

    folder: Path
    card: dict[str, Any]
    spec: ArmSpec
    network: ArmModule | Program

    def module(self, device: torch.device) -> nn.Module:
        """The network, on a device."""
        if isinstance(self.network, ArmModule):
            return self.network.to(device)
        return on_device(self.network, device)

    def inputs(self) -> list[Inputs]:
        """What makes the network's inputs of decoded images or texts.

        Raises
        ------
        WeightsError
            If the file of a tokenizer is damaged.
        """
        return [self._inputs(body) for body in self.spec.bodies]

    def _inputs(self, body: BodySpec) -> Inputs:
        if body.tokens is None:
            return body.steps()
        data = _checked(self.folder, self.card, body.tokens["file"])
        return read_token_inputs(data.decode(), body.tokens["max_length"], body.tokens["prompt"])


def wanted_formats(asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """Formats to write, and notes on those left out; all that can be written where none is asked for.

    Raises
    ------
    ConfigError
        If a format is unknown, or ONNX is asked for and its packages are not installed.
    """
    for one in asked:
        if one not in FORMATS:
            raise ConfigError(
                f"--format: expected {', '.join(FORMATS)}, found {one!r}{did_you_mean(one, FORMATS)}"
            )
    missing = [name for name in ONNX_NEEDS if importlib.util.find_spec(name) is None]
    if missing and "onnx" in asked:
        raise ConfigError(
            f"--format onnx: expected {' and '.join(missing)} to be installed; pip install 'embedpipe[onnx]'"
        )
    formats = ["safetensors", *(one for one in FORMATS[1:] if one in (asked or FORMATS))]
    if missing and "onnx" in formats:
        formats.remove("onnx")
        return formats, ["model.onnx is left out: pip install 'embedpipe[onnx]' for it"]
    return formats, []


def formats_of_program(formats: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Formats of a network that is kept as a program.

    Raises
    ------
    ConfigError
        If tensors alone are asked for, of which it cannot be built again.
    """
    if "safetensors" in asked:
        raise ConfigError(
            "--format safetensors: expected pt2 or onnx, since a backbone of this arm cannot be built again from "
            "tensors and a description; model.pt2 holds its weights"
        )
    return ["pt2", *(one for one in formats if one == "onnx")]


def write_bundle(
    folder: Path,
    spec: ArmSpec,
    module: ArmModule,
    about: Mapping[str, Any],
    readme: str,
    formats: Sequence[str],
    beside: Mapping[str, str] | None = None,
    check: Callable[[Bundle], None] = lambda written: None,
) -> dict[str, Any]:
    """Write a bundle in place of what stands at `folder`, if that is a bundle or nothing.

    Parameters
    ----------
    beside
        Content of further files by name: tokenizers.
    check
        Given the bundle as it is read again; an error of it leaves what stood at `folder`.

    Returns
    -------
    dict
        The card.

    Raises
    ------
    ConfigError
        If something else stands there.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / CARD).is_file() or not any(folder.iterdir()))):
        raise ConfigError(
            f"{folder}: expected a bundle to replace, or nothing, found something else; name another folder"
        )
    scratch = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    if not spec.is_program:
        # a copy, since the weights are the backbone's own, which may lie channels last
        module = copy.deepcopy(module).cpu().to(memory_format=torch.contiguous_format)
        tensors = {name: one.contiguous() for name, one in sorted(module.state_dict().items())}
        (scratch / TENSORS).write_bytes(save_tensors(tensors))
    if {"pt2", "onnx"} & set(formats):
        program = exported(module, spec)
        if "pt2" in formats:
            save_program(program, scratch / PT2)
        if "onnx" in formats:
            _write_onnx(program, spec, scratch / ONNX)
    for name, text in (beside or {}).items():
        (scratch / name).write_text(text, encoding="utf-8")
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    card = {
        "format_version": FORMAT_VERSION,
        **about,
        "inputs": [_input(body) for body in spec.bodies],
        "module": spec.to_dict(),
        "files": {
            path.name: {"blake2b": _digest(path.read_bytes()), "nbytes": path.stat().st_size}
            for path in files
        },
    }
    (scratch / README).write_text(readme, encoding="utf-8")
    text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(scratch / CARD, text.encode())
    try:
        check(read_bundle(scratch))
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch.rename(folder)
    return card


def read_bundle(folder: Path) -> Bundle:
    """Read card and tensors, and build the module; or read the program.

    Raises
    ------
    WeightsError
        If `folder` holds no bundle, one of another version, or a damaged one.
    """
    card = _read_card(folder)
    if card["module"].get("is_program"):
        data = _checked(folder, card, PT2)
        return Bundle(
            folder, card, ArmSpec.from_dict(card["module"]), read_program(folder / PT2, data, str(folder))
        )
    data = _checked(folder, card, TENSORS)
    try:
        spec = ArmSpec.from_dict(card["module"])
        module = spec.build()
        module.load_state_dict(load_tensors(data))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{folder}: tensors and card are not of one model ({_first_line(error)}); bundle the arm again"
        ) from error
    return Bundle(folder, card, spec, module)


def _checked(folder: Path, card: Mapping[str, Any], name: str) -> bytes:
    """Content of a file that the card has the digest of."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{folder}: expected {name} beside {CARD}, found none; bundle the arm again"
        ) from error
    wanted = card["files"].get(name, {}).get("blake2b")
    if _digest(data) != wanted:
        raise WeightsError(
            f"{folder / name}: damaged: expected blake2b {wanted}, found {_digest(data)}; bundle the arm again"
        )
    return data


def exported(module: ArmModule, spec: ArmSpec) -> Program:
    """The network for any number of images or texts, as `torch.export` holds it.

    Raises
    ------
    ConfigError
        If torch cannot export a backbone.
    """
    rows = torch.export.Dim("samples", min=1)
    sizes = [
        {0: rows}
        if body.tokens is None
        else {0: rows, 1: torch.export.Dim(f"tokens_{place}", min=2, max=body.tokens["max_length"])}
        for place, body in enumerate(spec.bodies)
    ]
    if not spec.is_program:
        return export(module, _example(spec), sizes)
    try:
        return export_needed(module, _example(spec), sizes)
    except Exception as error:  # a model's own code may do what no program can hold
        names = ", ".join(body.name for body in spec.bodies)
        raise ConfigError(
            f"torch.export cannot write {names} ({_first_line(error)}); `embedpipe predict` answers for the arm"
        ) from error


def _write_onnx(program: Program, spec: ArmSpec, path: Path) -> None:
    names = input_names(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program,
            input_names=names,
            output_names=["value" if spec.head["kind"] == "number" else "probabilities"],
            dynamo=True,
            verbose=False,
        )
    assert written is not None
    written.save(path)


def input_names(spec: ArmSpec) -> list[str]:
    """Names of the network's inputs."""
    kinds = ["pixels" if body.tokens is None else "tokens" for body in spec.bodies]
    return kinds if len(kinds) == 1 else [f"{kind}_{place}" for place, kind in enumerate(kinds)]


def _example(spec: ArmSpec) -> tuple[torch.Tensor, ...]:
    return tuple(_pixels(body) if body.tokens is None else _ids(body.tokens) for body in spec.bodies)


def _pixels(body: BodySpec) -> torch.Tensor:
    shape = (EXAMPLE, *body.steps().input_shape)
    return torch.arange(torch.Size(shape).numel()).remainder(256).to(torch.uint8).view(shape)


def _ids(tokens: Mapping[str, Any]) -> torch.Tensor:
    ids_NL = torch.zeros((EXAMPLE, min(EXAMPLE_TOKENS, tokens["max_length"])), dtype=torch.int32)
    ids_NL[:, -1] = PADDING
    return ids_NL


def _input(body: BodySpec) -> dict[str, Any]:
    if body.tokens is None:
        return {"dtype": "uint8", "shape": ["images", *body.steps().input_shape]}
    return {"dtype": "int32", "shape": ["texts", "tokens"], "padding": PADDING}


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"{folder}: expected the folder of a bundle, found no {CARD} in it; write one with `embedpipe bundle`"
        ) from error
    except ValueError as error:
        raise WeightsError(
            f"{folder / CARD}: damaged: not valid JSON ({error}); bundle the arm again"
        ) from error
    if not isinstance(card, dict) or not {"format_version", "module", "files"} <= card.keys():
        raise WeightsError(f"{folder / CARD}: not the card of a bundle; write one with `embedpipe bundle`")
    if card["format_version"] != FORMAT_VERSION:
        raise WeightsError(
            f"{folder}: expected bundle format {FORMAT_VERSION}, found {card['format_version']}; bundle the arm again"
        )
    return card


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__
