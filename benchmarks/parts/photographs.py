"""What `benchmarks/extract.py` measures on: photographs of its own, random networks, projects over both."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.resnet import BasicBlock, Bottleneck

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.backbones.backbone import Backbone, Precision
from embedpipe.extract.device import has_bfloat16, resolve_device
from embedpipe.steps.extract import extract_features, extract_part
from embedpipe.steps.ingest import ingest_dataset
from embedpipe.workspace import Workspace

TAPS = ("layer2", "layer4")
WIDTH, HEIGHT = 500, 375
NUM_PICTURES = 256
RESIDUAL_SCALE = 0.25


@functools.cache
def photograph(i: int) -> bytes:
    """Value noise over eight octaves: about 40 kB, as a photograph of that size has."""
    generator = np.random.default_rng(i)
    total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(8):
        cells = 3 * 2**octave
        small = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        total += np.asarray(layer, np.float32) / 1.4**octave
    low, high = total.min(), total.max()
    file = io.BytesIO()
    Image.fromarray(((total - low) * (255 / (high - low))).astype(np.uint8)).save(file, "jpeg", quality=90)
    return file.getvalue()


def make_photographs(folder: Path, num: int, first: int = 0) -> None:
    """As many files, each with a key of its own: pictures recur, a number behind the end of the image does not."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + num):
        (folder / f"{i:07d}.jpg").write_bytes(photograph(i % NUM_PICTURES) + i.to_bytes(8, "big"))


class Photos(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """What one writes first."""

    def __init__(self, folder: Path, model: str) -> None:
        self.paths = sorted(folder.rglob("*.jpg"))
        self.transform = torchvision.models.get_model_weights(model).DEFAULT.transforms()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        found: torch.Tensor = self.transform(Image.open(self.paths[index]).convert("RGB"))
        return found


def make_weights(path: Path, model: str, photos: Path) -> None:
    """Random weights, with the statistics of 32 photographs in the batch norms: activations as a trained network's."""
    if path.exists():
        return
    torch.manual_seed(0)
    network = torchvision.models.get_model(model, weights=None)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # plain averages
        if isinstance(part, (BasicBlock, Bottleneck)):
            last = part.bn2 if isinstance(part, BasicBlock) else part.bn3
            torch.nn.init.constant_(last.weight, RESIDUAL_SCALE)
    seen = Photos(photos, model)
    x = torch.stack([seen[i % len(seen)] for i in range(32)])
    with torch.no_grad():
        network.train()(x)
    save_file(network.state_dict(), path)


def open_backbone(root: Path, photos: Path, model: str) -> Backbone:
    """The backbone of every arm."""
    weights = root / f"{model}.safetensors"
    make_weights(weights, model, photos)
    options = BackboneOptions(
        model=f"torchvision:{model}", weights=str(weights), taps={tap: ["gap"] for tap in TAPS}
    )
    return load_backbone("net", options, root, source_dir=root)


def precision() -> Precision:
    """What the arms but the naive one compute in."""
    return "bfloat16" if has_bfloat16(resolve_device("auto")) else "float32"


class Project:
    """A throw-away project over a folder of images."""

    def __init__(
        self,
        root: Path,
        photos: Path,
        model: str,
        batch: int,
        taps: tuple[str, ...] = TAPS,
        **extract: object,
    ) -> None:
        make_weights(root.parent / f"{model}.safetensors", model, photos)
        self.workspace = Workspace(root, root / ".embedpipe")
        root.mkdir(parents=True)
        content = {
            "seed": 0,
            "datasets": {"photos": {"source": {"kind": "folder", "path": str(photos)}}},
            "tasks": {},
            "backbones": {
                "net": {
                    "model": f"torchvision:{model}",
                    "weights": str(root.parent / f"{model}.safetensors"),
                    "taps": {tap: ["gap"] for tap in taps},
                }
            },
            "extract": {"batch": batch, "precision": precision(), "max_failed": 0.0, **extract},
        }
        (root / "params.yaml").write_text(json.dumps(content))
        self.list()

    def list(self) -> None:
        """Write the manifest."""
        with contextlib.redirect_stderr(io.StringIO()):
            ingest_dataset(self.workspace, "photos")

    def forget(self) -> None:
        """Remove every feature."""
        for folder in (self.workspace.stores_dir, self.workspace.data / "features"):
            shutil.rmtree(folder, ignore_errors=True)

    def extract(self) -> object:
        """One run, with what it says kept quiet."""
        return extract_features(self.workspace, "net")

    def part(self) -> object:
        """One run as the only task of an array."""
        return extract_part(self.workspace, "net", "1/1")

    def features(self, tap: str) -> np.ndarray:
        """What is stored of a tap, in manifest order."""
        from embedpipe.manifest.table import Manifest
        from embedpipe.store.reader import FeatureStore

        manifest = Manifest.read(self.workspace.manifest("photos"))
        store = FeatureStore.open(self.workspace.features("net"))
        return store.read(f"{tap}.gap", store.rows_of(manifest.keys))
