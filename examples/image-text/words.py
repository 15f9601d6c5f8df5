"""A text backbone that needs no download: words hashed into 512 places, then projected at random.

It stands for an encoder such as `transformers:intfloat/e5-small-v2`, which takes its place in params.yaml.
"""

import re
import zlib

import torch
from torch import nn

PLACES = 512


class HashedWords(nn.Module):
    """The three methods that embedpipe asks of a model of your own."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(PLACES, 64, bias=False)

    def preprocess(self, text: str) -> torch.Tensor:
        """Counts of words: float32 (512,)."""
        places = [zlib.crc32(word.encode()) % PLACES for word in re.findall(r"\w+", text.lower())]
        return torch.bincount(torch.tensor(places), minlength=PLACES).float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(x)

    def describe(self) -> dict:
        return {"modality": "text", "preprocessing": f"lower-case words, crc32 modulo {PLACES}"}


def make() -> nn.Module:
    return HashedWords()
