"""Reading from and exporting to S3, against moto's server on this machine."""

import sys
import zlib
from pathlib import Path

import botocore.session
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from embedpipe.errors import ConfigError, StoreError
from embedpipe.export.rows import export_rows
from embedpipe.features.features import Features
from embedpipe.steps.export import export_remote
from embedpipe.store import FeatureStore

sys.path.insert(0, str(Path(__file__).parent))
from conftest import GAP, MAP, NAMES, manifest_of, values

# botocore and moto still call what Python 3.12 deprecates
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def endpoint():
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def options(endpoint):
    return {
        "endpoint_url": endpoint,
        "key": "x",
        "secret": "y",
        "client_kwargs": {"region_name": "us-east-1"},
    }


@pytest.fixture
def remote(make, options, request):
    import s3fs

    files = s3fs.S3FileSystem(**options)
    bucket = f"features-{zlib.crc32(request.node.name.encode())}"
    botocore.session.get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=options["endpoint_url"],
        aws_access_key_id="x",
        aws_secret_access_key="y",
    ).create_bucket(Bucket=bucket)
    files.put(str(make(NAMES)), f"{bucket}/tiny", recursive=True)
    return f"s3://{bucket}/tiny", files


def test_rows_are_read_from_an_object_store_in_any_order(remote, options):
    url, _ = remote
    store = FeatureStore.open(url, storage_options=options)
    order = [39, 0, 17, 17]
    np.testing.assert_array_equal(store.read(GAP.name, order), values([NAMES[i] for i in order], GAP))
    np.testing.assert_array_equal(store.read(MAP.name, slice(3, 30)), values(NAMES[3:30], MAP))
    features = Features.of(manifest_of(NAMES), [(store, GAP.name)], dtype=None)
    np.testing.assert_array_equal(features.numpy(), values(NAMES, GAP))


def test_plain_zarr_reads_it_there(remote, options):
    url, _ = remote
    group = zarr.open_group(url, mode="r", storage_options=options)
    np.testing.assert_array_equal(group[GAP.name][:], values(NAMES, GAP))


def test_a_shard_that_is_missing_there_is_named_and_never_read_as_nan(remote, options):
    url, files = remote
    files.rm(f"{url}/{GAP.name}/c/0/0")
    store = FeatureStore.open(url, storage_options=options)
    for rows in ([0], slice(0, 2)):
        with pytest.raises(StoreError, match=rf"{url}/{GAP.name}/c/0/0: damaged: the file is missing"):
            store.read(GAP.name, rows)


def test_bytes_that_changed_there_are_found(remote, options):
    url, files = remote
    path = f"{url}/{GAP.name}/c/0/0"
    data = bytearray(files.cat_file(path))
    data[3] ^= 1
    files.pipe_file(path, bytes(data))
    with pytest.raises(StoreError, match="c/0/0: damaged"):
        FeatureStore.open(url, storage_options=options).read(GAP.name, [0])


def test_no_store_there_is_said(remote, options):
    url, _ = remote
    with pytest.raises(StoreError, match=r"nowhere: expected a feature store, found no store\.json"):
        FeatureStore.open(f"{url}/nowhere", storage_options=options)


def test_addresses_that_nothing_reads_are_said():
    with pytest.raises(ConfigError, match="cannot open addresses that start with nowhere://"):
        FeatureStore.open("nowhere://bucket/x")


def test_exports_go_to_an_object_store_and_grow_there(remote, options, tmp_path):
    url, files = remote
    target = f"{url.rsplit('/', 1)[0]}/export"
    store = FeatureStore.open(url, storage_options=options)
    for names, num_new in ((NAMES[:30], 30), (NAMES, 10)):
        done = export_remote(export_rows(store, [manifest_of(names)]), target, "parquet", options)
        assert (done["num_rows"], done["num_written"]) == (len(names), num_new)
    parts = sorted(files.ls(target))
    assert [part.rsplit("/", 1)[1] for part in parts] == ["part-00000.parquet", "part-00001.parquet"]
    files.get(parts[1], str(tmp_path / "part.parquet"))
    table = pq.ParquetFile(tmp_path / "part.parquet", pre_buffer=False).read(use_threads=False)
    assert sorted(table["sample_id"].to_pylist()) == [f"id-{name}" for name in NAMES[30:]]
