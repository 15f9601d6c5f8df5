"""The small project under git and real DVC, with the checkout's own dvc.yaml, stages and code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import projects

LOCAL = ("cache", "data")  # what a clone does not have


class DvcProject:
    """A project folder and the commands run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DVC", "EMBEDPIPE"))
        }
        binaries = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return {**kept, "PATH": binaries, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}

    def command(self, *arguments: str) -> list[str]:
        module = {"dvc": [sys.executable, "-m", "dvc"], "embedpipe": [sys.executable, "-m", "embedpipe"]}
        return [*module.get(arguments[0], [arguments[0]]), *arguments[1:]]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), cwd=self.root, env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments), cwd=self.root, env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def repro(self, *targets: str) -> str:
        return self.run("dvc", "repro", *(targets or ("extract",)))

    def commit(self, message: str = "step") -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def add_images(self, number: int = 1, seed: int = 99) -> None:
        generator = np.random.default_rng(seed)
        for i in range(number):
            image = projects.draw("circle", generator)
            image.save(self.root / f"images/circle/new{seed}_{i}.png")

    def shards(self) -> list[Path]:
        return sorted(
            p for p in (self.root / "data/features").rglob("*") if "/c/" in p.as_posix() and p.is_file()
        )

    def clone(self, target: Path) -> DvcProject:
        subprocess.run(["git", "clone", "-q", str(self.root), str(target)], check=True)
        other = DvcProject(target)
        other.identify()
        return other

    def identify(self) -> None:
        self.run("git", "config", "user.email", "a@example.org")
        self.run("git", "config", "user.name", "a")


def make_dvc_project(root: Path, remote: Path, num_per_class: int = 24) -> DvcProject:
    """One backbone, extracted, committed and pushed to a remote that is a folder."""
    params = projects.small_params()
    del params["backbones"]["pixels"]
    params["baselines"] = ["majority"]
    projects.make_project(root, params, num_per_class)
    for name in ("embedpipe", "stages"):
        shutil.copytree(projects.REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(projects.REPOSITORY / "dvc.yaml", root / "dvc.yaml")
    (root / "data/source").mkdir(parents=True)
    (root / "data/source/.gitkeep").touch()
    (root / ".gitignore").write_text("__pycache__/\n")
    project = DvcProject(root)
    project.run("git", "init", "-q")
    project.identify()
    project.run("dvc", "init", "-q")
    project.run("dvc", "config", "cache.type", "hardlink")
    project.run("dvc", "config", "core.analytics", "false")
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n/embedpipe\n")
    remote.mkdir(parents=True)
    project.run("dvc", "remote", "add", "-q", "-d", "store", str(remote))
    assert "net: 72 embedded" in project.repro() or num_per_class != 24
    project.commit()
    project.run("dvc", "push", "-q")
    return project
