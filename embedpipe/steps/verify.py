"""Read stored features again and compare them with their checksums: the published store and the working one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from embedpipe.errors import DataError
from embedpipe.spec import BackboneSpec
from embedpipe.store.group import find_groups
from embedpipe.store.verification import VerifyReport, verify
from embedpipe.workspace import Workspace


def verify_stores(
    workspace: Workspace, backbones: Sequence[str], *, named: bool = False
) -> list[dict[str, Any]]:
    """Verify each backbone's published store, and the working groups of its spec.

    Parameters
    ----------
    named
        Whether the user named the backbones: then one without a store is an error, else it is passed over.

    Raises
    ------
    DataError
        If there is nothing to verify.
    """
    checked = []
    groups = find_groups(workspace.stores_dir)
    for backbone in backbones:
        path = workspace.features(backbone)
        if not path.exists():
            if named:
                raise DataError(f"{path}: no such store; run `embedpipe extract {backbone}`")
            continue
        checked.append(_described(f"{backbone}, published", verify(path)))
        card = path / "card.json"
        spec = (
            BackboneSpec.from_dict(json.loads(card.read_text(encoding="utf-8"))["spec"])
            if card.exists()
            else None
        )
        checked += [
            _described(f"{backbone}, working store {group.path.name}", verify(group.path))
            for group in groups
            if group.spec == spec
        ]
    if not checked:
        raise DataError(
            f"{workspace.data / 'features'}: expected a store to verify, found none; run `dvc repro`"
        )
    return checked


def _described(where: str, report: VerifyReport) -> dict[str, Any]:
    return {
        "where": where,
        "num_files": report.num_files,
        "nbytes": report.nbytes,
        "damages": [
            {"path": str(one.path), "kind": one.kind, "expected": one.expected, "found": one.found}
            for one in report.damages
        ],
    }
