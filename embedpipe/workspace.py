"""Where everything lies: the one place that knows the project's folders.

Paths that DVC tracks are relative to the folder of params.yaml; the working folder (feature stores
while they grow, finished heads, what ingest remembers) lies beside DVC's cache, so that finished files
can be published by hard link and `dvc exp run --temp` finds them. `EMBEDPIPE_CACHE` moves it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from embedpipe.errors import ConfigError


@dataclass(frozen=True)
class Workspace:
    """Folders of one project.

    Attributes
    ----------
    root : Path
        The folder of params.yaml; relative paths in it start here.
    work_dir : Path
        The working folder, on the filesystem of DVC's cache.
    """

    root: Path
    work_dir: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def manifest_dir(self, dataset: str) -> Path:
        return self.data / "manifests" / dataset

    def manifest(self, dataset: str) -> Path:
        return self.manifest_dir(dataset) / "samples.parquet"

    def labels(self, dataset: str) -> Path:
        return self.data / "labels" / f"{dataset}.parquet"

    def open_targets(self, task: str) -> Path:
        """Targets of all samples but those of the test."""
        return self.data / "targets" / f"{task}.parquet"

    def sealed_targets(self, task: str) -> Path:
        """Targets of the test: apart, so that nothing that trains or selects depends on them."""
        return self.data / "sealed" / f"{task}.parquet"

    def sealed_digest(self, task: str) -> Path:
        """Digest of the targets of the test: says that they changed, and none of them."""
        return self.data / "sealed" / f"{task}.digest"

    @property
    def watched_dir(self) -> Path:
        """Digests of the files that params.yaml names, which DVC does not look at."""
        return self.data / "watched"

    def watched_backbone(self, backbone: str) -> Path:
        return self.watched_dir / "backbones" / f"{backbone}.json"

    @property
    def watched_arms(self) -> Path:
        """Of all transfer arms together."""
        return self.watched_dir / "transfer.json"

    @property
    def source_dir(self) -> Path:
        return self.data / "source"

    def features(self, backbone: str) -> Path:
        return self.data / "features" / backbone

    def heads_dir(self, task: str) -> Path:
        return self.data / "heads" / task

    def predictions(self, task: str) -> Path:
        return self.data / "predictions" / f"{task}.parquet"

    def candidates(self, task: str) -> Path:
        """What every candidate of every arm says of validation samples."""
        return self.data / "predictions" / f"{task}.candidates.safetensors"

    def scores(self, task: str) -> Path:
        return self.data / "scores" / f"{task}.json"

    def cost(self, task: str) -> Path:
        """What each arm of a task cost: apart from its scores, since seconds differ from run to run."""
        return self.data / "cost" / f"{task}.json"

    def transfer_dir(self, task: str) -> Path:
        """Models, predictions and scores of a task's transfer arms."""
        return self.data / "transfer" / task

    def transfer_models_dir(self, task: str) -> Path:
        """Networks of a task's transfer arms."""
        return self.transfer_dir(task) / "models"

    def transfer_cost(self, task: str) -> Path:
        """What each transfer arm of a task cost."""
        return self.data / "cost" / f"{task}.transfer.json"

    @property
    def selection(self) -> Path:
        return self.data / "selection.json"

    @property
    def leaderboard(self) -> Path:
        return self.data / "leaderboard.json"

    @property
    def metrics(self) -> Path:
        return self.data / "metrics.json"

    @property
    def comparison(self) -> Path:
        return self.data / "comparison.json"

    @property
    def plots_dir(self) -> Path:
        return self.data / "plots"

    @property
    def report(self) -> Path:
        return self.data / "report" / "index.html"

    @property
    def test_log(self) -> Path:
        return self.root / "test_log.jsonl"

    @property
    def stores_dir(self) -> Path:
        """Working feature stores, one folder a backbone spec."""
        return self.work_dir / "stores"

    @property
    def memo_dir(self) -> Path:
        """Finished heads, by what they were trained from."""
        return self.work_dir / "heads"

    @property
    def moments_dir(self) -> Path:
        """Second moments of features that do not fit memory, by tap."""
        return self.work_dir / "moments"

    @property
    def transfer_memo_dir(self) -> Path:
        """Finished transfer arms, by what they were trained from."""
        return self.work_dir / "transfer"

    @property
    def runs_dir(self) -> Path:
        """State of training runs that are not done."""
        return self.work_dir / "runs"

    @property
    def watch_cache(self) -> Path:
        """What is remembered of files that have not changed."""
        return self.work_dir / "watch"

    def ingest_cache(self, dataset: str) -> Path:
        return self.work_dir / "ingest" / dataset


def find_workspace(start: Path | None = None) -> Workspace:
    """The project whose params.yaml is in `start` (default: the current folder).

    Raises
    ------
    ConfigError
        If there is no params.yaml.
    """
    root = (start or Path.cwd()).resolve()
    if not (root / "params.yaml").is_file():
        raise ConfigError(
            f"{root}: expected params.yaml, found none; run from the folder that holds it, or name it with --project"
        )
    return Workspace(root=root, work_dir=_work_dir(root))


def _work_dir(root: Path) -> Path:
    moved = os.environ.get("EMBEDPIPE_CACHE")
    if moved:
        return Path(moved).expanduser().resolve()
    dvc_dir = root / ".dvc"
    if not dvc_dir.is_dir():
        return root / ".embedpipe"
    # only DVC's configuration is read: opening its repository takes a second more
    from dvc.config import Config

    cache = Config(str(dvc_dir)).get("cache", {}).get("dir")
    cache_dir = Path(cache) if cache else dvc_dir / "cache"
    return (root / cache_dir).resolve().parent / "embedpipe"
