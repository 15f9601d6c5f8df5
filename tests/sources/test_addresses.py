"""Sources at addresses, against moto's S3 server on this machine: what is read how often, and what can be wrong."""

from __future__ import annotations

import http.server
import importlib.util
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import numpy as np
import pytest

from embedpipe.errors import DataError, UnreadableSample
from embedpipe.manifest.keys import content_key, text_key
from embedpipe.sources.base import Scanned, Seen, Source, open_source

_spec = importlib.util.spec_from_file_location("source_kinds", Path(__file__).parent / "kinds.py")
assert _spec is not None and _spec.loader is not None
kinds = importlib.util.module_from_spec(_spec)
sys.modules["source_kinds"] = kinds
_spec.loader.exec_module(kinds)

# botocore and moto still call what Python 3.12 deprecates
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def storage(endpoint: str) -> dict[str, Any]:
    region = {"region_name": "us-east-1"}
    return {"endpoint_url": endpoint, "key": "x", "secret": "y", "client_kwargs": region}


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> str:
    name = f"lake-{zlib.crc32(request.node.name.encode())}"
    client = botocore.session.get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id="x", aws_secret_access_key="y"
    )
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3(storage: dict[str, Any]) -> Any:
    import s3fs

    return s3fs.S3FileSystem(**storage)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the objects that are fetched, whole or in part, as they are."""
    import s3fs

    names: list[str] = []
    for method in ("_cat_file", "_get_file"):
        original = getattr(s3fs.S3FileSystem, method)

        def counted(self: Any, path: str, *args: Any, _original: Any = original, **more: Any) -> Any:
            names.append(path.rsplit("/", 1)[-1])
            return _original(self, path, *args, **more)

        monkeypatch.setattr(s3fs.S3FileSystem, method, counted)
    fetch_range = s3fs.core.S3File._fetch_range

    def counted_range(self: Any, *args: Any) -> Any:
        names.append(self.path.rsplit("/", 1)[-1])
        return fetch_range(self, *args)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted_range)
    s3fs.S3FileSystem.clear_instance_cache()  # instances have the methods that they were made with
    yield names
    s3fs.S3FileSystem.clear_instance_cache()


class Lake:
    """A kind's files in a bucket, and the source over them."""

    def __init__(self, kind: str, tmp_path: Path, s3: Any, bucket: str, storage: dict[str, Any]) -> None:
        self.made = kinds.KINDS[kind](tmp_path / "here")
        s3.put(str(tmp_path / "here") + "/", f"{bucket}/data/", recursive=True)
        self.options = {
            **self.made.options,
            "path": f"s3://{bucket}/data/{self.made.options['path']}",
            "storage": storage,
        }
        self.spool = tmp_path / "spool"

    def open(self, **more: Any) -> Source:
        return open_source(
            self.options, Path("/nowhere"), **{**self.made.open_with, "spool": self.spool, **more}
        )


@pytest.fixture
def lake(tmp_path: Path, s3: Any, bucket: str, storage: dict[str, Any]) -> Any:
    (tmp_path / "here").mkdir()
    return lambda kind: Lake(kind, tmp_path, s3, bucket, storage)


def scan(source: Source, known: dict[str, Seen] | None = None) -> list[Scanned]:
    return list(source.scan(known or {}))


def seen(samples: list[Scanned]) -> dict[str, Seen]:
    return {s.locator: Seen(s.stamp, s.key, s.reason, s.extra) for s in samples if s.stamp is not None}


@pytest.mark.parametrize("kind", ["folder", "table", "hdf5_nhwc", "npy", "npz", "zarr_group", "tar"])
def test_an_address_is_read_as_a_path_is(lake: Any, kind: str) -> None:
    at = lake(kind)
    source = at.open()
    found = {s.sample_id: s for s in scan(source)}
    assert [found[name].key for name in at.made.names] == at.made.keys
    if at.made.bad is not None:
        assert found[at.made.bad].key is None and found[at.made.bad].reason
    for i in (0, 7):
        image = np.asarray(source.read(found[at.made.names[i]].locator))
        np.testing.assert_array_equal(image, kinds.PIXELS[i])


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_what_is_unchanged_there_is_not_fetched_again(lake: Any, fetched: list[str], kind: str) -> None:
    at = lake(kind)
    first = scan(at.open())
    fetched.clear()
    again = scan(at.open(), seen(first))
    assert fetched == []
    assert [(s.sample_id, s.key, s.labels) for s in again] == [(s.sample_id, s.key, s.labels) for s in first]


