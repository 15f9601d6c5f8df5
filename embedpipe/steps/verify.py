"""Read stored features again and compare them with their checksums: published, working, and in DVC's cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedpipe.errors import DataError, StoreError
from embedpipe.steps.stores import StorePlaces
from embedpipe.store.disk import md5_of_file
from embedpipe.store.verification import CHECKSUM, MISSING, Damage, VerifyReport, verify
from embedpipe.tracking import TrackedFolder
from embedpipe.workspace import Workspace


def verify_stores(
    workspace: Workspace, backbones: Sequence[str], *, named: bool = False
) -> list[dict[str, Any]]:
    """Verify each backbone's published store, the working groups of its spec, and DVC's objects of it.

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
    for backbone in backbones:
        places = StorePlaces(workspace, backbone)
        if places.folder.exists():
            checked.append(_described(f"{backbone}, published", verify(places.folder)))
        elif named and not places.groups:
            raise DataError(f"{places.folder}: no such store; run `embedpipe extract {backbone}`")
        for path in places.groups:
            try:
                report = verify(path)
            except StoreError as error:
                report = VerifyReport([Damage(path, MISSING, "a working group", str(error))], 0, 0)
            checked.append(_described(f"{backbone}, working store {path.name}", report))
        if places.tracked.md5 is not None and places.tracked.cache.object(places.tracked.md5).exists():
            damages = verify_cache(places.tracked)
            objects = [places.tracked.cache.object(md5) for md5 in places.tracked.files.values()]
            nbytes = sum(path.stat().st_size for path in objects if path.exists())
            report = VerifyReport(damages, len(objects) + 1, nbytes)
            checked.append(_described(f"{backbone}, DVC's cache", report))
    if not checked:
        raise DataError(
            f"{workspace.data / 'features'}: expected a store to verify, found none; run `dvc repro`"
        )
    return checked


def verify_cache(tracked: TrackedFolder) -> list[Damage]:
    """DVC's objects of a folder that are not what their name says; none of a folder that was never pulled."""
    if tracked.md5 is None or not tracked.cache.object(tracked.md5).exists():
        return []
    damages = []
    for md5 in sorted({tracked.md5, *(tracked.cache.listing(tracked.md5) or {}).values()}):
        path = tracked.cache.object(md5)
        if not path.exists():
            damages.append(Damage(path, MISSING, "an object of DVC's cache", "nothing"))
            continue
        found = md5_of_file(path)
        if found != md5.removesuffix(".dir"):
            damages.append(Damage(path, CHECKSUM, f"md5 {md5.removesuffix('.dir')}", found))
    return damages


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
