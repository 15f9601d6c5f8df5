"""Make realistic input for the report: a comparison, a leaderboard, cards.

    python tests/report/make_sample.py OUT.html [NUM_ROWS]

writes a page to look at. Figures follow simple saturating curves plus seeded noise; nothing is trained.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

SHOTS: list[int | str] = [1, 5, 20, "all"]
BACKBONES = {
    "glyphnet": ("transferred", "glyphnet", "source:letters"),
    "glyphnet_random": ("random", "glyphnet", "random:0"),
    "pixels": ("pixels", "pixels", ""),
}
NODES = [("blocks.0", 0.25), ("blocks.1", 0.5), ("blocks.2", 0.75), ("blocks.3", 1.0)]
REDUCTIONS = ["gap", "grid:2"]
HEADS = {"logistic": {"C": 0.1}, "ridge": {"alpha": 10.0}, "knn": {"k": 10}}
DIGITS = [str(digit) for digit in range(10)]


def taps(backbone: str) -> list[tuple[str, str, str, float]]:
    """(tap, node, reduction, depth) of one backbone."""
    if backbone == "pixels":
        return [("pixels.flatten", "pixels", "flatten", 0.0)]
    return [
        (f"{node}.{reduction.replace(':', '')}", node, reduction, depth)
        for node, depth in NODES
        for reduction in REDUCTIONS
    ]


def quality(backbone: str, reduction: str, depth: float, k_shot: int | str) -> float:
    """A share between 0 and 1 that rises with labels and peaks at the third block."""
    labels = 100 if k_shot == "all" else int(k_shot)
    grown = labels / (labels + 1.6)
    level = {
        "glyphnet": 1.0 - 0.55 * (depth - 0.72) ** 2,
        "glyphnet_random": 0.86 - 0.2 * depth,
        "pixels": 0.93,
    }
    return 0.1 + 0.9 * grown * level[backbone] * (1.0 if reduction != "gap" else 0.86)


def interval(rng: random.Random, value: float, half: float) -> dict[str, float]:
    low, high = half * rng.uniform(0.8, 1.2), half * rng.uniform(0.8, 1.2)
    return {"value": value, "ci_low": value - low, "ci_high": value + high}


def make_sample(
    num_rows: int | None = None, *, seed: int = 0, opened: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Comparison, leaderboard and cards of two classification tasks and a regression.

    Parameters
    ----------
    num_rows
        Repeat the leaderboard with other strengths until it has this many rows; None leaves it alone.
    opened
        Whether the test was opened for the selected arms.
    """
    rng = random.Random(seed)
    leaderboard: list[dict[str, Any]] = []
    tasks = {}
    for name, classes in (("digit", DIGITS), ("parity", ["even", "odd"]), ("slant", [])):
        tasks[name], rows = make_task(rng, name, classes, opened=opened)
        leaderboard += rows
    if num_rows is not None:
        leaderboard = grown(rng, leaderboard, num_rows)
    transferred, pixels, noise = 0.921, 0.818, 0.772
    headline = {
        "sentence": "With 5 labels a class on `digit`, transferred features (glyphnet) reach 92.1 %: "
        "14.9 points [11.8, 18.3] ahead of random weights and 10.3 [7.1, 13.8] ahead of pixels "
        "(balanced accuracy, validation, 10 draws; 95 % bootstrap over samples and draws).",
        "task": "digit",
        "metric": "balanced_accuracy",
        "k_shot": 5,
        "draws": 10,
        "num_samples": 271,
        "num_classes": 10,
        "differences": [
            {
                "name": "transferred - pixels",
                "value": transferred - pixels,
                "ci_low": 0.071,
                "ci_high": 0.138,
            },
            {"name": "transferred - random", "value": transferred - noise, "ci_low": 0.118, "ci_high": 0.183},
        ],
        "arms": [
            {"role": "transferred", "backbone": "glyphnet", **interval(rng, transferred, 0.022)},
            {"role": "random", "backbone": "glyphnet_random", **interval(rng, noise, 0.031)},
            {"role": "pixels", "backbone": "pixels", **interval(rng, pixels, 0.028)},
        ],
    }
    ranked = {"tasks": list(tasks), "left_out": ["svm"], "friedman_p": None, "critical_difference": None}
    ranks = {
        "heads": {
            **ranked,
            "mean_ranks": {"ridge": 1.33, "knn": 1.67},
            "note": "3 tasks are too few to test",
        },
        "backbones": None,
    }
    comparison = {
        "headline": headline,
        "tasks": tasks,
        "ranks": ranks,
        "test": "sealed",
        "test_openings": int(opened),
        "seed": seed,
    }
    return comparison, leaderboard, {name: make_card(name) for name in BACKBONES}


