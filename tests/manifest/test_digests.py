"""Digests of files: read once, read again when anything about them changed, and never trusted too young."""

import hashlib
import json
import os

import pytest

from embedpipe.digests import FileDigests

OLD = 1_700_000_000


def settled(path, content, when=OLD):
    path.write_bytes(content)
    os.utime(path, (when, when))
    return path


def digests_of(tmp_path, *paths):
    digests = FileDigests(tmp_path / "cache", tmp_path)
    found = [digests.of(path) for path in paths]
    digests.keep()
    return found, digests.num_read


def test_a_digest_is_of_the_content_and_a_file_is_read_once(tmp_path):
    path = settled(tmp_path / "a.bin", b"weights")
    expected = hashlib.blake2b(b"weights", digest_size=16).hexdigest()
    assert digests_of(tmp_path, path) == ([expected], 1)
    assert digests_of(tmp_path, path) == ([expected], 0)


def test_a_touched_file_is_read_again_and_has_the_same_digest(tmp_path):
    path = settled(tmp_path / "a.bin", b"weights")
    before, _ = digests_of(tmp_path, path)
    os.utime(path, (OLD + 60, OLD + 60))
    assert digests_of(tmp_path, path) == (before, 1)


def test_another_content_of_the_same_size_and_time_in_another_file_is_seen(tmp_path):
    path = settled(tmp_path / "a.bin", b"weights")
    before, _ = digests_of(tmp_path, path)
    settled(tmp_path / "b.bin", b"WEIGHTS").replace(path)  # another inode
    after, num_read = digests_of(tmp_path, path)
    assert after != before and num_read == 1


def test_a_file_written_just_now_is_not_remembered(tmp_path):
    """A second write within the same tick of the clock would leave size, time and inode as they were."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"weights")
    digests_of(tmp_path, path)
    assert digests_of(tmp_path, path)[1] == 1


@pytest.mark.parametrize("damage", ["", "[]", '{"version": 1, "files": [1]}', '{"version": 0, "files": {}}'])
def test_a_damaged_memory_is_made_anew(tmp_path, damage):
    path = settled(tmp_path / "a.bin", b"weights")
    before, _ = digests_of(tmp_path, path)
    (memory,) = (tmp_path / "cache").iterdir()
    memory.write_text(damage)
    assert digests_of(tmp_path, path) == (before, 1)
    assert json.loads(memory.read_text())["files"]


def test_a_damaged_entry_is_made_anew(tmp_path):
    path = settled(tmp_path / "a.bin", b"weights")
    before, _ = digests_of(tmp_path, path)
    (memory,) = (tmp_path / "cache").iterdir()
    memory.write_text(json.dumps({"version": 1, "files": {str(path.resolve()): 3}}))
    assert digests_of(tmp_path, path) == (before, 1)


def test_files_that_are_no_longer_asked_for_are_forgotten(tmp_path):
    one, other = settled(tmp_path / "a.bin", b"a"), settled(tmp_path / "b.bin", b"b")
    digests_of(tmp_path, one, other)
    digests_of(tmp_path, one)
    assert digests_of(tmp_path, other)[1] == 1
