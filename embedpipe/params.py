"""Load params.yaml and say everything that is wrong with it at once.

Knows no component: each component's options are a `StrictModel` that stands beside it, and
`embedpipe.config` assembles the whole.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from embedpipe.errors import ConfigError


class StrictModel(BaseModel):
    """Options of one component: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Model = TypeVar("Model", bound=BaseModel)
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
"""Of a random generator: 32 bits, since scikit-learn takes no more."""


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
        # YAML 1.2, as DVC reads the same file: `on` is a key, 1e-3 a number, a key written twice an error
        loaded = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{mark}: not valid YAML: {error.problem or error.context}") from error
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(loaded).__name__}")
    return loaded


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


def validate_value(kind: Any, raw: Any, where: str) -> Any:
    """Validate a section that is one value against a type annotation.

    Raises
    ------
    ConfigError
        One message with every problem.
    """
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, BaseModel, where))) from error


def problems(error: ValidationError, model: type[BaseModel], where: str) -> list[str]:
    """One line per problem: where, what was found, what is allowed.

    Where a value may be of several types and is of none, what each type said is one line.
    """
    lines: dict[tuple[str, ...], _Problem] = {}
    for item in error.errors():
        if item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]:
            continue  # an entry is wrong, which has a line of its own
        place, kinds, in_union = _place(model, item["loc"])
        if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
            place.append(str(item["ctx"]["discriminator"]).strip("'"))
        problem = lines.setdefault(tuple(place), _Problem([], None))
        problem.add(_message(item, kinds, bool(place)), item.get("input") if in_union else None, in_union)
    separator = "." if ": " in where else ": "
    return [
        f"{where}{separator}{'.'.join(place)}: {problem}" if place else f"{where}: {problem}"
        for place, problem in lines.items()
    ]


class _Problem:
    """What is wrong at one place; the alternatives of a union are joined by "or"."""

    def __init__(self, messages: list[str], found: Any) -> None:
        self.messages = messages
        self.found = found
        self.alternatives = False

    def add(self, message: str, found: Any, alternative: bool) -> None:
        if message not in self.messages:
            self.messages.append(message)
        self.found = found
        self.alternatives = self.alternatives or alternative

    def __str__(self) -> str:
        if len(self.messages) == 1 or not self.alternatives:
            return "; ".join(self.messages)
        # "input should be a valid string; found 3" of each alternative: what was found is said once
        found = f"; found {self.found!r}"
        parts = [message.removesuffix(found) for message in self.messages]
        shared = "input should be "
        tails = [part.removeprefix(shared) for part in parts[1:]]
        return " or ".join([parts[0], *tails]) + found


def _message(item: Any, kinds: Sequence[Any], has_place: bool) -> str:
    kind = item["type"]
    if kind == "extra_forbidden":
        key = str(item["loc"][-1])
        known = sorted(_field_names(kinds))
        return f"unknown key{did_you_mean(key, known)}; known keys: {', '.join(known)}"
    if kind == "missing":
        return "required, but missing"
    if kind == "union_tag_not_found":
        return f"required, but missing; known: {', '.join(_tags(kinds))}"
    if kind == "union_tag_invalid":
        tag, known = str(item["ctx"]["tag"]), _tags(kinds)
        return f"unknown {tag!r}{did_you_mean(tag, known)}; known: {', '.join(known)}"
    message = str(item["msg"])
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
        return message if message.startswith("`") or not has_place else message[:1].lower() + message[1:]
    near = ""
    if kind == "literal_error" and isinstance(item["input"], str):
        known = re.findall(r"'([^']*)'", str(item["ctx"]["expected"]))
        near = did_you_mean(item["input"], known)
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "input should be a mapping of keys to values"
    elif kind in ("list_type", "tuple_type"):
        message = "input should be a list"
    elif kind == "too_short":
        return (
            f"expected at least {_counted(item['ctx']['min_length'])}, found {len(item['input']) or 'none'}"
        )
    return f"{message[:1].lower()}{message[1:]}{near}; found {item['input']!r}"


def _counted(num: int) -> str:
    return "one entry" if num == 1 else f"{num} entries"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`` (did you mean 'x'?)`` or nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _place(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], list[Any], bool]:
    """Follow an error's location through the types.

    Pydantic names the member of a union in the location: a tag, a type, a validator. Users wrote no such
    thing, so it is left out.

    Returns
    -------
    place : list of str
        The keys as the user wrote them.
    kinds : list
        Types that hold the last key, or, at the end of a tagged union, its members.
    in_union : bool
        Whether the error is that of one member among several.
    """
    place: list[str] = []
    annotation: Any = model
    holders: list[Any] = [model]
    in_union = False
    for position, part in enumerate(loc):
        members = _members(annotation)
        if len(members) > 1:
            holders = [_member_named(members, str(part))]
            annotation = holders[0]
            in_union = position == len(loc) - 1
            continue
        annotation = members[0]
        if part == "[key]":
            continue
        place.append(str(part))
        holders = [annotation]
        annotation = _child(annotation, part)
    members = _members(annotation)
    # an error of the union itself (a wrong tag) speaks of its members
    return place, members if len(members) > 1 else holders, in_union


def _members(annotation: Any) -> list[Any]:
    """Types that a value may have; None is no alternative that pydantic names."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return _members(inner[0]) if len(inner) == 1 else inner
    return [annotation]


def _member_named(members: Sequence[Any], tag: str) -> Any:
    for member in members:
        if isinstance(member, type) and issubclass(member, BaseModel):
            names = {name for field in member.model_fields.values() for name in _literals(field.annotation)}
            if tag == member.__name__ or tag in names:
                return member
    named = [
        m for m in members if str(getattr(typing.get_origin(m) or m, "__name__", m)) == tag.split("[")[0]
    ]
    return named[0] if named else Any


def _child(annotation: Any, part: int | str) -> Any:
    """Type of what lies at `part` inside a model, a mapping or a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if part in (name, field.alias):
                return field.annotation
        return Any
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return args[1]
    if origin in (list, tuple, set, frozenset) and args:
        return args[0]
    return Any


def _field_names(kinds: Sequence[Any]) -> set[str]:
    return {
        field.alias or name
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for name, field in kind.model_fields.items()
    }


def _tags(kinds: Sequence[Any]) -> list[str]:
    """Values of the tag by which members of a union are told apart: literals of exactly one value."""
    tags = set()
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for field in kind.model_fields.values():
                names = _literals(field.annotation)
                if len(names) == 1 and field.is_required():
                    tags.update(names)
    return sorted(tags)


def _literals(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is Literal:
        return [value for value in typing.get_args(annotation) if isinstance(value, str)]
    return []
