import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import projects

from embedpipe.cli.app import run


@pytest.fixture(autouse=True)
def no_moved_cache(monkeypatch):
    monkeypatch.delenv("EMBEDPIPE_CACHE", raising=False)


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run `embedpipe` in a project: gives exit code, stdout, stderr with the lines joined."""

    def call(root, *arguments):
        monkeypatch.chdir(root)
        capsys.readouterr()
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The small project after every step. Read it; do not change it."""
    root = projects.make_project(tmp_path_factory.mktemp("finished"))
    before = Path.cwd()
    os.chdir(root)
    try:
        for step in ("ingest", "extract", "train", "select", "compare", "report"):
            assert run([step]) == 0, step
    finally:
        os.chdir(before)
    return root
