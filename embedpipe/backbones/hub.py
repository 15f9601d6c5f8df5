"""Models that lie in a folder, or on the Hugging Face hub: found, fetched when their name asks for it, described.

A folder never needs the network. A hub model needs its commit, and is fetched once into the hub's own cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.backbones.options import BackboneOptions
from embedpipe.errors import ConfigError, WeightsError

SAFE = "*.safetensors*"
PICKLED = "pytorch_model*"
TEXTS = ["*.json", "*.txt", "*.model", "*.md", "LICENSE*", "merges*", "vocab*"]
_OTHER_RUNTIMES = ["onnx/*", "openvino/*", "coreml/*", "*/onnx/*", "runs/*"]
_OTHER_WEIGHTS = (
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.gguf",
    "*.ckpt",
    "*.pkl",
    "*.pt",
    "*.pth",
    "*.npz",
    "*.bin",
)


@dataclass(frozen=True)
class Found:
    """A folder with a model.

    Attributes
    ----------
    name : str
        As in params.yaml: a path, or a name on the hub.
    revision : str or None
        Full commit of a hub model.
    """

    folder: Path
    name: str
    revision: str | None = None

    def config(self, where: str, file: str = "config.json") -> dict[str, Any]:
        """A JSON file of the folder.

        Raises
        ------
        WeightsError
            If it is absent or no JSON object.
        """
        path = self.folder / file
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise WeightsError(
                f"{where}: {self.folder}: expected a model's folder with {file}, found none; "
                "give the folder that save_pretrained has written"
            ) from error
        except ValueError as error:
            raise WeightsError(f"{where}: {path}: expected JSON ({error}); fetch the file again") from error
        if not isinstance(raw, dict):
            raise WeightsError(f"{where}: {path}: expected a JSON object, found {type(raw).__name__}")
        return raw

    def optional(self, file: str) -> dict[str, Any]:
        """A JSON file of the folder, or {} where there is none."""
        try:
            raw = json.loads((self.folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return raw if isinstance(raw, dict) else {}

    def origin(self) -> dict[str, str]:
        """Where it comes from, and the licence that its model card names."""
        origin = {"source": self.name if self.revision is None else f"hub:{self.name}@{self.revision}"}
        licence = _licence(self.folder)
        return {**origin, "licence": licence} if licence else origin


def is_on_hub(options: BackboneOptions, root: Path) -> bool:
    """Whether a name can only mean a model on the hub."""
    name = options.model_name
    return not (root / name).expanduser().is_dir() and not name.startswith((".", "/", "~"))


def check_place(options: BackboneOptions, root: Path, where: str) -> None:
    """Check, without network, that a model's name can be followed.

    Raises
    ------
    ConfigError
        If there is no such folder, or what is to come from the hub lacks its commit.
    """
    if not is_on_hub(options, root):
        _local_folder(options, root, where)
    elif options.family == "transformers":
        _hub_name(options, options.model_name, where)
    elif options.weights is None and options.revision is None:
        raise ConfigError(
            f"{where}: weights of {options.model} come from the hub, which needs revision, the commit to use; or give "
            "weights: random:<seed>, or a .safetensors or .pth path"
        )


def find_folder(
    options: BackboneOptions, root: Path, where: str, *, hub_name: str | None = None, weights: bool = True
) -> Found:
    """The folder of a model, fetched if it is on the hub and not here yet.

    Parameters
    ----------
    hub_name
        Its name on the hub, where that is not what stands in params.yaml.
    weights
        Whether weights are needed too.

    Raises
    ------
    ConfigError
        If there is no such folder, or a hub model lacks its commit.
    WeightsError
        If it cannot be fetched.
    """
    name = options.model_name
    if not is_on_hub(options, root):
        return Found(_local_folder(options, root, where), name)
    hub_name, revision = _hub_name(options, hub_name or name, where)
    return fetch(hub_name, revision, where, weights=weights, code=options.trust_remote_code, name=name)


def _local_folder(options: BackboneOptions, root: Path, where: str) -> Path:
    folder = (root / Path(options.model_name).expanduser()).resolve()
    if not folder.is_dir():
        raise ConfigError(
            f"{where}.model: expected a folder with a model, found none at {folder}; correct the path"
        )
    if options.revision is not None:
        raise ConfigError(f"{where}.revision: {folder} is a folder, which has no commits; leave the key out")
    return folder


def _hub_name(options: BackboneOptions, hub_name: str, where: str) -> tuple[str, str]:
    """(name on the hub, commit)."""
    name = options.model_name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_name):
        raise ConfigError(
            f"{where}.model: {name!r} is neither a folder beside params.yaml nor <owner>/<name> on the hub; correct it"
        )
    if options.revision is None:
        raise ConfigError(
            f"{where}: there is no folder {name} beside params.yaml, and {hub_name} on the hub needs revision, the "
            "commit to use (its page lists them under Files and versions, History)"
        )
    return hub_name, options.revision


def fetch(
    hub_name: str, revision: str, where: str, *, weights: bool, code: bool, name: str | None = None
) -> Found:
    """A hub model's folder in the hub's cache; what is there already is not asked for again.

    Raises
    ------
    WeightsError
        If it cannot be fetched; says why and what to do.
    """
    patterns = [*TEXTS, *(["*.py"] if code else [])]
    folder = _snapshot(hub_name, revision, where, [*patterns, *([SAFE] if weights else [])])
    if weights and not list(folder.glob("*.safetensors")):
        folder = _snapshot(hub_name, revision, where, [*patterns, PICKLED])
    return Found(folder, name or hub_name, folder.name)


def _snapshot(hub_name: str, revision: str, where: str, patterns: Sequence[str]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise missing_extra(where, "text", "huggingface_hub") from error
    wanted: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": _OTHER_RUNTIMES}
    try:
        if len(revision) == 40:  # a commit never changes: what is here is right
            return Path(
                huggingface_hub.snapshot_download(
                    hub_name, revision=revision, local_files_only=True, **wanted
                )
            )
    except Exception:  # not here, or not all of it: ask the hub
        pass
    try:
        return Path(huggingface_hub.snapshot_download(hub_name, revision=revision, **wanted))
    except LocalEntryNotFoundError as error:
        reason = "no network, and it is not in the hub's cache"
        raise WeightsError(_not_fetched(where, hub_name, revision, reason)) from error
    except Exception as error:  # the hub's client raises its own, its transport's and the system's errors
        raise WeightsError(_not_fetched(where, hub_name, revision, first_line(error))) from error


def _not_fetched(where: str, hub_name: str, revision: str, reason: str) -> str:
    return (
        f"{where}: could not fetch {hub_name} at {revision} from the hub ({reason}); run `embedpipe prefetch` where "
        "there is network, or name a local folder"
    )


def weight_files(found: Found, where: str) -> list[Path]:
    """The files of weights in a folder: safetensors, else a pickle that holds tensors alone.

    Raises
    ------
    WeightsError
        If there is neither; names what is there.
    """
    safe = sorted(found.folder.glob("*.safetensors"))
    pickled = sorted(found.folder.glob("pytorch_model*.bin"))
    if safe or pickled:
        return safe or pickled
    others = sorted({path.name for pattern in _OTHER_WEIGHTS for path in found.folder.glob(pattern)})
    listed = (
        f"found {', '.join(others[:4])}, which are not read: their formats run code or need another library"
    )
    raise WeightsError(
        f"{where}: {found.folder}: expected weights as .safetensors or pytorch_model.bin, "
        f"{listed if others else 'found none'}; save the model with save_pretrained"
    )


def missing_extra(where: str, extra: str, module: str) -> ConfigError:
    """The error where a library is not installed."""
    return ConfigError(
        f"{where}.model: expected the library {module}, found it not installed; "
        f"install it: pip install 'embedpipe[{extra}]'"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error, shortened."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]


def _licence(folder: Path) -> str | None:
    """What the YAML head of a model card says under ``license``."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([^\"'\n]+)", head.group(1), re.MULTILINE) if head else None
    return found.group(1).strip() if found else None
