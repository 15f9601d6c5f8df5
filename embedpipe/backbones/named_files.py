"""Files that a backbone's options name: weights, a model's folder, a program, a module of the user's.

Imports no torch: what there is to watch is known without opening a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedpipe.backbones.code import code_files
from embedpipe.backbones.hub import PICKLED, SAFE, TEXTS, check_place, is_on_hub
from embedpipe.backbones.options import BackboneOptions
from embedpipe.errors import WeightsError


def named_files(options: BackboneOptions, root: Path, where: str) -> dict[str, Path]:
    """Every file that what a backbone computes may depend on, by the name that params.yaml gives it.

    Models built in or on a hub have none: their name, with a commit, says what they are. Of a model's folder it is the
    files that are read from such folders; of a module, its code (`code_files`) and the files that its arguments name.

    Raises
    ------
    ConfigError
        If there is no such folder, or a hub model lacks its commit.
    WeightsError
        If there is no such file.
    """
    found: dict[str, Path] = {}
    if options.weights_path is not None:
        found[options.weights_path] = root / options.weights_path
    if options.family == "pt2":
        found[options.model_name] = root / options.model_name
    for name, path in found.items():
        check_file(path, f"{where}.{'model' if name == options.model_name else 'weights'}")
    if options.family in ("transformers", "timm"):
        check_place(options, root, where)
        if not is_on_hub(options, root):
            folder = root / Path(options.model_name).expanduser()
            weights = [SAFE, PICKLED] if options.weights is None else []
            paths = {path for pattern in (*TEXTS, "*.py", *weights) for path in folder.glob(pattern)}
            found |= {f"{options.model_name}/{path.name}": path for path in paths if path.is_file()}
    if options.family == "python":
        found |= code_files(options.model_name.partition(":")[0], root)
        found |= {text: root / text for text in _texts(options.arguments) if _is_file(root, text)}
    return dict(sorted(found.items()))


def check_file(path: Path, where: str) -> None:
    """Refuse a file that is absent.

    Raises
    ------
    WeightsError
    """
    if not path.is_file():
        raise WeightsError(f"{where}: no such file: {path}; put it there, or correct the path")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def _is_file(root: Path, text: str) -> bool:
    try:
        return bool(text) and (root / text).is_file()
    except (OSError, ValueError):  # a text that is too long for a path, or holds a zero byte
        return False
