"""What a module imports, directly or not: static, so that imports inside functions and dotted names count."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
_DOTTED = re.compile(r"^(embedpipe(?:\.[a-z_0-9]+)+)(?::.*)?$")


def file_of(module: str) -> Path | None:
    """File of a module of the project, or None."""
    base = ROOT / Path(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def imports_of(path: Path) -> frozenset[Path]:
    """Files of the project that one file names: by import statement or as a dotted name in a text."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED.match(node.value):
            names = [_DOTTED.match(node.value).group(1)]
        for name in names:
            parts = name.split(".")
            if parts[0] in ("embedpipe", "stages"):
                # a package's __init__ runs before its modules
                found |= {f for i in range(1, len(parts) + 1) if (f := file_of(".".join(parts[:i])))}
    return frozenset(found)


def closure(entry: Path) -> set[Path]:
    """All files that running `entry` can import, with itself."""
    found, waiting = {entry}, [entry]
    while waiting:
        for path in imports_of(waiting.pop()) - found:
            found.add(path)
            waiting.append(path)
    return found


# what only talks to people: a change to it changes no output
SPOKEN = frozenset({"embedpipe/terminal.py", "embedpipe/progress.py", "embedpipe/errors.py"})


def as_deps(files: set[Path]) -> list[str]:
    """The shortest list of folders and files that is exactly `files`, without what only talks to people."""
    names = {path.relative_to(ROOT).as_posix() for path in files} - SPOKEN
    for folder in sorted({name.rsplit("/", 1)[0] for name in names} - {"embedpipe", "stages"}):
        inside = expand(folder)
        if inside <= names:
            names = (names - inside) | {folder}
    return sorted(names)


def expand(dep: str) -> set[str]:
    """Python files that a dep of dvc.yaml covers."""
    path = ROOT / dep
    found = path.rglob("*.py") if path.is_dir() else [path]
    return {file.relative_to(ROOT).as_posix() for file in found}


if __name__ == "__main__":  # prints each stage's closure, to copy into dvc.yaml
    for stage in sorted((ROOT / "stages").glob("*.py")):
        print(stage.stem)
        for dep in as_deps(closure(stage)):
            print("        -", dep)
