"""The Python files of a user's module: itself, and what it imports from beside it.

Reads sources; imports none of them, and no torch.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

_OURS = ("embedpipe", "stages")  # their versions are no part of a user's model


def code_files(module: str, root: Path) -> dict[str, Path]:
    """Files that importing a module can run, by path relative to where it is imported from.

    Of a module beside params.yaml, what it imports from there too; of an installed one, its own package alone. Imports
    are read, not run: those made by name at run time are not seen.

    Parameters
    ----------
    module
        Dotted name.
    root
        Folder of params.yaml, which is looked in first.

    Returns
    -------
    dict of str -> Path
        Empty where there is no such module.
    """
    base = _base(module, root)
    if base is None:
        return {}
    own = None if base == root.resolve() else module.partition(".")[0]
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if top in _OURS or (own is not None and top != own):
            continue
        for path in _files(base, name):
            key = path.relative_to(base).as_posix()
            if key not in found:
                found[key] = path
                waiting += _imported(path, base)
    return dict(sorted(found.items()))


def code_digest(module: str, root: Path) -> str:
    """blake2b-128 of what the files of a module do: comments, docstrings and layout do not count. 32 hex digits."""
    state = hashlib.blake2b(digest_size=16)
    for name, path in code_files(module, root).items():
        content = path.read_bytes()
        try:
            said = _said(ast.parse(content)).encode("utf-8", "surrogatepass")
        except (SyntaxError, ValueError):
            said = content
        state.update(name.encode() + b"\0" + said + b"\0")
    return state.hexdigest()


def _said(value: Any) -> str:
    """A syntax tree as text; what is empty is left out, since versions of Python differ in that."""
    if isinstance(value, ast.AST):
        parts = (
            f"{key}={_said(one)}"
            for key, one in ast.iter_fields(value)
            if key != "kind" and one is not None and one != []
        )
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, list):
        return f"[{','.join(_said(one) for one in value if not _is_docstring(one))}]"
    return repr(value)


def _is_docstring(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _base(module: str, root: Path) -> Path | None:
    """The folder that the module's first name is found in."""
    top = module.partition(".")[0]
    root = root.resolve()
    if (root / top).is_dir() or (root / f"{top}.py").is_file():
        return root
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve().parent
    return Path(spec.origin).resolve().parent if spec.origin and spec.has_location else None


def _files(base: Path, name: str) -> list[Path]:
    """A module's file, behind the ``__init__`` of each package around it."""
    parts = name.split(".")
    places = [base.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    places.append(base.joinpath(*parts).with_suffix(".py"))
    return [path for path in places if path.is_file()]


def _imported(path: Path, base: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    package = path.relative_to(base).parent.parts
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) - node.level + 1] if node.level else ()
            within = ".".join([*around, *([node.module] if node.module else [])])
            names += [
                ".".join(filter(None, [within, alias.name])) for alias in node.names if alias.name != "*"
            ]
            names += [within] if within else []
    return names
