import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
import projects

from embedpipe.cli.app import run
from embedpipe.extract.engine import CpuEngine


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


@pytest.fixture
def passes(monkeypatch):
    """Samples of each pass through a backbone."""
    counted = []
    submit = CpuEngine.submit

    def counting(self, pixels):
        counted.append(len(pixels))
        return submit(self, pixels)

    monkeypatch.setattr(CpuEngine, "submit", counting)
    return counted


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


@pytest.fixture(scope="session")
def tracked_template(tmp_path_factory):
    """The small project under DVC, extracted, committed and pushed. Copy it; do not change it."""
    import dvc_projects

    folder = tmp_path_factory.mktemp("tracked")
    return dvc_projects.make_dvc_project(folder / "project", folder / "remote")


@pytest.fixture
def tracked(tracked_template, tmp_path):
    """A project under DVC that may be changed, hard links kept, with a remote of its own."""
    import subprocess

    import dvc_projects

    source = tracked_template.root.parent
    for name in ("project", "remote"):
        subprocess.run(["cp", "-a", str(source / name), str(tmp_path / name)], check=True)
    project = dvc_projects.DvcProject(tmp_path / "project")
    project.run("dvc", "remote", "modify", "store", "url", str(tmp_path / "remote"))
    project.commit("remote")
    return project
