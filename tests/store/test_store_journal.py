"""The journal: whole records come back, a torn tail does not, and the disk is asked every few seconds."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from embedpipe.errors import DiskFullError
from embedpipe.store.journal import Binding, Journal, read_journal

TAPS = {"a.gap": ["float16", 3], "b.none": ["float32", 2, 2]}
BINDING = Binding("digest", 8, 12, 2, TAPS)
KEYS = np.arange(80, dtype=np.uint8).reshape(4, 20)


def values(seed: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "a.gap": rng.standard_normal((n, 3)).astype(np.float16),
        "b.none": rng.standard_normal((n, 2, 2)).astype(np.float32),
    }


def filled(path: Path) -> list[int]:
    """Two records; where the file ended after the head and after each."""
    journal = Journal(path, BINDING, KEYS, sync_every_s=0.0)
    journal.append(np.array([8, 9]), values(0, 2), {})
    ends = [_end_of_record(path.read_bytes()), path.stat().st_size]
    journal.append(np.array([11]), values(1, 1), {10: "unreadable: cut short"})
    ends.append(path.stat().st_size)
    journal.close()
    return ends


def _end_of_record(data: bytes) -> int:
    """Where the first record ends: a prefix with the lengths of what follows, and a checksum."""
    _, head_nbytes, payload_nbytes = struct.unpack("<4sIQ", data[:16])
    return 16 + int(head_nbytes) + int(payload_nbytes) + 4


def test_a_journal_cut_anywhere_gives_its_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "b.journal"
    ends = filled(path)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        found = read_journal(path)
        if cut < ends[0]:
            assert found is None
            continue
        assert found is not None
        assert found.binding == BINDING
        np.testing.assert_array_equal(found.keys, KEYS)
        num_records = sum(cut >= end for end in ends[1:])
        assert len(found.records) == num_records
        for i, (rows, n) in enumerate([([8, 9], 2), ([11], 1)][:num_records]):
            assert found.records[i].rows.tolist() == rows
            for name, expected in values(i, n).items():
                np.testing.assert_array_equal(found.read(found.records[i], name), expected)
    assert found is not None and found.records[1].holes == {10: "unreadable: cut short"}


def test_a_flipped_byte_ends_the_journal_before_its_record(tmp_path: Path) -> None:
    path = tmp_path / "b.journal"
    ends = filled(path)
    whole = path.read_bytes()
    for at in range(ends[1], ends[2]):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = read_journal(path)
        assert found is not None and len(found.records) == 1


def test_resuming_cuts_the_torn_tail_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "b.journal"
    ends = filled(path)
    path.write_bytes(path.read_bytes()[: ends[2] - 1])
    journal = Journal.resume(path, BINDING)
    assert journal is not None
    journal.append(np.array([10]), values(2, 1), {})
    journal.sync()
    journal.close()
    found = read_journal(path)
    assert found is not None
    assert [record.rows.tolist() for record in found.records] == [[8, 9], [10]]
    np.testing.assert_array_equal(found.read(found.records[1], "a.gap"), values(2, 1)["a.gap"])


def test_the_journal_of_another_plan_is_not_resumed(tmp_path: Path) -> None:
    filled(tmp_path / "b.journal")
    assert Journal.resume(tmp_path / "b.journal", Binding("other", 8, 12, 2, TAPS)) is None
    assert Journal.resume(tmp_path / "absent.journal", BINDING) is None


def test_the_disk_is_asked_to_sync_every_few_seconds_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    now = [0.0]
    journal = Journal(tmp_path / "b.journal", BINDING, KEYS, sync_every_s=5.0, clock=lambda: now[0])
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(now[0]))
    for second in range(13):
        now[0] = float(second)
        journal.append(np.array([8]), values(0, 1), {})
        assert journal.is_on_disk == (second >= 5)
    journal.close()
    assert sorted(set(synced)) == [5.0, 10.0]
    found = read_journal(tmp_path / "b.journal")
    assert found is not None and len(found.records) == 11


def test_what_is_held_and_what_is_on_disk_read_the_same(tmp_path: Path) -> None:
    now = [0.0]
    journal = Journal(tmp_path / "b.journal", BINDING, KEYS, sync_every_s=5.0, clock=lambda: now[0])
    journal.append(np.array([8, 9]), values(0, 2), {})
    now[0] = 6.0
    journal.append(np.array([10]), values(1, 1), {})
    journal.append(np.array([11]), values(2, 1), {})
    for name in TAPS:
        found = [(rows.tolist(), array.copy()) for rows, array in journal.values(name)]
        assert [rows for rows, _ in found] == [[8, 9], [10], [11]]
        for i, (rows, array) in enumerate(found):
            np.testing.assert_array_equal(array, values(i, len(rows))[name])
    journal.close()


def test_too_much_to_hold_is_written_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedpipe.store.journal.HELD_NBYTES", 60)
    journal = Journal(tmp_path / "b.journal", BINDING, KEYS, clock=lambda: 0.0)
    journal.append(np.array([8, 9]), values(0, 2), {})
    assert not journal.is_on_disk
    journal.append(np.array([10, 11]), values(1, 2), {})
    assert journal.is_on_disk
    journal.close()


def test_what_could_not_be_written_may_be_appended_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "b.journal", BINDING, KEYS, sync_every_s=0.0)
    journal.append(np.array([8, 9]), values(0, 2), {})

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFullError, match="the disk is full"):
            journal.append(np.array([10]), values(1, 1), {})
    journal.append(np.array([10]), values(1, 1), {})
    journal.close()
    found = read_journal(tmp_path / "b.journal")
    assert found is not None
    assert [record.rows.tolist() for record in found.records] == [[8, 9], [10]]
