"""Read and check single sections of params.yaml, so that a stage depends on no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from embedpipe.errors import ConfigError
from embedpipe.params import Seed, did_you_mean, load_yaml, validate, validate_value
from embedpipe.workspace import Workspace

Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")


class Sections:
    """params.yaml, one section at a time."""

    def __init__(self, workspace: Workspace) -> None:
        self._path = workspace.params
        self._raw = load_yaml(workspace.params)

    def raw(self, section: str) -> Any:
        """A section as it is written.

        Raises
        ------
        ConfigError
            If params.yaml lacks it: DVC tracks sections by name, so an empty one is written as ``{}``.
        """
        if section not in self._raw:
            raise ConfigError(
                f"{self._path.name}: {section}: required, but missing; write `{section}: {{}}` for none"
            )
        return self._raw[section]

    def entries(self, section: str) -> dict[str, Any]:
        """A section that is a mapping by name.

        Raises
        ------
        ConfigError
            If it is something else, ``null`` for one.
        """
        raw = self.raw(section)
        if not isinstance(raw, dict):
            raise ConfigError(f"{self._path.name}: {section}: expected a mapping by name, found {raw!r}")
        return raw

    def one(self, section: str, name: str, model: type[Model]) -> Model:
        """One entry of a section that is a mapping by name."""
        entries = self.entries(section)
        if name not in entries:
            raise ConfigError(
                f"{self._path.name}: {section}: no entry is named {name!r}{did_you_mean(name, list(entries))}; "
                f"entries: {', '.join(entries) or '(none)'}"
            )
        return validate(model, entries[name], f"{self._path.name}: {section}.{name}")

    def every(self, section: str, model: type[Model]) -> dict[str, Model]:
        """Every entry of a section that is a mapping by name."""
        return {name: self.one(section, name, model) for name in self.entries(section)}

    def whole(self, section: str, model: type[Model]) -> Model:
        """A section that is one set of options."""
        return validate(model, self.raw(section), f"{self._path.name}: {section}")

    def value(self, section: str, kind: Any) -> Any:
        """A section that is one value, checked against a type annotation."""
        return validate_value(kind, self.raw(section), f"{self._path.name}: {section}")

    def seed(self) -> int:
        """The run's seed."""
        return int(self.value("seed", Seed))

    def converted(self, section: str, convert: Callable[[str, Any, str], Value]) -> dict[str, Value]:
        """Every entry of a section, checked by `convert(name, raw, where)`."""
        where = f"{self._path.name}: {section}"
        return {name: convert(name, raw, f"{where}.{name}") for name, raw in self.entries(section).items()}


def embedded_datasets(sections: Sections) -> list[str]:
    """Data sets that backbones embed, in the order of params.yaml: all but those that source models are trained on."""
    return [
        name
        for name, raw in sections.entries("datasets").items()
        if (raw or {}).get("domain", "target") != "source"
    ]