def make_task(
    rng: random.Random, name: str, classes: list[str], *, opened: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows, learning, layers = [], [], []
    metric = "balanced_accuracy" if classes else "r2"
    shots = SHOTS if classes else ["all"]
    for k_shot in shots:
        own = []
        for backbone, (role, _, _) in BACKBONES.items():
            best: dict[str, Any] | None = None
            for tap, node, reduction, depth in taps(backbone):
                top: dict[str, Any] | None = None
                for head, params in HEADS.items():
                    value = quality(backbone, reduction, depth, k_shot) + rng.gauss(0, 0.008)
                    value = min(value - {"logistic": 0.0, "ridge": 0.006, "knn": 0.02}[head], 0.995)
                    half = 0.012 if k_shot == "all" else 0.03
                    row = make_row(rng, name, f"{head}@{backbone}/{tap}", value, half, classes, k_shot)
                    row |= {
                        "backbone": backbone,
                        "tap": tap,
                        "head": head,
                        "role": role,
                        "params": dict(params),
                    }
                    own.append(row)
                    if top is None or value > top["val"][metric]["value"]:
                        top = row
                assert top is not None
                place = {"tap": tap, "node": node, "reduction": reduction, "depth": depth, "k_shot": k_shot}
                layers.append({"backbone": backbone, "role": role, **place, **top["val"][metric]})
                if best is None or top["val"][metric]["value"] > best["val"][metric]["value"]:
                    best = top
            assert best is not None
            learning.append({"backbone": backbone, "role": role, "k_shot": k_shot, **best["val"][metric]})
        for baseline in ("majority", "shuffled_labels"):
            floor = 1 / len(classes) if classes else -0.02
            row = make_row(rng, name, baseline, floor, 0.012, classes, k_shot)
            row |= {"baseline": True, "note": "what no learning gives" if baseline == "majority" else None}
            own.append(row)
        own.sort(key=lambda row: -row["val"][metric]["value"])
        own[0]["selected"] = True
        if opened:
            own[0]["test"] = own[0]["val"]
        rows.append(own)
    everything = [row for own in reversed(rows) for row in own]
    first = everything[0]
    ahead = [row for row in everything if row["k_shot"] == "all" and row is not first]
    paired = [
        {
            "arm": row["arm"],
            **interval(rng, row["val"][metric]["value"] - first["val"][metric]["value"], 0.009),
        }
        for row in ahead
    ]
    task = {
        "kind": "classes" if classes else "number",
        "classes": classes,
        "num": {"train": 1255, "val": 271, "test": 271, "excluded": 0, "missing": 0 if classes else 3},
        "metric": metric,
        "selected": first["arm"],
        "selected_params": first["params"],
        "optimism": {**interval(rng, first["val"][metric]["value"] - 0.004, 0.02), "num_candidates": 12},
        "confusion": make_confusion(rng, classes) if classes else None,
        "per_class": make_rates(rng, classes) if classes else None,
        "calibration": make_calibration(first["arm"]) if classes else [],
        "screen": make_screen(rng, metric),
        "paired": paired,
        "learning_curves": learning,
        "layer_curves": layers,
        "notes": [] if classes else ["3 samples have no value for slant and were left out."],
    }
    return task, everything


def make_row(
    rng: random.Random, task: str, arm: str, value: float, half: float, classes: list[str], k_shot: int | str
) -> dict[str, Any]:
    if classes:
        val = {
            "accuracy": interval(rng, value + 0.002, half),
            "balanced_accuracy": interval(rng, value, half),
            "macro_f1": interval(rng, value - 0.004, half),
            "nll": interval(rng, 2.3 * (1.02 - value), half * 2),
        }
    else:
        val = {"r2": interval(rng, value - 0.1, half), "mae": interval(rng, 0.4 * (1.1 - value), half / 2)}
    return {
        "task": task,
        "arm": arm,
        "backbone": None,
        "tap": None,
        "head": None,
        "k_shot": k_shot,
        "draws": 1 if k_shot == "all" else 10,
        "selected": False,
        "baseline": False,
        "role": "none",
        "params": {},
        "note": None,
        "val": val,
        "test": None,
    }


def make_confusion(rng: random.Random, classes: list[str]) -> dict[str, Any]:
    counts = [[rng.choice([0, 0, 0, 0, 0, 0, 1]) for _ in classes] for _ in classes]
    for i in range(len(classes)):
        counts[i][i] = 270 // len(classes) - sum(counts[i])
    if len(classes) > 9:
        counts[8][1], counts[9][3] = 4, 3
    return {"classes": classes, "counts": counts}


def make_rates(rng: random.Random, classes: list[str]) -> list[dict[str, Any]]:
    rates = ("precision", "recall", "f1")
    rows = [
        {"class": name, "support": 27, **{rate: interval(rng, 0.95, 0.03) for rate in rates}}
        for name in classes
    ]
    rows[0]["precision"] = {"value": None, "ci_low": None, "ci_high": None}
    return rows


def make_calibration(arm: str) -> list[dict[str, Any]]:
    before, after = {"nll": 0.5, "brier": 0.2, "ece": 0.3}, {"nll": 0.1, "brier": 0.1, "ece": 0.02}
    return [{"arm": arm, "temperature": 0.25, "before": before, "after": after}]


def make_screen(rng: random.Random, metric: str) -> dict[str, Any]:
    rows = [
        {
            "backbone": backbone,
            "tap": tap,
            "metric": metric,
            "knn": (value := quality(backbone, reduction, depth, "all")),
            "ridge": value - 0.02,
            "logme": value - 1,
            "trained": value + rng.gauss(0, 0.01),
            "head": "ridge",
        }
        for backbone in BACKBONES
        for tap, _, reduction, depth in taps(backbone)
    ]
    found = {"kendall": 0.81, "spearman": 0.93, "first": {"backbone": "glyphnet"}, "regret": 0.004}
    few = {"kendall": None, "spearman": None, "first": {"backbone": "glyphnet"}, "regret": 0.0}
    return {"taps": rows, "num_taps": len(rows), "screens": {"knn": found, "ridge": found, "logme": few}}


def make_costs(leaderboard: list[dict[str, Any]], *, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Costs of every arm of every task."""
    rng = random.Random(seed)
    costs: dict[str, list[dict[str, Any]]] = {}
    for row in leaderboard:
        cost = {"arm": row["arm"], "k_shot": row["k_shot"], "seconds": 10 ** rng.uniform(-2, 2)}
        costs.setdefault(row["task"], []).append({**cost, "nbytes": 250_000, "num_parameters": 970})
    return costs


def make_card(name: str) -> dict[str, Any]:
    role, model, weights = BACKBONES[name]
    steps = '[{"convert":"L"},{"resize":8,"interpolation":"bilinear"},{"mean":[0.5],"std":[0.25]}]'
    return {
        "name": name,
        "model": model,
        "weights": weights or None,
        "role": role,
        "spec": {
            "architecture": f"{model}(width=24, num_blocks=4)",
            "weights_digest": random.Random(name).randbytes(16).hex(),
            "decoder": "pillow 12.0",
            "preprocessing": steps,
            "precision": "float32",
            "device_kind": "cpu",
            "format_version": 1,
        },
        "taps": {
            tap: {
                "node": node,
                "reduction": reduction,
                "dtype": "float16",
                "shape": [64]
                if name == "pixels"
                else [24 * 2 ** NODES.index((node, depth)) * (4 if "2" in reduction else 1)],
                "depth": depth,
            }
            for tap, node, reduction, depth in taps(name)
        },
        "failed": [],
    }


def grown(rng: random.Random, rows: list[dict[str, Any]], num_rows: int) -> list[dict[str, Any]]:
    many = list(rows)
    while len(many) < num_rows:
        row = dict(rng.choice(rows))
        row |= {
            "selected": False,
            "arm": f"{row['arm']}#{len(many)}",
            "params": {"C": rng.choice([0.01, 0.1, 1, 10])},
        }
        many.append(row)
    return many[:num_rows]


if __name__ == "__main__":
    from embedpipe.report import render_report

    render_report(*make_sample(int(sys.argv[2]) if len(sys.argv) > 2 else None), Path(sys.argv[1]))
