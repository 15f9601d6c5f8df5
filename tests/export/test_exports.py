"""Exports read back by each format's own library; a second export of a grown store."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from embedpipe.errors import ConfigError, DataError, StoreError
from embedpipe.export.formats import write_export
from embedpipe.export.rows import export_rows
from embedpipe.export.view import write_view
from embedpipe.store import FeatureStore

sys.path.insert(0, str(Path(__file__).parent))
from conftest import GAP, MAP, NAMES, manifest_of, values


def exported(store, names=NAMES, **options):
    return export_rows(FeatureStore.open(store), [manifest_of(names)], **options)


def names_of(ids):
    return [(one.decode() if isinstance(one, bytes) else str(one)).removeprefix("id-") for one in ids]


def read_hdf5(out):
    with h5py.File(out) as file:
        return {name: data[...] for name, data in file.items()}


def read_npy(out):
    return {path.stem: np.load(path) for path in out.glob("*.npy")}


def read_safetensors(out):
    import json

    with safe_open(out, "np") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = file.metadata()
    return {**found, "sample_id": json.loads(about["sample_id"]), "split": json.loads(about["split"])}


def read_parquet(out):
    columns = {}
    for path in sorted(out.glob("*.parquet")):
        table = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
        for name in table.column_names:
            columns.setdefault(name, []).extend(table[name].to_pylist())
    found = {name: np.array(column) for name, column in columns.items()}
    for tap in (GAP, MAP):
        if tap.name in found:
            shape = {GAP: (3,), MAP: (2, 2, 2)}[tap]
            found[tap.name] = found[tap.name].astype(tap.dtype).reshape(-1, *shape)
    return found


READERS = {
    "hdf5": (read_hdf5, "out.h5"),
    "npy": (read_npy, "out"),
    "safetensors": (read_safetensors, "out.safetensors"),
    "parquet": (read_parquet, "out"),
}


@pytest.mark.parametrize("kind", READERS)
def test_every_format_holds_the_features_beside_their_ids(make, tmp_path, kind):
    read, name = READERS[kind]
    done = write_export(exported(make(NAMES[20:], NAMES)), tmp_path / name, kind)
    assert done.num_rows == done.num_written == 40
    found = read(tmp_path / name)
    names = names_of(found["sample_id"])
    assert sorted(names) == NAMES
    for tap in (GAP, MAP):
        np.testing.assert_array_equal(found[tap.name], values(names, tap))
    split = names_of(found["split"])
    assert split == ["val" if one.endswith("0") else "train" for one in names]


@pytest.mark.parametrize("kind", READERS)
def test_taps_and_splits_are_chosen_and_an_export_made_again_is_right(make, tmp_path, kind):
    read, name = READERS[kind]
    store = make(NAMES)
    for _ in range(2):
        rows = exported(store, taps=[GAP.name], splits=["val"])
        write_export(rows, tmp_path / name, kind)
    found = read(tmp_path / name)
    assert names_of(found["sample_id"]) == [one for one in NAMES if one.endswith("0")]
    assert MAP.name not in found
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["features", "stores", name])


def test_a_second_parquet_export_of_a_grown_store_writes_the_new_part_only(make, tmp_path):
    out = tmp_path / "out"
    write_export(exported(make(NAMES[:30]), NAMES[:30]), out, "parquet")
    first = (out / "part-00000.parquet").read_bytes()
    again = write_export(exported(make(NAMES[:30]), NAMES[:30]), out, "parquet")
    assert (again.num_written, again.files) == (0, ())
    done = write_export(exported(make(NAMES)), out, "parquet")
    assert (done.num_rows, done.num_written, [p.name for p in done.files]) == (40, 10, ["part-00001.parquet"])
    assert (out / "part-00000.parquet").read_bytes() == first
    found = read_parquet(out)
    np.testing.assert_array_equal(found[GAP.name], values(names_of(found["sample_id"]), GAP))
    assert sorted(names_of(found["sample_id"])) == NAMES


def test_parts_of_other_features_are_not_mixed(make, tmp_path):
    store = make(NAMES)
    write_export(exported(store, taps=[GAP.name]), tmp_path / "out", "parquet")
    with pytest.raises(DataError, match=r"taps: expected .*other features; export to another folder"):
        write_export(exported(store), tmp_path / "out", "parquet")


def test_samples_without_features_are_left_out_and_listed(make):
    rows = exported(make(NAMES[:30]))
    assert len(rows) == 30 and rows.absent == tuple(f"id-{name}" for name in NAMES[30:])


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_folder_of_something_else_is_not_touched(make, tmp_path, kind):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="exists and is no export; name a folder that is not there yet"):
        write_export(exported(make(NAMES)), tmp_path / "mine", kind)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_mistakes_are_named(make, tmp_path):
    store = make(NAMES)
    with pytest.raises(ConfigError, match=r"no tap 'layer1\.gp' \(did you mean 'layer1\.gap'\?\)"):
        exported(store, taps=["layer1.gp"])
    with pytest.raises(ConfigError, match="--format: expected hdf5, parquet, npy, safetensors, found 'csv'"):
        write_export(exported(store), tmp_path / "x", "csv")
    with pytest.raises(DataError, match="found none; nothing to export"):
        exported(store, splits=["test"])


def test_a_view_takes_kilobytes_and_needs_a_sound_store(make, tmp_path):
    store = make(NAMES)
    view = write_view(store, tmp_path / "view.h5")
    assert view.stat().st_size < 20_000
    shard = store / GAP.name / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.unlink()
    shard.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"c/0/0: checksum: .*restore the file first"):
        write_view(store, tmp_path / "other.h5")
    assert not (tmp_path / "other.h5").exists()


def test_a_view_of_more_chunks_than_hdf5_names_says_what_to_do(make, tmp_path, monkeypatch):
    monkeypatch.setattr("embedpipe.export.view.MAX_SEGMENTS", 1)
    with pytest.raises(
        ConfigError, match=r"at most 1 inner chunks, found 2: .*embedpipe export --format hdf5"
    ):
        write_view(make(NAMES), tmp_path / "view.h5", (GAP.name,))
