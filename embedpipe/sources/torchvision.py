"""A data set of torchvision that lies below a local folder: MNIST, CIFAR10, SVHN, Flowers102 …

torchvision is imported when a source is opened, by name: who embeds something else does not load it. Nothing is
downloaded.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.manifest.keys import array_key
from embedpipe.params import StrictModel, did_you_mean
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import CONTENT, Access, Label, Modality, Scanned, Seen, refuse_columns
from embedpipe.sources.decode import flattened
from embedpipe.sources.places import locate
from embedpipe.spec import digest

_PARTS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


class TorchvisionOptions(StrictModel):
    """A data set of torchvision; `kind: torchvision:<name>` is the same."""

    kind: Literal["torchvision"] = Field(description="Marks this source.")
    name: str = Field(min_length=1, description="Class of torchvision.datasets, such as MNIST.")
    path: str = Field(
        min_length=1,
        description="Its `root`, where it was downloaded to; a relative path starts at params.yaml.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of the class, such as {split: letters}; with train, split or image_set among "
        "them that part alone is taken.",
    )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has."""
        return ("image",)


class TorchvisionSource:
    """Images of all parts (train, val, test), which are its splits; ids are part/index."""

    modalities: tuple[Modality, ...] = ("image",)

    def __init__(self, options: TorchvisionOptions, access: Access) -> None:
        refuse_columns("torchvision", access, "index", [CONTENT])
        self.options = options
        self.root = locate(access.root, options.path)
        self._loaded: dict[str, Any] | None = None
        self._notes: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List all images, part by part; they are decoded where a file below the root has changed."""
        parts = self._parts()
        stamp = self._stamp()
        self._notes = []
        total, done, unlabelled = sum(len(part) for part in parts.values()), 0, 0
        for name, part in parts.items():
            classes = getattr(part, "classes", None)
            targets = _targets_of(part)
            for i in range(len(part)):
                sample_id = f"{name}/{i:07d}"
                seen = known.get(sample_id)
                image, target = None, targets[i] if targets is not None else None
                try:
                    if targets is None or seen is None or seen.stamp != stamp:
                        image, target = self._item(part, i)
                    if seen is None or seen.stamp != stamp:
                        seen = Seen(stamp, array_key(np.asarray(image)), None)
                except UnreadableSample as error:
                    seen = Seen(stamp, None, str(error))
                label = _label(target, classes)
                unlabelled += label is None and seen.key is not None
                split = _PARTS.get(name)
                yield Scanned(sample_id, sample_id, seen.key, seen.reason, {"label": label}, split, stamp)
                done += 1
                if done % 1000 == 0 or done == total:
                    progress(done, total, "images")
        if unlabelled:
            self._notes.append(f"{unlabelled:,} targets are neither a class nor a number: they have no label")

    def read(self, locator: str) -> Image.Image:
        """One image, mode RGB or L."""
        name, _, index = locator.partition("/")
        part = self._parts().get(name)
        if part is None or not index.isdecimal() or int(index) >= len(part):
            raise UnreadableSample(f"expected part/index of {self.options.name}, found {locator!r}")
        return self._item(part, int(index))[0]

    def notes(self) -> list[str]:
        return self._notes

    def _item(self, part: Any, index: int) -> tuple[Image.Image, Any]:
        try:
            image, target = part[index]
        except Exception as error:  # decoders raise whatever they like
            raise UnreadableSample(f"damaged: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(image, Image.Image):
            raise DataError(
                f"torchvision.datasets.{self.options.name}: expected images, found {type(image).__name__}"
            )
        return flattened(image), target

    def _parts(self) -> dict[str, Any]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> dict[str, Any]:
        datasets = importlib.import_module("torchvision.datasets")
        name, given = self.options.name, self.options.options
        if name not in datasets.__all__:
            raise ConfigError(
                f"name: torchvision has no data set {name!r}{did_you_mean(name, sorted(datasets.__all__))}"
            )
        make = getattr(datasets, name)
        takes = inspect.signature(make).parameters
        unknown = [key for key in given if key not in takes]
        if unknown:
            raise ConfigError(
                f"options: {name} takes no {unknown[0]!r}{did_you_mean(unknown[0], list(takes))}; it takes "
                f"{', '.join(takes)}"
            )
        fixed = {**({"root": self.root} if "root" in takes else {}), **given}
        if "download" in takes:
            fixed["download"] = False
        key = next((key for key in ("train", "split", "image_set") if key in takes), None)
        if key is None or key in given:
            part = str(given.get(key or "", "all"))
            return {{"True": "train", "False": "test"}.get(part, part): self._made(make, fixed)}
        if key == "train":
            return {part: self._made(make, {**fixed, "train": part == "train"}) for part in ("train", "test")}
        parts = {}
        refused: Exception | None = None
        for part in _PARTS:
            try:
                parts[part] = self._made(make, {**fixed, key: part})
            except ValueError as error:  # this data set has no part of that name
                refused = error
        if not parts:
            raise DataError(
                f"torchvision.datasets.{name}: expected a part train, val or test, found none ({refused}); name one "
                f"under source.options.{key}"
            )
        return parts

    def _made(self, make: Any, arguments: dict[str, Any]) -> Any:
        try:
            return make(**arguments)
        except (RuntimeError, FileNotFoundError) as error:
            said = " ".join(str(error).split())[:160]
            raise DataError(
                f"torchvision.datasets.{self.options.name}: expected its files below {self.root}, found them absent or "
                f"damaged ({said}); nothing is downloaded here: call {self.options.name}({self.root!r}, download=True) "
                "once"
            ) from error

    def _stamp(self) -> str:
        """Changes when a file below the root does."""
        listed = sorted(
            (os.path.relpath(path, self.root), stat.st_size, stat.st_mtime_ns)
            for at, _, names in os.walk(self.root)
            for path in (os.path.join(at, name) for name in names)
            for stat in [os.stat(path)]
        )
        version = importlib.import_module("torchvision").__version__
        return digest([self.options.name, self.options.options, version, listed])


def _targets_of(part: Any) -> Any:
    """Targets as a data set holds them in memory, which costs no decoding; None where it does not."""
    for name in ("targets", "labels", "_labels"):
        held = getattr(part, name, None)
        if held is not None and getattr(part, "target_transform", None) is None and len(held) == len(part):
            return held
    return None


def _label(target: Any, classes: Any) -> Label:
    if hasattr(target, "item") and getattr(target, "ndim", 0) == 0:
        target = target.item()
    if isinstance(target, bool):
        return "true" if target else "false"
    if isinstance(target, int):
        known = isinstance(classes, list | tuple) and 0 <= target < len(classes)
        return str(classes[target]) if known else target
    return target if isinstance(target, str | float) else None
