"""Step `watch`: digests of the files that params.yaml names for backbones and transfer arms.

DVC looks at params.yaml, and not at files that it names. Reads `backbones`, `transfer` and those files; writes
data/watched, which says the same bytes as long as the files do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embedpipe.backbones.named_files import check_file, named_files
from embedpipe.backbones.options import BackboneOptions
from embedpipe.digests import FileDigests
from embedpipe.steps.sections import Sections
from embedpipe.terminal import say
from embedpipe.transfer.options import ArmOptions, LoadOptions, TrainedOptions, transfer_options
from embedpipe.workspace import Workspace


def watch_files(workspace: Workspace) -> dict[str, Any]:
    """Write what each backbone, and the arms together, name; read only files that changed.

    Raises
    ------
    ConfigError, WeightsError
        If a file or folder is absent.
    """
    sections = Sections(workspace)
    digests = FileDigests(workspace.watch_cache, workspace.root)
    written = {workspace.watched_arms: _files_of_arms(sections, workspace.root, digests)}
    for name, options in sections.every("backbones", BackboneOptions).items():
        files = named_files(options, workspace.root, f"{workspace.params.name}: backbones.{name}")
        written[workspace.watched_backbone(name)] = {
            "model": options.model,
            "weights": options.weights,
            "revision": options.revision,
            "files": {written_as: digests.of(path) for written_as, path in files.items()},
        }
    for path in workspace.watched_dir.rglob("*.json"):
        if path not in written:  # of a backbone that is gone
            path.unlink()
    for path, content in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    digests.keep()
    num = sum(len(content["files"]) for content in written.values())
    if num:
        what = "1 file" if num == 1 else f"{num:,} files"
        say(f"watched {what} that params.yaml names, {digests.num_read:,} read now")
    return {"num_files": num, "num_read": digests.num_read}


def _files_of_arms(sections: Sections, root: Path, digests: FileDigests) -> dict[str, Any]:
    found: dict[str, str] = {}
    for name, options in sections.converted("transfer", transfer_options).items():
        given = _weights_of(options)
        if given is not None:
            check_file(root / given, f"params.yaml: transfer.{name}.load.weights")
            found[given] = digests.of(root / given)
    return {"files": found}


def _weights_of(options: ArmOptions) -> str | None:
    load = options.load if isinstance(options, TrainedOptions) else None
    return load.weights if isinstance(load, LoadOptions) else None
