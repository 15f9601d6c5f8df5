"""Whole files: written atomically, read without threads that would outlive the reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from embedpipe.errors import DataError
from embedpipe.manifest.files import read_parquet, write_bytes, write_parquet


def test_a_failed_write_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_a_missing_table_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; run it"):
        read_parquet(tmp_path / "x.parquet", "run it")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_reading_a_table_starts_no_thread_that_could_abort_the_exit(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", pa.table({"a": list(range(1000)), "b": ["x"] * 1000}))
    code = (
        "import os, sys, pathlib; from embedpipe.manifest.files import read_parquet; "
        "before = len(os.listdir('/proc/self/task')); "
        "table = read_parquet(pathlib.Path(sys.argv[1]), ''); "
        "print(table.num_rows, len(os.listdir('/proc/self/task')) - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.parquet")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["1000", "0"]
