"""Export the features of a backbone with the ids of its samples, to files or to an object store."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedpipe.errors import ConfigError, DataError
from embedpipe.export.formats import FORMATS, write_export
from embedpipe.export.rows import export_rows
from embedpipe.export.view import write_view
from embedpipe.manifest.table import Manifest
from embedpipe.params import did_you_mean
from embedpipe.remote import filesystem, is_remote
from embedpipe.store import FeatureStore
from embedpipe.workspace import Workspace

VIEW = "hdf5-view"


def export_features(
    workspace: Workspace,
    backbone: str,
    out: str,
    kind: str,
    *,
    datasets: Sequence[str],
    taps: Sequence[str] = (),
    splits: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the features of every data set's samples that the backbone has embedded.

    Parameters
    ----------
    out
        A file, a folder, or an address such as ``s3://bucket/features``: it is then made in a temporary folder
        and copied, so that it needs as much local disk.
    kind
        ``hdf5``, ``parquet``, ``npy``, ``safetensors``, or ``hdf5-view``: no copy, for this machine.

    Raises
    ------
    ConfigError
        If the format or a tap is unknown, or `out` holds something else.
    DataError
        If there are no features to export.
    """
    if kind not in (*FORMATS, VIEW):
        raise ConfigError(
            f"--format: expected {', '.join((*FORMATS, VIEW))}, found {kind!r}{did_you_mean(kind, list(FORMATS))}"
        )
    store_dir = workspace.features(backbone)
    if not store_dir.exists():
        raise DataError(f"{store_dir}: no such store; run `embedpipe extract {backbone}`")
    if kind == VIEW:
        if is_remote(out) or splits:
            raise ConfigError(
                f"{out}: a view shows whole local stores; for a split or an address export hdf5"
            )
        path = write_view(store_dir, Path(out), tuple(taps))
        return {
            "out": str(path),
            "num_rows": FeatureStore.open(store_dir).num_rows,
            "num_written": 0,
            "note": "",
        }
    manifests = [Manifest.read(path) for name in datasets if (path := workspace.manifest(name)).exists()]
    if not manifests:
        raise DataError(f"{workspace.data / 'manifests'}: no samples yet; run `embedpipe ingest`")
    rows = export_rows(FeatureStore.open(store_dir), manifests, taps=taps, splits=splits)
    if is_remote(out):
        done = export_remote(rows, out, kind)
    else:
        written = write_export(rows, Path(out), kind)
        done = {"num_rows": written.num_rows, "num_written": written.num_written, "note": written.note}
    return {"out": out, **done, "num_absent": len(rows.absent)}


def export_remote(
    rows: Any, out: str, kind: str, storage_options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Make an export here and copy it to an address; of Parquet, earlier parts there are kept and counted."""
    remote = filesystem(out, storage_options)
    with tempfile.TemporaryDirectory(prefix="embedpipe-export-") as folder:
        local = Path(folder) / out.rstrip("/").rsplit("/", 1)[-1]
        before: set[str] = set()
        if kind == "parquet" and remote.exists(out):
            remote.get(out.rstrip("/") + "/", f"{local}/", recursive=True)
            before = {path.name for path in local.iterdir()}
        written = write_export(rows, local, kind)
        for path in sorted(local.iterdir()) if local.is_dir() else [local]:
            if path.name not in before:
                remote.put_file(str(path), f"{out.rstrip('/')}/{path.name}" if local.is_dir() else out)
    return {"num_rows": written.num_rows, "num_written": written.num_written, "note": written.note}
