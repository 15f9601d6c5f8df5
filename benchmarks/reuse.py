"""What the cache saves: the cost of one more head and of one more run, against embedding again for each.

    python benchmarks/reuse.py [--num 256] [--repeats 3]

Makes photographs of its own (JPEG, 320 x 240, deterministic) and a throw-away project over them: ResNet-18 with
random weights, two taps. The baseline is what one writes first: a loop over the images and a forward hook for
each head that is tried. Ends with one JSON object of named figures.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HEADS = 10
CS = [float(f"{c:.3g}") for c in np.geomspace(1e-3, 1e2, HEADS)]


def make_photographs(folder: Path, num: int) -> None:
    """Two classes of smooth noise, told apart by their hue."""
    for i in range(num):
        generator = np.random.default_rng(i)
        small = generator.integers(0, 256, size=(12, 16, 3), dtype=np.uint8)
        small[..., i % 2] //= 2
        path = folder / ("warm" if i % 2 else "cold") / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(path, quality=90)


def params(root: Path, num_heads: int) -> None:
    """A project over the photographs with so many heads."""
    content = {
        "seed": 0,
        "datasets": {"photos": {"source": {"kind": "folder", "path": "photos"}}},
        "tasks": {"hue": {"on": "photos", "labels": "label", "kind": "classes"}},
        "source": {},
        "backbones": {
            "r18": {
                "model": "torchvision:resnet18",
                "weights": "random:0",
                "taps": {"layer3": ["gap"], "layer4": ["gap"]},
            }
        },
        "extract": {"batch": 32, "precision": "float32", "device": "cpu"},
        "heads": {f"logistic_{i}": {"family": "logistic", "C": c} for i, c in enumerate(CS[:num_heads])},
        "baselines": ["majority"],
        "select": {},
        "compare": {"k_shot": ["all"]},
        "transfer": {},
        "report": {},
    }
    (root / "params.yaml").write_text(json.dumps(content))


def timed(action: Callable[[], object]) -> float:
    """Seconds, with whatever the action prints kept quiet."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        action()
    return time.perf_counter() - began


def by_hand(root: Path) -> Callable[[], object]:
    """The loop that embeds again for one head: torchvision's transform, a forward hook, scikit-learn."""
    import torch
    import torchvision
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    transform = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    paths = sorted((root / "photos").rglob("*.jpg"))
    kept: list[torch.Tensor] = []
    model.layer4.register_forward_hook(lambda module, inputs, output: kept.append(output.mean((2, 3))))

    def run() -> None:
        kept.clear()
        with torch.no_grad():
            for start in range(0, len(paths), 32):
                images = [Image.open(path).convert("RGB") for path in paths[start : start + 32]]
                model(torch.stack([transform(image) for image in images]))
        X = torch.cat(kept).numpy()
        y = [path.parent.name for path in paths]
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, y)

    return run


def one_round(root: Path, num: int) -> dict[str, float]:
    """Ratios of times in one fresh project."""
    from embedpipe.steps.extract import extract_features
    from embedpipe.steps.ingest import ingest_dataset
    from embedpipe.steps.targets import make_task_targets
    from embedpipe.steps.train import train_heads
    from embedpipe.workspace import find_workspace

    make_photographs(root / "photos", num)
    params(root, 1)
    workspace = find_workspace(root)
    ingest_dataset(workspace, "photos")
    make_task_targets(workspace, "hue")
    naive = timed(by_hand(root))
    first = timed(lambda: extract_features(workspace, "r18"))
    again = timed(lambda: extract_features(workspace, "r18"))
    train_heads(workspace, "hue")
    params(root, HEADS)
    head = timed(lambda: train_heads(workspace, "hue")) / ((HEADS - 1) * 2)  # two taps each
    return {
        "extract_vs_loop": naive / first,
        "marginal_head_cost": head / first,
        "second_run_cost": again / first,
        f"heads_{HEADS}_speedup": HEADS * naive / (first + HEADS * head),
    }


def measure(num: int, repeats: int) -> dict[str, float]:
    """Medians over repeats."""
    rounds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(one_round(Path(folder), num))
    return {name: round(statistics.median(one[name] for one in rounds), 4) for name in rounds[0]}


def machine() -> dict[str, object]:
    """What it ran on."""
    import torch

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_1min": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=256, help="photographs")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    about = {"machine": machine(), "num": options.num, "repeats": options.repeats}
    print(json.dumps({**measure(options.num, options.repeats), **about}))


if __name__ == "__main__":
    main()
