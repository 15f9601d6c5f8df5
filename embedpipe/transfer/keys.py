"""Keys of finished arms: everything that a fit depends on, and nothing else."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from embedpipe.heads.module import head_module
from embedpipe.train.memo import code_digest
from embedpipe.train.samples import TaskSamples
from embedpipe.training import world
from embedpipe.transfer.arms import Job
from embedpipe.transfer.options import ArmOptions, DirectOptions, LoadOptions, TrainedOptions
from embedpipe.transfer.start import Start


@cache
def code_of_transfer() -> str:
    """Digest of the code and libraries that decide what an arm predicts."""
    return code_digest(
        [
            "embedpipe.backbones",
            "embedpipe.heads",
            "embedpipe.reduce",
            "embedpipe.training",
            "embedpipe.transfer",
            "embedpipe.evaluate.metrics",
            "embedpipe.evaluate.multilabel",
            "embedpipe.evaluate.numbers",
            "embedpipe.evaluate.sums",
            "embedpipe.manifest.kinds",
            "embedpipe.manifest.kshot",
            "embedpipe.train.fit",
            "embedpipe.train.samples",
        ],
        ["numpy", "scikit-learn", "torch", "torchvision"],
    )


class Keys:
    """Keys of one task's arms.

    Parameters
    ----------
    samples : TaskSamples
    by : str
        Metric that chooses.
    seed : int
    root : Path
        Folder of params.yaml.
    """

    def __init__(self, samples: TaskSamples, by: str, seed: int, root: Path) -> None:
        self._root = root
        self._of_task = {
            "spec": samples.spec.to_dict(),
            "truth": digest_of(samples.truth),
            "splits": digest_of(np.char.encode(samples.splits)),
            "keys": {name: digest_of(keys) for name, keys in samples.keys.items()},
            # samples of no weight are not learnt from
            **({} if samples.weight is None else {"train": digest_of(samples.train)}),
            "by": by,
            "seed": seed,
        }

    def fit(self, job: Job, options: ArmOptions, device: torch.device, k: int) -> dict[str, Any]:
        """What every fit depends on; a head that it starts from and its draws come beside it."""
        left_out = {"tasks", "backbones", "k_shot", "draws", "device"}
        names = job.opened.source_classes if isinstance(options, DirectOptions) else None
        return {
            **self._of_task,
            "fit": "transfer",
            "options": options.model_dump(mode="json", exclude=left_out),
            "weights": self._digest_of_weights(options),
            "backbone": job.opened.store.card.spec.fingerprint,
            "source_classes": None if names is None else list(names),
            "device": device.type,
            "processes": world().size,
            "k_shot": k,
        }

    def _digest_of_weights(self, options: ArmOptions) -> str | None:
        """Of the file of weights that an arm names; whether it can be read is found when it is loaded."""
        load = options.load if isinstance(options, TrainedOptions) else None
        if not isinstance(load, LoadOptions) or load.weights is None:
            return None
        path = self._root / load.weights
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if path.is_file() else None


def start_key(start: Start) -> dict[str, Any]:
    """What of a start an arm depends on."""
    module = head_module(start.head)
    state = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        state.update(name.encode() + b"\0" + value.contiguous().numpy().tobytes())
    return {
        "parts": [part.to_dict() for part in start.unit.parts],
        "head": module.describe(),
        "tensors": state.hexdigest(),
    }


def digest_of(array: npt.NDArray[Any]) -> str:
    state = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
