"""A manifest that stays on disk gives what the one in memory gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedpipe.errors import DataError
from embedpipe.manifest.keys import content_key
from embedpipe.manifest.listed import ListedSamples
from embedpipe.manifest.table import Manifest

IDS = [f"é{i:03d}" for i in range(50)]


@pytest.fixture
def manifest() -> Manifest:
    return Manifest.from_rows(
        "photos",
        {"kind": "folder", "path": "x"},
        "image",
        sample_ids=IDS,
        keys=[content_key(name.encode()) for name in IDS],
        domain="target",
        groups=IDS,
        splits=["train"] * len(IDS),
        locators=[f"{name}.jpg" for name in IDS],
    )


@pytest.fixture(params=[7, 50])
def path(request: pytest.FixtureRequest, manifest: Manifest, tmp_path: Path) -> Path:
    """Written in row groups of 7 samples, or in one."""
    path = tmp_path / "samples.parquet"
    manifest.write(path)
    pq.write_table(pq.read_table(path), path, row_group_size=request.param)
    return path


def test_it_is_the_manifest_in_memory(path: Path, manifest: Manifest) -> None:
    listed = ListedSamples.open(path)
    assert len(listed) == len(manifest)
    assert (listed.dataset, listed.source, listed.modality) == ("photos", manifest.source, "image")
    np.testing.assert_array_equal(listed.read_keys(), manifest.keys)


def test_keys_are_read_into_a_part_of_a_larger_array(path: Path, manifest: Manifest) -> None:
    out = np.zeros((60, 16), np.uint8)
    ListedSamples.open(path).read_keys(out[5:55])
    np.testing.assert_array_equal(out[5:55], manifest.keys)
    assert not out[:5].any() and not out[55:].any()


def test_texts_come_in_the_order_asked_with_repeats(path: Path, manifest: Manifest) -> None:
    listed = ListedSamples.open(path)
    rng = np.random.default_rng(0)
    for _ in range(20):
        some = rng.integers(0, len(IDS), rng.integers(0, 30)).astype(rng.choice(["int32", "int64"]))
        assert listed.take("locator", some) == manifest.locators[some].tolist()
        assert listed.take("sample_id", some) == manifest.sample_ids[some].tolist()


def test_only_a_few_row_groups_stay_in_memory(path: Path) -> None:
    listed = ListedSamples.open(path)
    listed.take("locator", np.arange(len(IDS)))
    assert len(listed._kept) <= 2


def test_a_further_modality_has_keys_and_locators_of_its_own(manifest: Manifest, tmp_path: Path) -> None:
    both = Manifest.from_rows(
        "photos", manifest.source, "image",
        sample_ids=IDS,
        keys=[content_key(name.encode()) for name in IDS],
        domain="target",
        groups=IDS,
        splits=["train"] * len(IDS),
        locators=[f"{name}.jpg" for name in IDS],
        also={"text": ([content_key(b"text" + name.encode()) for name in IDS], [f"{name}.txt" for name in IDS])},
    )  # fmt: skip
    both.write(tmp_path / "both.parquet")
    listed = ListedSamples.open(tmp_path / "both.parquet")
    assert listed.modalities == both.modalities == ("image", "text")
    for modality in listed.modalities:
        wanted, found = both.of(modality), listed.of(modality)
        assert found.modality == modality
        np.testing.assert_array_equal(found.read_keys(), wanted.keys)
        assert found.take("locator", np.arange(len(IDS))) == wanted.locators.tolist()
        assert found.take("sample_id", np.arange(len(IDS))) == IDS


def test_an_empty_manifest_has_no_samples(manifest: Manifest, tmp_path: Path) -> None:
    manifest.where(split="test").write(tmp_path / "none.parquet")
    listed = ListedSamples.open(tmp_path / "none.parquet")
    assert len(listed) == 0 and listed.read_keys().shape == (0, 16)


def test_what_is_no_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; run `embedpipe ingest`"):
        ListedSamples.open(tmp_path / "samples.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="expected a Parquet file"):
        ListedSamples.open(tmp_path / "text.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="expected a manifest table"):
        ListedSamples.open(tmp_path / "x.parquet")
