"""Grids of heads trained by gradient steps, against loops of torch modules that train the same members.

Parts of `benchmarks/heads.py`. Both sides make the same epochs over the same standardised rows in the same order,
from the same weights, and must end with the same ones (`*_error`); neither stops early. Theirs are written as
linear evaluations usually are: a list of `nn.Linear`, losses summed, one optimiser with a group a member; or one
run a member, each with its own pass over rows that lie in memory as one tensor, its own optimiser and shuffle.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Figures = dict[str, object]
BATCH, CLASSES, SEED = 256, 10, 0


class Made(Protocol):
    """Features of any size made of real ones."""

    def make(self, num: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Float32 features (num, width) and codes."""


def seconds_each(repeats: int, *actions: Callable[[], object]) -> list[float]:
    """Median seconds of each, by turns; the first round warms up and is not counted."""
    times = []
    for _ in range(repeats + 1):
        row = []
        for action in actions:
            began = time.perf_counter()
            action()
            row.append(time.perf_counter() - began)
        times.append(row)
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


def sgd(rows: Made, num: int, repeats: int) -> Figures:
    """52 linear heads: one stack, a loop of modules that share the batches, and separate runs."""
    grid = [
        {"lr": lr, "weight_decay": decay}
        for lr in np.geomspace(1e-4, 1e-1, 13)
        for decay in (0, 1e-5, 1e-4, 1e-3)
    ]
    figures: Figures = {}
    for width, tag, epochs in ((256, "", 2), (2048, "_wide", 1)):
        X, codes = rows.make(num, width)
        ours, loop, separate = _runs(X, codes, grid, epochs, "sgd", torch_linear, {})
        stack, shared, apart = seconds_each(repeats, ours, loop, separate)
        figures |= {
            f"sgd_speedup{tag}": shared / stack,
            f"sgd_vs_separate{tag}": apart / stack,
            f"sgd_seconds{tag}": stack,
            f"sgd_error{tag}": _difference(ours(), separate()),
        }
    return figures | {
        "sgd_about": f"N={num}, D=256 (2 epochs) and 2048 (1), K={CLASSES}, batch {BATCH}, 52 heads"
    }


def mlp(rows: Made, num: int, repeats: int) -> Figures:
    """16 perceptrons: one stack, and separate runs."""
    grid = [
        {"lr": lr, "weight_decay": decay} for lr in (1e-4, 1e-3, 3e-3, 1e-2) for decay in (0, 1e-3, 1e-2, 0.1)
    ]
    X, codes = rows.make(num, 256)
    figures: Figures = {}
    for hidden, tag in ((128, ""), (32, "_narrow")):
        ours, _, separate = _runs(X, codes, grid, 2, "mlp", torch_perceptron, {"hidden": hidden})
        stack, apart = seconds_each(repeats, ours, separate)
        figures |= {f"mlp_speedup{tag}": apart / stack, f"mlp_seconds{tag}": stack}
        figures[f"mlp_error{tag}"] = _difference(ours(), separate())
    return figures | {
        "mlp_about": f"N={num}, D=256, 128 units (narrow: 32), K={CLASSES}, batch {BATCH}, 2 epochs, 16"
    }


def torch_linear(num_features: int, **_: object) -> Any:
    """A linear head from zero."""
    import torch

    module = torch.nn.Linear(num_features, CLASSES)
    torch.nn.init.zeros_(module.weight)
    torch.nn.init.zeros_(module.bias)
    return module


def torch_perceptron(num_features: int, *, hidden: int) -> Any:
    """A perceptron from the weights that ours begins with."""
    import torch

    from embedpipe.heads.nets import PerceptronNet

    start = PerceptronNet(num_features, CLASSES, hidden).initial(torch.Generator().manual_seed(SEED))
    first, last = torch.nn.Linear(num_features, hidden), torch.nn.Linear(hidden, CLASSES)
    for layer, module in enumerate((first, last)):
        module.load_state_dict({"weight": start[f"{layer}.weights"], "bias": start[f"{layer}.bias"][:, 0]})
    return torch.nn.Sequential(first, torch.nn.ReLU(), last)


def _runs(
    X: np.ndarray,
    codes: np.ndarray,
    grid: Sequence[dict[str, float]],
    epochs: int,
    family: str,
    make: Callable[..., Any],
    shape: dict[str, Any],
) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """Our stack, their modules sharing the batches, and their separate runs; each gives probabilities of 50 rows."""
    import torch

    from embedpipe.heads.registry import fit_grid

    common = {"epochs": epochs, "patience": 0, "batch": BATCH, **shape}
    probe = X[:50]
    mean, spread = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
    scaled = torch.from_numpy(((X - mean) / np.where(spread > 0, spread, 1)).astype(np.float32))
    target = torch.from_numpy(codes)
    loss_of = torch.nn.functional.cross_entropy

    def optimiser_of(modules: Sequence[Any], members: Sequence[dict[str, float]]) -> Any:
        groups: list[dict[str, Any]] = []
        for module, member in zip(modules, members, strict=True):
            named = dict(module.named_parameters())
            weights = [p for name, p in named.items() if name.endswith("weight")]
            biases = [p for name, p in named.items() if name.endswith("bias")]
            groups += [{"params": weights, **member}, {"params": biases, **member, "weight_decay": 0.0}]
        if family == "sgd":
            return torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        return torch.optim.AdamW(groups)

    def train(members: Sequence[dict[str, float]]) -> list[Any]:
        modules = [make(X.shape[1], **shape) for _ in members]
        optimiser = optimiser_of(modules, members)
        generator = torch.Generator().manual_seed(SEED)
        for module in modules[:1]:  # what drawing the first weights takes from the generator
            if family == "mlp":
                for p in module.parameters():
                    torch.rand(p.shape, generator=generator)
        for _ in range(epochs):
            for index in torch.randperm(len(scaled), generator=generator).split(BATCH):
                x, y = scaled[index], target[index]
                optimiser.zero_grad()
                losses = [loss_of(module(x), y) for module in modules]
                torch.stack(losses).sum().backward()
                optimiser.step()
        return modules

    def judged(modules: Sequence[Any]) -> np.ndarray:
        with torch.no_grad():
            return np.stack([module(scaled[:50]).softmax(dim=1).numpy() for module in modules])

    def ours() -> np.ndarray:
        heads = fit_grid(
            family, [{**common, **member} for member in grid], X, codes, kind="classes", seed=SEED
        )
        return np.stack([head.predict_proba(probe) for head in heads])  # type: ignore[attr-defined]

    def loop() -> np.ndarray:
        return judged(train(grid))

    def separate() -> np.ndarray:
        return judged([train([member])[0] for member in grid])

    return ours, loop, separate


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference between probabilities."""
    return float(np.abs(ours - theirs).max())


PARTS: dict[str, Callable[[Made, int, int], Figures]] = {"sgd": sgd, "mlp": mlp}
