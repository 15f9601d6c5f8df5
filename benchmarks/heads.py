"""Whole grids of heads in one pass, against loops of single fits.

    python benchmarks/heads.py [--num 20000] [--repeats 3] [--store data/features/glyphnet] [--only ridge,...]

Features are of scikit-learn's digits, embedded by the default run's backbone (`make repro` makes the store). Where
a figure needs more rows than there are, the rows are repeated with noise of a tenth of each column's spread; where
it needs more columns, they are mixed into as many by one random matrix and rectified, which leaves them as
correlated as a network's are. Medians over repeats, ours and theirs by turns; a reference that would take minutes
is timed on a sample, which the result names. Ends with one JSON object of named figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import neural
import numpy as np

ROOT = Path(__file__).parent.parent
Figures = dict[str, object]


def digits_features(store: Path) -> tuple[np.ndarray, np.ndarray]:
    """All taps of the store side by side, and the digit of each sample."""
    from sklearn.datasets import load_digits

    from embedpipe.features.features import Features
    from embedpipe.features.table import open_features
    from embedpipe.manifest.table import Manifest

    taps = [(store, tap) for tap in open_features(store).taps]
    features = Features.of(Manifest.read(ROOT / "data/manifests/digits/samples.parquet"), taps)
    numbers = [int("".join(c for c in name if c.isdigit())) for name in features.sample_ids]
    return features.numpy(), load_digits().target[numbers].astype(np.int64)


class Rows:
    """Features of any size made of real ones."""

    def __init__(self, store: Path) -> None:
        self.X, self.codes = digits_features(store)

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


def ridge(rows: Rows, num: int, repeats: int) -> Figures:
    """45 strengths x 10 folds, and leave-one-out."""
    from sklearn.linear_model import Ridge, RidgeCV

    from embedpipe.heads.ridge_path import fold_scores, ridge_path

    width = 1024
    X, codes = rows.make(num, width)
    Y, wide = np.eye(10)[codes], X.astype(np.float64)
    alphas, folds = np.geomspace(1e-2, 1e6, 45), np.arange(num) % 10
    sample = [(0, 3), (4, 22), (9, 40)]

    def ours() -> list[tuple[np.ndarray, np.ndarray]]:
        return list(fold_scores(X, Y, folds, alphas, standardise=False))

    def theirs() -> list[np.ndarray]:
        return [
            Ridge(alpha=alphas[a]).fit(wide[folds != fold], Y[folds != fold]).predict(wide[folds == fold])
            for fold, a in sample
        ]

    def ours_loo() -> float:
        path = ridge_path(X, Y, standardise=False)
        left_out = path.loo_scores(X, Y, None, None)
        return min(np.square(Y - scores).mean() for scores in left_out.each(alphas))

    theirs_loo = RidgeCV(alphas=alphas)
    found = ours()
    error = max(
        float(np.abs(found[fold][1][a] - wanted).max())
        for (fold, a), wanted in zip(sample, theirs(), strict=True)
    )
    whole, part = by_turns(repeats, ours, theirs)
    loo, loo_theirs = by_turns(1, ours_loo, lambda: theirs_loo.fit(wide, Y))
    fits = len(alphas) * 10
    return {
        "ridge_speedup": part / len(sample) * fits / whole,
        "ridge_seconds": whole,
        "ridge_loo_speedup": loo_theirs / loo,
        "ridge_error": error,
        "ridge_about": f"N={num}, D={width}, {len(sample)} of {fits} scikit-learn fits timed; RidgeCV whole, once",
    }


PARTS: dict[str, Callable[[Rows, int, int], Figures]] = {"ridge": ridge, **neural.PARTS}


def machine() -> dict[str, object]:
    """What it ran on."""
    import sklearn
    import torch

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
        "load_1min": round(os.getloadavg()[0], 1),
    }


def rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=20_000, help="rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--store", type=Path, default=ROOT / "data/features/glyphnet")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    options = parser.parse_args()
    rows, figures = Rows(options.store), {}
    for name in options.only.split(","):
        figures |= PARTS[name](rows, options.num, options.repeats)
        print(
            name, {key: rounded(value) for key, value in figures.items() if key.startswith(name)}, flush=True
        )
    about = {"machine": machine(), "num": options.num, "repeats": options.repeats}
    print(json.dumps({**{key: rounded(value) for key, value in figures.items()}, **about}))


if __name__ == "__main__":
    main()
