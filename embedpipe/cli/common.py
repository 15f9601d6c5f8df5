"""What commands share: the project, names of it, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedpipe.errors import ConfigError
from embedpipe.params import did_you_mean
from embedpipe.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from embedpipe.config import Params

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON for a machine instead of a table for a person.")
]


def open_project() -> tuple[Workspace, Params]:
    """The project of the current folder, with the whole of params.yaml checked."""
    from embedpipe.config import load_params

    workspace = find_workspace()
    return workspace, load_params(workspace.params)


def chosen(names: Iterable[str] | None, known: Iterable[str], kind: str) -> list[str]:
    """The names given, each known; all that are known where none is given."""
    known = list(known)
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"no {kind} is named {name!r}{did_you_mean(name, known)}; known: {', '.join(known) or '(none)'}"
            )
    return list(names or known)


def print_json(value: Any) -> None:
    """On stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
