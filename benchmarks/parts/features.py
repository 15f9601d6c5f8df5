"""Features of any size made of real ones, and clocks: what the parts of `benchmarks/heads.py` share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
Figures = dict[str, object]


def features_of(store: Path, manifest: Path) -> tuple[np.ndarray, np.ndarray]:
    """All taps of a store side by side, flat, and a class for each sample.

    Of the default's digits the class is the digit; of any other store, which of ten parts of the first principal
    direction a sample lies in: no labels are needed, and a head has something to learn.
    """
    from embedpipe.features.features import Features
    from embedpipe.features.table import open_features
    from embedpipe.manifest.table import Manifest

    taps = [(store, tap) for tap in open_features(store).taps]
    features = Features.of(Manifest.read(manifest), taps, absent="drop")
    X = features.numpy().reshape(len(features), -1)
    if manifest.parent.name == "digits":
        from sklearn.datasets import load_digits

        numbers = [int("".join(c for c in name if c.isdigit())) for name in features.sample_ids]
        return X, load_digits().target[numbers].astype(np.int64)
    centred = X[:, X.std(axis=0) > 0].astype(np.float64)
    centred = (centred - centred.mean(axis=0)) / centred.std(axis=0)
    _, _, directions = np.linalg.svd(centred[:2000], full_matrices=False)
    along = centred @ directions[0]
    return X, np.searchsorted(np.quantile(along, np.arange(0.1, 0.95, 0.1)), along).astype(np.int64)


class Rows:
    """Features of any size made of real ones."""

    def __init__(self, store: Path, manifest: Path) -> None:
        self.X, self.codes = features_of(store, manifest)

    def make(self, num: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Float32 features (num, width) and codes."""
        rng = np.random.default_rng(seed)
        place = np.arange(num) % len(self.X)
        spread = self.X.std(axis=0)
        X = self.X[place] + 0.1 * spread * rng.standard_normal((num, self.X.shape[1]), dtype=np.float32)
        mixed = (X / np.maximum(spread, 1e-6)) @ rng.standard_normal((X.shape[1], width), dtype=np.float32)
        return np.maximum(mixed / X.shape[1] ** 0.5, 0).astype(np.float32), self.codes[place]


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def by_turns(repeats: int, *actions: Callable[[], object]) -> list[float]:
    """Median seconds of each."""
    times = [[seconds(action) for action in actions] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*times, strict=True)]
