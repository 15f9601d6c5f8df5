"""Image files that tests make themselves."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def jpeg() -> Callable[..., bytes]:
    """Bytes of a JPEG of noise; another seed gives another image."""

    def make(seed: int = 0, side_px: int = 64) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        return file.getvalue()

    return make


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Write files by relative path into a new folder and return it."""

    def write(files: dict[str, bytes]) -> Path:
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder

    return write
