"""One self-contained artefact of a trained arm: a folder that needs neither the project nor any other weights.

=================== ==========================================================================================
model.safetensors   every tensor: backbone down to the deepest tap, head with its preprocessing folded in
card.json           what they are tensors of, preprocessing, classes, data, metrics, digests of the files
README.md           the same for people: the model card
model.pt2           the network as `torch.export` writes it, for any number of images
model.onnx          the same for ONNX runtimes
=================== ==========================================================================================

Networks take uint8 pixels that were decoded, resized and cropped as the card says, and give probabilities. Nothing is
pickled into what `load` reads.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from embedpipe.errors import ConfigError, WeightsError
from embedpipe.manifest.files import write_bytes
from embedpipe.params import did_you_mean
from embedpipe.serve.module import ArmModule, ArmSpec

FORMAT_VERSION = 1
TENSORS, CARD, README, PT2, ONNX = "model.safetensors", "card.json", "README.md", "model.pt2", "model.onnx"
FORMATS = ("safetensors", "pt2", "onnx")
ONNX_NEEDS = ("onnx", "onnxscript")
EXAMPLE = 2
"""Images that a network is traced with: one would be taken for the only number there is."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read."""

    folder: Path
    card: dict[str, Any]
    spec: ArmSpec
    module: ArmModule


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


def write_bundle(
    folder: Path,
    spec: ArmSpec,
    module: ArmModule,
    about: Mapping[str, Any],
    readme: str,
    formats: Sequence[str],
) -> dict[str, Any]:
    """Write a bundle in place of what stands at `folder`, if that is a bundle or nothing.

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
    # a copy, since the weights are the backbone's own, which may lie channels last
    module = copy.deepcopy(module).cpu().to(memory_format=torch.contiguous_format)
    tensors = {name: one.contiguous() for name, one in sorted(module.state_dict().items())}
    (scratch / TENSORS).write_bytes(save_tensors(tensors))
    if "pt2" in formats:
        torch.export.save(exported(module, spec), scratch / PT2)
    if "onnx" in formats:
        _write_onnx(module, spec, scratch / ONNX)
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    card = {
        "format_version": FORMAT_VERSION,
        **about,
        "inputs": [_input(body.steps().input_shape) for body in spec.bodies],
        "module": spec.to_dict(),
        "files": {
            path.name: {"blake2b": _digest(path.read_bytes()), "nbytes": path.stat().st_size}
            for path in files
        },
    }
    (scratch / README).write_text(readme, encoding="utf-8")
    text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(scratch / CARD, text.encode())
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch.rename(folder)
    return card


def read_bundle(folder: Path) -> Bundle:
    """Read tensors and card, and build the module.

    Raises
    ------
    WeightsError
        If `folder` holds no bundle, one of another version, or a damaged one.
    """
    card = _read_card(folder)
    try:
        data = (folder / TENSORS).read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{folder}: expected {TENSORS} beside {CARD}, found none; bundle the arm again"
        ) from error
    wanted = card["files"].get(TENSORS, {}).get("blake2b")
    if _digest(data) != wanted:
        raise WeightsError(
            f"{folder / TENSORS}: damaged: expected blake2b {wanted}, found {_digest(data)}; bundle the arm again"
        )
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


def exported(module: ArmModule, spec: ArmSpec) -> torch.export.ExportedProgram:
    """The network for any number of images, as `torch.export` holds it."""
    images = torch.export.Dim("images", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own making, and none of the user's concern
        return torch.export.export(
            module, _example(spec), dynamic_shapes=(tuple({0: images} for _ in spec.bodies),)
        )


def _write_onnx(module: ArmModule, spec: ArmSpec, path: Path) -> None:
    names = input_names(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            exported(module, spec),
            input_names=names,
            output_names=["value" if spec.head["kind"] == "number" else "probabilities"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)


def input_names(spec: ArmSpec) -> list[str]:
    """Names of the network's inputs."""
    return ["pixels"] if len(spec.bodies) == 1 else [f"pixels_{place}" for place in range(len(spec.bodies))]


def _example(spec: ArmSpec) -> tuple[torch.Tensor, ...]:
    shapes = [(EXAMPLE, *body.steps().input_shape) for body in spec.bodies]
    return tuple(
        torch.arange(torch.Size(shape).numel()).remainder(256).to(torch.uint8).view(shape) for shape in shapes
    )


def _input(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"dtype": "uint8", "shape": ["images", *shape]}


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