def test_only_a_changed_object_is_fetched(lake: Any, fetched: list[str], s3: Any) -> None:
    at = lake("folder")
    first = scan(at.open())
    fetched.clear()
    s3.pipe_file(f"{at.options['path']}/{at.made.names[3]}", kinds.png(5))
    again = {s.sample_id: s.key for s in scan(at.open(), seen(first))}
    assert fetched == ["03.png"]
    assert again[at.made.names[3]] == content_key(kinds.png(5))


def test_with_content_as_identity_a_sample_is_read_twice(lake: Any, fetched: list[str]) -> None:
    at = lake("folder")
    source = at.open()
    good = [s for s in scan(source) if s.key is not None]
    for sample in good:
        source.read(sample.locator)
    assert all(fetched.count(f"{i:02d}.png") == 2 for i in range(kinds.NUM))


def test_with_an_etag_as_identity_a_sample_is_read_once_in_all(
    lake: Any, fetched: list[str], s3: Any
) -> None:
    at = lake("folder")
    source = at.open(version="etag")
    found = {s.sample_id: s for s in scan(source)}
    assert fetched == []
    assert len({s.key for s in found.values()}) == kinds.NUM + 1
    for name in at.made.names:
        source.read(found[name].locator)
    assert sorted(fetched) == [f"{i:02d}.png" for i in range(kinds.NUM)]
    s3.pipe_file(f"{at.options['path']}/{at.made.names[3]}", kinds.png(5))
    changed = {s.sample_id: s.key for s in scan(at.open(version="etag"))}
    assert [name for name in found if found[name].key != changed[name]] == [at.made.names[3]]


def test_with_an_etag_as_identity_of_a_shard_its_images_are_not_fetched_to_index_it(
    tmp_path: Path, s3: Any, bucket: str, storage: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    spans: list[int] = []
    fetch_range = s3fs.core.S3File._fetch_range

    def counted(self: Any, start: int, end: int) -> Any:
        spans.append(end - start)
        return fetch_range(self, start, end)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted)
    members = {f"{i}.png": bytes(100_000) for i in range(4)} | {"4.png": kinds.png(4), "4.cls": b"1"}
    kinds.write_tar(tmp_path / "0.tar", members)
    s3.put_file(str(tmp_path / "0.tar"), f"{bucket}/0.tar")
    options = {"kind": "tar", "path": f"s3://{bucket}/*.tar", "storage": storage}
    source = open_source(options, tmp_path, version="etag")
    samples = scan(source)
    assert len(samples) == 5 and samples[4].labels == {"cls": "1"}
    assert sum(spans) < 10_000
    np.testing.assert_array_equal(np.asarray(source.read(samples[4].locator)), kinds.PIXELS[4])


def test_with_a_spool_a_sample_is_read_once_in_all(lake: Any, fetched: list[str]) -> None:
    at = lake("folder")
    samples = [s for s in scan(at.open(spooling=True)) if s.key is not None]
    fetched.clear()
    later = at.open()  # as extract opens it
    for i, sample in enumerate(sorted(samples, key=lambda s: s.sample_id.rsplit("/")[-1])):
        np.testing.assert_array_equal(np.asarray(later.read(sample.locator)), kinds.PIXELS[i])
    assert fetched == []


@pytest.mark.parametrize("kind", ["tar", "hdf5_nhwc", "npy"])
def test_a_spooled_container_is_fetched_once(lake: Any, fetched: list[str], kind: str) -> None:
    at = lake(kind)
    first = scan(at.open(spooling=True))
    num = len(fetched)
    assert 0 < num <= 2
    later = at.open()
    later.read(next(s.locator for s in first if s.key is not None))
    scan(at.open(spooling=True), seen(first))
    at.open().read(next(s.locator for s in first if s.key is not None))
    assert len(fetched) == num


def test_copies_of_what_has_gone_are_removed(lake: Any, s3: Any) -> None:
    at = lake("folder")
    first = scan(at.open(spooling=True))
    kept = len(list(at.spool.glob("*/*")))
    s3.rm(f"{at.options['path']}/{at.made.names[3]}")
    scan(at.open(spooling=True), seen(first))
    assert len(list(at.spool.glob("*/*"))) == kept - 2  # the copy and its stamp
    scan(at.open(), seen(first))
    assert not list(at.spool.glob("*/*"))


