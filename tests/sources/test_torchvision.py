"""Data sets of torchvision that lie in a local folder, and what can be wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedpipe.errors import ConfigError, DataError
from embedpipe.params import validate
from embedpipe.sources.base import Scanned, Seen, Source, open_source


def opened(root: Path, name: str, **options: Any) -> Source:
    return open_source({"kind": f"torchvision:{name}", "path": "data", **options}, root)


def scan(source: Source) -> list[Scanned]:
    return list(source.scan({}))


def test_kind_and_name_may_be_one_word() -> None:
    from embedpipe.ingest.options import DatasetOptions

    written = [
        {"kind": "torchvision:SVHN", "path": "x"},
        {"kind": "torchvision", "name": "SVHN", "path": "x"},
    ]
    one, other = (validate(DatasetOptions, {"source": source}, "datasets.d") for source in written)
    assert one == other


def test_classes_are_named_and_parts_are_splits(tmp_path: Path) -> None:
    """EuroSAT is a folder a class; it has no parts."""
    for i, name in enumerate(("Forest", "River")):
        folder = tmp_path / "data" / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), 40 * i, np.uint8)).save(folder / "1.png")
    samples = scan(opened(tmp_path, "EuroSAT"))
    assert [(s.sample_id, s.labels, s.split) for s in samples] == [
        ("all/0000000", {"label": "Forest"}, None),
        ("all/0000001", {"label": "River"}, None),
    ]


def test_a_damaged_image_is_one_unreadable_sample(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "eurosat" / "2750" / "Forest"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "1.png")
    (folder / "2.png").write_bytes(b"no image")
    source = opened(tmp_path, "EuroSAT")
    good, bad = scan(source)
    assert good.key is not None and bad.key is None
    assert bad.reason is not None and bad.reason.startswith("damaged: ") and bad.labels == {"label": "Forest"}
    known = {s.locator: Seen(s.stamp or "", s.key, s.reason) for s in (good, bad)}
    assert [s.reason for s in source.scan(known)] == [None, bad.reason]


def test_files_that_are_absent_are_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"torchvision.datasets.MNIST: expected its files below .*data, found them absent or damaged",
    ):
        scan(opened(tmp_path, "MNIST"))
    assert not (tmp_path / "data").exists()


def test_an_unknown_data_set_suggests_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"torchvision has no data set 'MNITS' \(did you mean 'MNIST'\?\)"):
        scan(opened(tmp_path, "MNITS"))
    with pytest.raises(ConfigError, match=r"options: MNIST takes no 'trian' \(did you mean 'train'\?\)"):
        scan(opened(tmp_path, "MNIST", options={"trian": True}))


def test_torch_is_not_loaded_for_other_kinds() -> None:
    code = "import embedpipe.ingest.run, sys; print({'torch', 'h5py', 'zarr', 's3fs'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
