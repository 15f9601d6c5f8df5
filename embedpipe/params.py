"""Load params.yaml and say everything that is wrong with it at once.

Knows no component: each component's options are a `StrictModel` that stands beside it, and
`embedpipe.config` assembles the whole.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from embedpipe.errors import ConfigError


class StrictModel(BaseModel):
    """Options of one component: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises
    ------
    ConfigError
        If the file is missing, is no YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; run from the folder that holds params.yaml") from error
    try:
        # YAML 1.1 reads 1e-3 as text: users write it, so the loader takes it as the number it means.
        loaded = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(loaded).__name__}")
    return loaded


class _Loader(yaml.SafeLoader):
    """SafeLoader that also takes `1e-3` (YAML 1.2) as a number and refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value != "<<":
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key_node.value!r} is written twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    __import__("re").compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def validate(model: type[Model], raw: Any, where: str) -> Model:
    """Validate one section.

    Parameters
    ----------
    where
        How the user finds the section, e.g. ``params.yaml: backbones.r50``.

    Raises
    ------
    ConfigError
        One message with every problem, each with "did you mean" where a near name exists.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, model, where))) from error


def problems(error: ValidationError, model: type[BaseModel], where: str) -> list[str]:
    """One line per problem: where, what was found, what is allowed."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"] if not _is_union_tag(part))
        head = f"{where}.{place}" if place else where
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            known = sorted(known_keys(model, item["loc"][:-1]))
            lines.append(f"{head}: unknown key{did_you_mean(key, known)}; known keys: {', '.join(known)}")
        elif item["type"] == "missing":
            lines.append(f"{head}: required, but missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            found = "" if item["type"] == "value_error" else f"; found {item['input']!r}"
            lines.append(f"{head}: {message[0].lower() + message[1:]}{found}")
    return lines


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`` (did you mean 'x'?)`` or nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def known_keys(model: type[BaseModel], loc: Sequence[int | str]) -> set[str]:
    """Keys that are allowed at `loc` inside `model`, descending through dicts, lists and unions."""
    kinds: list[Any] = [model]
    for part in loc:
        kinds = [
            after
            for kind in kinds
            for after in _descend(kind, part)
        ] or kinds
    return {
        field.alias or name
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for name, field in kind.model_fields.items()
    }


def _descend(kind: Any, part: int | str) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if part in (name, field.alias):
                yield from _models_in(field.annotation)
    elif isinstance(kind, tuple):  # ("dict", value kinds)
        yield from kind[1]


def _models_in(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin in (dict, list, tuple):
        yield ("container", [m for arg in typing.get_args(annotation) for m in _models_in(arg)])
    elif origin in (typing.Union, types.UnionType, typing.Annotated):
        for arg in typing.get_args(annotation):
            yield from _models_in(arg)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def _is_union_tag(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part.endswith("Options"))
