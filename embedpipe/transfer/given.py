"""What the arms of one task stand on: the same samples, stores and heads as training had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.features.table import PublishedFeatures
from embedpipe.manifest.table import Manifest
from embedpipe.train.plan import Unit
from embedpipe.train.samples import TaskSamples
from embedpipe.transfer.images import Reader
from embedpipe.transfer.network import OpenedBackbone


@dataclass(frozen=True)
class Given:
    """What the arms of a task stand on.

    Attributes
    ----------
    samples : TaskSamples
        The same as the heads'.
    manifest : Manifest
    source : Reader
        Of the manifest's images.
    stores : mapping of backbone to PublishedFeatures
    units : mapping of arm to Unit
        Heads on taps, as training planned them.
    scores, chosen : dict
        `data/scores/<T>.json`, and the task's entry of the selection.
    heads_dir, root : Path
        Of the task's heads; of params.yaml.
    open_backbone : callable
        From a name to the backbone as its store was made.
    seed, memory_nbytes : int
    """

    samples: TaskSamples
    manifest: Manifest
    source: Reader
    stores: Mapping[str, PublishedFeatures]
    units: Mapping[str, Unit]
    scores: Mapping[str, Any]
    chosen: Mapping[str, Any]
    heads_dir: Path
    root: Path
    open_backbone: Callable[[str], OpenedBackbone]
    seed: int
    memory_nbytes: int
