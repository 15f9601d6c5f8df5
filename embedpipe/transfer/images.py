"""Images of a task as a trainer and a predictor ask for them: decoded once where they fit memory, else each time.

Reads a source; gives uint8 pixels. Draws no random numbers.
"""

# N samples, B of a batch, C channels, H W height and width

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torchvision.transforms import v2

from embedpipe.backbones.arithmetic import arithmetic
from embedpipe.backbones.backbone import Backbone
from embedpipe.errors import ConfigError
from embedpipe.progress import Progress, silent

MOST_THREADS = 8


class Reader(Protocol):
    """What is needed of a source: one sample by its locator."""

    def read(self, locator: str) -> Any: ...


class Images:
    """Pixels of samples by their place.

    Parameters
    ----------
    backbone : Backbone
        Its preprocessing decides what pixels are.
    source : Reader
    locators : sequence of str
        Of each sample.
    memory_nbytes : int
        Pixels of all samples are kept if they take no more.
    """

    def __init__(
        self, backbone: Backbone, source: Reader, locators: Sequence[str], memory_nbytes: int
    ) -> None:
        self._backbone, self._source = backbone, source
        self._locators = list(locators)
        self._threads = ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS))
        fits = len(self._locators) * math.prod(backbone.input_shape) <= memory_nbytes
        self._kept = (
            torch.empty((len(self._locators), *backbone.input_shape), dtype=torch.uint8) if fits else None
        )
        self._known = torch.zeros(len(self._locators), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._locators)

    def pixels(self, index: torch.Tensor | np.ndarray) -> torch.Tensor:
        """uint8 (B, C, H, W) of the samples at `index`."""
        places = torch.as_tensor(index).tolist()
        if self._kept is None:
            return torch.stack(list(self._threads.map(self._read, places)))
        new = [place for place in dict.fromkeys(places) if not self._known[place]]
        for place, pixels in zip(new, self._threads.map(self._read, new), strict=True):
            self._kept[place] = pixels
        self._known[new] = True
        return self._kept[places]

    def _read(self, place: int) -> torch.Tensor:
        return self._backbone.pixels(self._source.read(self._locators[place]))


class LabelledImages:
    """Some of the images with their targets: what a trainer draws batches from.

    Parameters
    ----------
    images : Images
    places : int array, shape (N,)
        Which of them.
    targets : tensor, shape (N, ...)
    """

    def __init__(self, images: Images, places: np.ndarray, targets: torch.Tensor) -> None:
        self._images, self._places, self._targets = images, torch.as_tensor(places), targets

    def __len__(self) -> int:
        return len(self._places)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `embedpipe.training.Samples`."""
        return self._images.pixels(self._places[index]), self._targets[index]


class Augmentation:
    """Transforms of torchvision, drawn anew for each image.

    Parameters
    ----------
    transforms : mapping of name to arguments
        Of `torchvision.transforms.v2`, in order.
    input_shape : tuple of int
        (C, H, W); sizes of crops are those of the model unless they are given.
    where : str
        How the user finds them.

    Raises
    ------
    ConfigError
        If a transform does not take its arguments.
    """

    def __init__(
        self, transforms: dict[str, dict[str, Any]], input_shape: tuple[int, ...], where: str = "augment"
    ) -> None:
        made = []
        for name, arguments in transforms.items():
            given = dict(arguments)
            if name in ("RandomCrop", "RandomResizedCrop"):
                given.setdefault("size", list(input_shape[1:]))
            try:
                made.append(getattr(v2, name)(**given))
            except (TypeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigError(f"{where}.{name}: {reason}; see torchvision.transforms.v2") from error
        self._transform = v2.Compose(made)
        self._shape, self._where = tuple(input_shape), where

    def __call__(self, x_NCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Each image on its own. torchvision draws from torch's global generator, which the trainer keeps too."""
        found = torch.stack([self._transform(image) for image in x_NCHW])
        if tuple(found.shape[1:]) != self._shape:
            raise ConfigError(
                f"{self._where}: expected images of {self._shape} behind the transforms, found "
                f"{tuple(found.shape[1:])}; give them the size of the model's input"
            )
        return found


@torch.inference_mode()
def outputs_of(
    model: Any,
    images: Images,
    places: np.ndarray,
    device: torch.device,
    batch: int,
    progress: Progress = silent,
) -> torch.Tensor:
    """What `model` says of images, computed in float32 on `device`, a batch at a time; on the CPU."""
    found = []
    for start in range(0, len(places), batch):
        pixels = images.pixels(places[start : start + batch]).to(device)
        # a trainer scores in its own precision, and what is predicted in the end is of float32
        with torch.autocast(device.type, enabled=False), arithmetic(device, torch.float32):
            found.append(model(pixels).float().cpu())
        progress(min(start + batch, len(places)), len(places), "samples")
    return torch.cat(found)