def test_a_column_as_identity_reads_no_image(
    tmp_path: Path, s3: Any, bucket: str, storage: dict[str, Any], fetched: list[str]
) -> None:
    s3.pipe_file(f"{bucket}/t.csv", b"id,file,changed\na,x.png,1\nb,y.png,1\n")
    options = {"kind": "table", "path": f"s3://{bucket}/t.csv", "image": "file", "storage": storage}
    open_with = {"id_column": "id", "version": "changed", "spool": tmp_path / "spool"}
    first = scan(open_source(options, tmp_path, **open_with))
    s3.pipe_file(f"{bucket}/t.csv", b"id,file,changed\na,x.png,1\nb,y.png,2\n")
    second = scan(open_source(options, tmp_path, **open_with))
    assert set(fetched) == {"t.csv"}
    assert first[0].key == second[0].key and first[1].key != second[1].key


def test_a_table_there_is_fetched_once_while_it_stays(
    tmp_path: Path, s3: Any, bucket: str, storage: dict[str, Any], fetched: list[str]
) -> None:
    for part, text in (("a", "one"), ("b", "two")):
        s3.pipe_file(f"{bucket}/docs/{part}.jsonl", f'{{"id": "{part}", "body": "{text}"}}\n'.encode())
    options = {"kind": "table", "path": f"s3://{bucket}/docs/*.jsonl", "text": "body", "storage": storage}

    def opened() -> Source:
        return open_source(options, tmp_path, id_column="id", spool=tmp_path / "spool")

    samples = scan(opened())
    assert [(s.sample_id, s.key) for s in samples] == [("a", text_key("one")), ("b", text_key("two"))]
    assert [opened().read(s.locator) for s in samples] == ["one", "two"]
    scan(opened())
    assert sorted(fetched) == ["a.jsonl", "b.jsonl"]
    s3.pipe_file(f"{bucket}/docs/b.jsonl", b'{"id": "b", "body": "three"}\n')
    # until the next ingest, what is read is what was ingested
    assert opened().read(samples[1].locator) == "two"
    assert scan(opened())[1].key == text_key("three")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server over `tmp_path`, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, directory=str(tmp_path), **more)

        def log_message(self, *args: Any) -> None:
            asked.append(f"{self.command} {self.path.rsplit('/', 1)[-1]}")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["folder", "table", "hdf5_nhwc", "tar"])
def test_a_web_server_is_read_as_a_path_is(kind: str, web: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = web
    made = kinds.KINDS[kind](tmp_path)
    options = {**made.options, "path": f"{url}/{made.options['path']}"}
    first = scan(open_source(options, Path("/nowhere"), **made.open_with))
    found = {s.sample_id: s.key for s in first}
    assert [found[name] for name in made.names] == made.keys
    asked.clear()
    again = scan(open_source(options, Path("/nowhere"), **made.open_with), seen(first))
    assert {s.sample_id: s.key for s in again} == found
    kept = (".png", ".tar")
    assert not [one for one in asked if one.startswith("GET") and one.endswith(kept) and "absent" not in one]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"kind": "folder", "path": "s3://no-such-bucket/x"},
            "no-such-bucket/x: expected .*no such bucket or folder|",
        ),
        (
            {"kind": "table", "path": "s3://no-such-bucket/t.csv", "text": "t"},
            "expected a table, found no such file",
        ),
        ({"kind": "hdf5", "path": "s3://no-such-bucket/d.h5"}, "d.h5: expected a file, found none"),
        ({"kind": "arrays", "path": "s3://no-such-bucket/d.npy"}, "d.npy: expected a file, found none"),
        ({"kind": "tar", "path": "s3://no-such-bucket/*.tar"}, "expected tar shards, found none"),
    ],
)
def test_a_missing_bucket_is_one_sentence(
    storage: dict[str, Any], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        scan(open_source({**options, "storage": storage}, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_missing_credential_is_one_sentence(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = {"kind": "folder", "path": "s3://private/x", "storage": {"endpoint_url": endpoint}}
    with pytest.raises(
        DataError, match=r"s3://private/x: expected credentials, found none .*AWS_ACCESS_KEY_ID"
    ):
        scan(open_source(options, tmp_path))


def test_a_server_that_is_away_stops_the_run_and_is_no_unreadable_sample(lake: Any) -> None:
    at = lake("folder")
    locator = scan(at.open())[0].locator
    at.options["storage"] = {
        **at.options["storage"],
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 1},
    }
    source = at.open()
    source.files.storage["asynchronous"] = False  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="cannot be reached") as caught:
        source.read(locator)
    assert not isinstance(caught.value, UnreadableSample)


def test_a_protocol_that_nothing_reads_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot open addresses that start with nowhere://"):
        scan(open_source({"kind": "folder", "path": "nowhere://bucket/x"}, tmp_path))
