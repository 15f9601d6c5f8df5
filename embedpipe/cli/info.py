"""`embedpipe info`: what there is, read from what the steps wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedpipe.cli.checks import machine_problems
from embedpipe.cli.tables import nbytes_text, out
from embedpipe.config import Params
from embedpipe.evaluate.files import read_json
from embedpipe.heads.presets import KEY, PRESETS
from embedpipe.heads.registry import candidates
from embedpipe.manifest.table import Manifest
from embedpipe.workspace import Workspace


def collect(workspace: Workspace, params: Params) -> dict[str, Any]:
    """State of every part; null where a step has not run yet."""
    return {
        "root": str(workspace.root),
        "problems": machine_problems(params, workspace),
        "work_dir": str(workspace.work_dir),
        "datasets": {name: _dataset(workspace.manifest(name)) for name in params.datasets},
        "tasks": {name: {"on": task.on, "kind": task.kind} for name, task in params.tasks.items()},
        "backbones": {
            name: {"role": params.roles[name], "store": _store(workspace.features(name))}
            for name in params.backbones
        },
        "heads": {name: options.family for name, options in params.head_options().items()},
        "transfer": {name: options.recipe for name, options in params.transfer_options().items()},
        "presets": {
            name: {"preset": raw[KEY], "num_candidates": len(candidates(options)), "grid": options.grid()}
            for name, options in params.head_options().items()
            if KEY in (raw := params.heads[name] or {})
        },
        "selection": _json(workspace.selection, "run `embedpipe select`", "tasks"),
        "headline": (_json(workspace.comparison, "run `embedpipe compare`", "headline") or {}).get(
            "headline"
        ),
    }


def _dataset(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    splits = Manifest.read(path).splits
    return {"samples": len(splits), "splits": {str(s): int((splits == s).sum()) for s in sorted(set(splits))}}


def _store(path: Path) -> dict[str, Any] | None:
    card = _json(path / "card.json", f"run `embedpipe extract {path.name}`", "taps", "spec")
    if card is None:
        return None
    files = [file for file in path.rglob("*") if file.is_file()]
    return {
        "taps": {name: tap["shape"] for name, tap in card["taps"].items()},
        "precision": card["spec"]["precision"],
        "nbytes": sum(file.stat().st_size for file in files),
    }


def _json(path: Path, hint: str, *keys: str) -> Any:
    return read_json(path, hint, keys=keys) if path.exists() else None


def _values(values: Sequence[Any]) -> str:
    """A few values as they are; of many the ends and their number."""
    if len(values) <= 4:
        return "/".join(map(str, values))
    return f"{values[0]:g} to {values[-1]:g} in {len(values)}"


def show(workspace: Workspace, found: dict[str, Any]) -> None:
    """Print the state, and the leaderboard where there is one."""
    console = out()
    for problem in found["problems"]:
        console.print(f"error: {problem}", style="red", markup=False)
    if not found["problems"]:
        console.print("params.yaml is valid", style="green", end="; ")
        console.print("`embedpipe plan` builds the backbones too, and so checks their taps and weights")
    for name, dataset in found["datasets"].items():
        state = (
            f"{dataset['samples']:,} samples ("
            + ", ".join(f"{s} {n:,}" for s, n in dataset["splits"].items())
            + ")"
            if dataset
            else "not ingested yet"
        )
        console.print(f"data set {name}: {state}", markup=False)
    for name, task in found["tasks"].items():
        console.print(f"task {name}: {task['kind']} on {task['on']}", markup=False)
    for name, backbone in found["backbones"].items():
        state = "not extracted yet"
        if store := backbone["store"]:
            num = len(store["taps"])
            state = f"{num} tap{'s' * (num != 1)}, {nbytes_text(store['nbytes'])}, {store['precision']}"
        console.print(f"backbone {name} ({backbone['role']}): {state}", markup=False)
    console.print("heads: " + ", ".join(found["heads"]), markup=False)
    if found["transfer"]:
        console.print("transfer arms: " + ", ".join(found["transfer"]), markup=False)
    for name, one in found["presets"].items():
        preset = PRESETS[one["preset"]]
        grid = ", ".join(f"{key} {_values(values)}" for key, values in one["grid"].items())
        console.print(
            f"head {name}: {one['preset']}, as in {preset.source}: {preset.family}, "
            f"{one['num_candidates']} candidates ({grid}). {preset.differs}",
            markup=False,
        )
    console.print(f"working folder: {found['work_dir']}", markup=False)
    if workspace.leaderboard.exists() and workspace.comparison.exists():
        from embedpipe.steps.compare import print_leaderboard

        print_leaderboard(workspace)
    else:
        console.print("no leaderboard yet: run `dvc repro`")
        return
    if workspace.report.exists():
        console.print(f"the page: {workspace.report.relative_to(workspace.root)}", markup=False)
