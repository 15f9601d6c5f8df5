"""A small project made from scratch: coloured shapes in class folders, two backbones, two tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

REPOSITORY = Path(__file__).parent.parent.parent
SHAPES = ("circle", "square", "cross")


def draw(shape: str, generator: np.random.Generator) -> Image.Image:
    """One 32 px image: a bright shape of random place and size on a dark noisy ground."""
    ground = generator.integers(0, 60, size=(32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(ground)
    pen = ImageDraw.Draw(image)
    x, y, r = (int(v) for v in generator.integers((10, 10, 5), (22, 22, 9)))
    colour = tuple(int(v) for v in generator.integers(150, 255, size=3))
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    else:
        pen.line((x - r, y, x + r, y), fill=colour, width=3)
        pen.line((x, y - r, x, y + r), fill=colour, width=3)
    return image


def make_images(folder: Path, num_per_class: int = 24, seed: int = 0) -> None:
    """PNG files in one folder a class."""
    generator = np.random.default_rng(seed)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for i in range(num_per_class):
            draw(shape, generator).save(folder / shape / f"{shape}{i:03d}.png")


def small_params() -> dict:
    """Params of the small project; tests change what they are about."""
    return {
        "seed": 0,
        "datasets": {
            "shapes": {"source": {"kind": "folder", "path": "images"}, "split": {"val": 0.3, "test": 0.2}}
        },
        "tasks": {
            "shape": {"on": "shapes", "labels": "label", "kind": "classes"},
            "round": {"on": "shapes", "labels": "round.csv", "kind": "classes"},
        },
        "source": {},
        "backbones": {
            "net": {"model": "glyphnet", "weights": "random:0", "width": 8, "image_px": 16,
                    "taps": {"block1": ["gap"], "block3": ["gap", "grid:2"]}},
            "pixels": {"model": "pixels", "taps": {"pixels": ["flatten"]}},
        },
        "extract": {"batch": 16, "precision": "float32", "device": "cpu"},
        "heads": {"logistic": {"C": [0.1, 1.0]}, "ridge": {"alpha": [1.0, 100.0]}},
        "baselines": ["majority", "shuffled_labels", "pixels"],
        "select": {"on": "val", "by": "balanced_accuracy"},
        "compare": {"k_shot": [3, "all"], "draws": 3},
        "transfer": {},
        "report": {},
    }  # fmt: skip


def write_params(root: Path, params: dict) -> None:
    (root / "params.yaml").write_text(json.dumps(params, indent=1))


def make_project(root: Path, params: dict | None = None, num_per_class: int = 24) -> Path:
    """Images, labels of their own for the task `round`, and params.yaml."""
    make_images(root / "images", num_per_class)
    rows = [
        f"{path.relative_to(root / 'images').as_posix()},{'yes' if path.parent.name == 'circle' else 'no'}"
        for path in sorted((root / "images").rglob("*.png"))
    ]
    (root / "round.csv").write_text("\n".join(["sample_id,round", *rows]) + "\n")
    (root / "test_log.jsonl").touch()
    write_params(root, params or small_params())
    return root
