"""Images in an object store, from ingest to heads: how often each is fetched in all."""

import logging
import re
from collections import Counter

import botocore.session
import projects
import pytest

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


def fetched(caplog):
    """How often the server was asked for each image, by its log."""
    asked = re.findall(r"GET \S+/(\w+\.png) HTTP", "\n".join(caplog.messages))
    return Counter(asked)


@pytest.mark.parametrize(
    ("options", "times"),
    [({}, 2), ({"version": "etag"}, 1), ({"spool": True}, 1)],
    ids=["content", "etag", "spool"],
)
def test_a_remote_image_is_fetched_as_often_as_is_promised(
    options, times, endpoint, tmp_path, cli, monkeypatch, caplog
):
    import s3fs

    caplog.set_level(logging.INFO, logger="werkzeug")
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "y"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)  # credentials come from the environment
    bucket = f"photos-{times}-{len(options)}-{next(iter(options), 'content')}"
    botocore.session.get_session().create_client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    root = projects.make_project(tmp_path / "p", num_per_class=6)
    s3fs.S3FileSystem(endpoint_url=endpoint).put(str(root / "images"), f"{bucket}/", recursive=True)
    params = projects.small_params()
    params["datasets"]["shapes"] |= {
        "source": {"kind": "folder", "path": f"s3://{bucket}/images", "storage": {"endpoint_url": endpoint}},
        **options,
    }
    params["backbones"] = {"pixels": {"model": "pixels", "taps": {"pixels": ["flatten"]}}}
    projects.write_params(root, params)
    for step in ("ingest", "extract"):
        code, _, err = cli(root, step)
        assert code == 0, err
    counts = fetched(caplog)
    assert len(counts) == 18 and set(counts.values()) == {times}
    for step in ("ingest", "extract"):
        assert cli(root, step)[0] == 0
    assert fetched(caplog) == counts
