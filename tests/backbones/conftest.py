import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from embedpipe.backbones import BackboneOptions, load_backbone


@pytest.fixture
def make(tmp_path):
    """Load a backbone from keyword options; random weights and a 64 px input unless told otherwise."""

    def load(model="torchvision:resnet18", weights="random:0", taps=None, **rest):
        if model.startswith("torchvision:") and "vit" not in model and "preprocess" not in rest:
            rest["preprocess"] = {"resize_px": 64, "crop_px": 64}
        options = BackboneOptions(model=model, weights=weights, taps=taps or {"last": ["none"]}, **rest)
        return load_backbone("b", options, tmp_path, source_dir=tmp_path / "source")

    return load


@pytest.fixture
def small_vit(monkeypatch):
    """torchvision's VisionTransformer class, tiny, under the name of vit_b_16: 32 px, 16 patches, 4 layers."""
    import torchvision

    real = torchvision.models.get_model

    def get_model(name, **config):
        if name != "vit_b_16":
            return real(name, **config)
        return torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=4, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=5
        )

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    return {"model": "torchvision:vit_b_16", "preprocess": {"resize_px": 32, "crop_px": 32}}


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.fixture
def batch():
    def make_batch(backbone, num=3):
        generator = torch.Generator().manual_seed(5)
        return torch.rand((num, *backbone.input_shape), generator=generator)

    return make_batch


@pytest.fixture
def source_dir(tmp_path) -> Path:
    return tmp_path / "source"
