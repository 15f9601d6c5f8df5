"""A program written by torch.export: ``pt2:<file>``, for images of one size.

A program is data, but its file may hold pickles and expressions that run code when they are read: those are looked
for first, and refused.
"""

# N samples, C channels, H W height and width

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embedpipe.backbones.graph import block_names
from embedpipe.backbones.hooked import HookedModel, Layers
from embedpipe.backbones.hub import first_line
from embedpipe.backbones.observed import observe
from embedpipe.backbones.opening import Opened
from embedpipe.backbones.options import BackboneOptions
from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.errors import ConfigError, WeightsError

_EXPRESSION = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator,
    ast.unaryop, ast.Compare, ast.cmpop, ast.Tuple,
)  # fmt: skip
_NAME = re.compile(
    r"[A-Z][A-Za-z0-9]*|[a-z]{1,2}\d+|int_oo|oo|true|false"
)  # sympy's classes, sizes, infinity
_WORD = re.compile(r"\w*")
_NEEDED = ("crop_px", "mean", "std")
# entries below the archive's one folder; libraries of AOTInductor, custom and opaque objects are none of them
_JSON = re.compile(r"models/[\w.-]+\.json|data/(weights|constants)/\w+_config\.json")
_TENSORS = re.compile(r"data/sample_inputs/[\w.-]+\.pt")
_NO_GRAPH = re.compile(r"data/weights/weight_\d+|data/sample_inputs/.*|\.data/.*")
_RAW = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|extra/.+|archive_format|archive_version|byteorder|\.data/\w+"
)


def open_program(options: BackboneOptions, root: Path, where: str, *, with_weights: bool = True) -> Opened:
    """Open an exported program.

    Raises
    ------
    ConfigError
        If preprocess is not given, or the program takes no batch of such images.
    WeightsError
        If the file is absent, is no program, or could run code.
    """
    path = root / options.model_name
    given = options.preprocess.model_dump(exclude_none=True) if options.preprocess is not None else {}
    lacking = [key for key in _NEEDED if key not in given]
    if lacking:
        raise ConfigError(
            f"{where}.preprocess: a program does not say how images are prepared: give resize_px, crop_px, mean and "
            f"std; missing: {', '.join(lacking)}"
        )
    inputs = Preprocessing(
        given.get("resize_px", given["crop_px"]),
        given["crop_px"],
        tuple(given["mean"]),
        tuple(given["std"]),
        given.get("interpolation", "bilinear"),
    )
    module = _load(path, f"{where}.model")
    try:
        observed = observe(module, _call, torch.zeros((2, *inputs.input_shape)))
        with torch.no_grad():
            _call(module, torch.zeros((3, *inputs.input_shape)))  # nor was the number of rows fixed
    except Exception as error:
        size = "×".join(map(str, inputs.input_shape))
        raise ConfigError(
            f"{where}.model: {path} takes no batches of images of {size} ({first_line(error)}); export it with a "
            "dynamic batch dimension (torch.export.Dim), or correct preprocess"
        ) from error
    blocks = tuple(name for name in block_names(module) if name in observed.outputs)
    if not blocks:
        children = [name for name, _ in module.named_children() if name in observed.outputs]
        blocks = tuple(children) or tuple(list(observed.outputs)[-1:])
    layers = Layers({name: name for name in blocks}, blocks)
    graph = HookedModel(module, _call, observed, layers)
    name = f"pt2:{path.stem}:graph={graph_digest(path)[:12]}"
    return Opened(name, module, inputs, graph, origin={"source": f"pt2:{options.model_name}"})


def graph_digest(path: Path) -> str:
    """blake2b-128 of what a program's file says it computes, 32 hex digits.

    That is all but its weights, which have a digest of their own, examples, and marks of the archive.
    """
    state = hashlib.blake2b(digest_size=16)
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            kind = name.partition("/")[2]
            if not _NO_GRAPH.fullmatch(kind):
                state.update(kind.encode() + b"\0" + archive.read(name) + b"\0")
    return state.hexdigest()


def _call(model: nn.Module, x_NCHW: torch.Tensor) -> Any:
    return model(x_NCHW)


def _load(path: Path, where: str) -> nn.Module:
    if not path.is_file():
        raise WeightsError(f"{where}: expected a program of torch.export, found no such file: {path}")
    check_harmless(path, where)
    try:
        program = torch.export.load(path)
        module: nn.Module = torch.export.unflatten(program)
    except Exception as error:
        raise WeightsError(
            f"{where}: {path} could not be loaded by torch {torch.__version__} ({first_line(error)}); export it again "
            "with torch.export.save"
        ) from error
    module.requires_grad_(False)
    for (
        part
    ) in module.modules():  # exported programs refuse `eval`: what they do was fixed when they were written
        part.training = False
    return module


def check_harmless(path: Path, where: str) -> None:
    """Refuse a program whose file would run code when it is read.

    torch.export.load loads libraries, falls back to unpickling anything, and evaluates expressions of sizes: so every
    entry is of a kind that is known to be harmless, and is looked at here before it sees the file.

    Raises
    ------
    WeightsError
        Names the entry.
    """
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            # torch's own reader ignores case: of two entries of one name it might read the other
            if (
                len({one.lower() for one in names}) < len(names)
                or len({one.split("/")[0] for one in names}) > 1
            ):
                raise WeightsError(
                    f"{where}: {path}: expected one folder with each entry once, found another archive; export the "
                    "model again with torch.export.save"
                )
            for entry in entries:
                name = entry.filename
                kind = name.partition("/")[2]
                if _JSON.fullmatch(kind):
                    _check_json(json.loads(archive.read(entry)), path, name, where)
                elif _TENSORS.fullmatch(kind):
                    if data := archive.read(entry):
                        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
                elif not _RAW.fullmatch(kind):
                    raise WeightsError(
                        f"{where}: {path}: {name} is no part of a plain program and could run code; export the model "
                        "again with torch.export.save, without custom objects or compiled libraries"
                    )
    except WeightsError:
        raise
    except zipfile.BadZipFile as error:
        raise WeightsError(
            f"{where}: {path}: expected a program of torch.export, found another file"
        ) from error
    except Exception as error:
        raise WeightsError(
            f"{where}: {path}: {name} holds more than tensors and could run code ({first_line(error)}); export the "
            "model without custom objects"
        ) from error


def _check_json(value: Any, path: Path, name: str, where: str) -> None:
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack.extend(one)
        elif isinstance(one, dict):
            for key, inner in one.items():
                if key == "use_pickle" and inner is not False:
                    raise WeightsError(f"{where}: {path}: {name} has pickled tensors, which could run code")
                if key == "expr_str" and isinstance(inner, str) and not _is_a_size(inner):
                    raise WeightsError(
                        f"{where}: {path}: {name}: expected a size, found the expression {inner[:60]!r}"
                    )
                stack.append(inner)


def _is_a_size(expression: str) -> bool:
    """Whether an expression is sizes, numbers and operations of sympy alone: nothing that could run code."""
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except SyntaxError:
        return False
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    words = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return (
        all(isinstance(node, _EXPRESSION) for node in nodes)
        and all(_NAME.fullmatch(name) for name in names)
        and all(_WORD.fullmatch(word) for word in words)
    )
