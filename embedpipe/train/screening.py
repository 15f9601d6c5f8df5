"""Screen the taps of a task on its training samples, and remember what was found.

Neither validation nor test targets reach a screen: it is given labelled training rows alone.
"""

# n samples of the task, N labelled training rows

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from embedpipe.errors import ConfigError
from embedpipe.features.card import TapCard
from embedpipe.features.table import PublishedFeatures, open_features
from embedpipe.heads.rows import Rows
from embedpipe.manifest.table import Manifest
from embedpipe.manifest.targets import Targets
from embedpipe.progress import Progress, silent
from embedpipe.screen.screens import chosen_rows, screen
from embedpipe.train.fitting import fitting_backbones, present_in
from embedpipe.train.keys import Keys
from embedpipe.train.memo import Memo, code_digest
from embedpipe.train.memory import allowed_nbytes, rows_of
from embedpipe.train.samples import TaskSamples, task_samples

RESULT = "screen.json"


@cache
def code_of_screening() -> str:
    """Digest of the code and libraries that decide what a screen says: others than those of training."""
    return code_digest(
        [
            "embedpipe.screen",
            "embedpipe.evaluate.metrics",
            "embedpipe.evaluate.multilabel",
            "embedpipe.evaluate.numbers",
            "embedpipe.evaluate.sums",
            "embedpipe.heads.gram",
            "embedpipe.heads.linear",
            "embedpipe.heads.ridge_path",
        ],
        ["numpy", "scipy"],
    )


def screen_memo(memo_dir: Path) -> Memo:
    """Where screens are remembered; editing a head does not forget them."""
    return Memo(memo_dir, code_of_screening(), lambda entry: (entry / RESULT).is_file())


def screen_tap(
    memo: Memo,
    keys: Keys,
    samples: TaskSamples,
    features: Rows,
    *,
    by: str,
    seed: int,
    of_features: str | None = None,
) -> dict[str, Any]:
    """What the training rows say of one tap; recalled where it was asked before.

    Parameters
    ----------
    features
        Of the task's samples, in their order.
    of_features
        Their digest, where it is known.
    """
    train = samples.train
    rows = train[chosen_rows(len(train), seed, math.prod(features.shape[1:]))]

    def compute(folder: Path) -> None:
        X_ND = features.gather(rows).reshape(len(rows), -1)
        with threadpool_limits(limits=1 if X_ND.size < 20_000_000 else None):
            found = screen(
                X_ND,
                samples.truth[rows],
                kind=samples.kind,
                num_classes=len(samples.classes),
                by=by,
                groups=samples.groups[rows],
            )
        (folder / RESULT).write_text(json.dumps(found.to_dict(), sort_keys=True), encoding="utf-8")

    entry = memo.unit(keys.screen(of_features or keys.features(features)), compute)
    screened: dict[str, Any] = json.loads((entry / RESULT).read_text(encoding="utf-8"))
    return screened


def place_of(backbone: str, role: str, tap: TapCard) -> dict[str, Any]:
    """Where a screened tap stands."""
    return {"backbone": backbone, "role": role, "tap": tap.name, "depth": tap.depth}


def screen_task(
    *,
    features: Mapping[str, Path],
    manifest: Manifest,
    targets_path: Path,
    memo_dir: Path,
    by: str,
    seed: int,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Screen every tap of every backbone of a task; trains nothing.

    Returns
    -------
    list of dict
        ``backbone``, ``role``, ``tap``, ``depth`` and what `Screened` holds; by backbone, then depth.
    """
    targets = Targets.read(targets_path)
    if targets.kind == "dense":
        raise ConfigError(
            f"task {targets.task!r}: expected a task of a target a sample to rank taps by, found kind dense, whose "
            "places screens do not look at; train it"
        )
    stores: dict[str, PublishedFeatures] = {name: open_features(path) for name, path in features.items()}
    fitting, _ = fitting_backbones(targets.task, manifest, stores, None)
    stores = {name: stores[name] for name in fitting}
    samples = task_samples(manifest, targets, present_in(manifest, stores))
    memo, keys = screen_memo(memo_dir), Keys(samples, by, seed)
    places: Sequence[tuple[str, TapCard]] = [
        (name, tap)
        for name, store in stores.items()
        for tap in sorted(store.card.taps.values(), key=lambda one: (one.depth, one.name))
    ]
    found = []
    for done, (name, tap) in enumerate(places):
        keys_of_tap = samples.keys[stores[name].card.modality]
        of_tap = rows_of(stores[name], tap.name, keys_of_tap, allowed_nbytes())
        screened = screen_tap(memo, keys, samples, of_tap, by=by, seed=seed)
        found.append({**place_of(name, stores[name].card.role, tap), **screened})
        progress(done + 1, len(places), "taps")
    return found
