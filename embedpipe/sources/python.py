"""A source of the user's: `kind: python:package.module:factory`.

The factory is called with its options and an `Access` and returns a `Source`; `embedpipe.testing.check_source` holds it
to what every source promises.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from PIL import Image
from pydantic import Field

from embedpipe.errors import ConfigError, DataError, EmbedpipeError, UnreadableSample
from embedpipe.params import StrictModel
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import Access, Modality, Scanned, Seen, Source

_NEEDED = ("modalities", "scan", "read", "notes")


class PythonOptions(StrictModel):
    """A source of your own; `kind: python:<module>:<factory>` is the same."""

    kind: Literal["python"] = Field(description="Marks this source.")
    name: str = Field(
        min_length=1,
        description="module:factory, found in the folder of params.yaml or installed; called with `options` and the "
        "access of the data set.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="What the factory is called with.")
    modality: Literal["image", "text"] = Field(default="image", description="What its samples are.")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has."""
        return (self.modality,)


class PythonSource:
    """The user's source, whose errors are told from the project's own."""

    def __init__(self, options: PythonOptions, access: Access) -> None:
        self.options = options
        self.access = access
        self._own: Source | None = self._made()
        self.modalities: tuple[Modality, ...] = tuple(self._own.modalities)
        if self.modalities != (options.modality,):
            raise ConfigError(
                f"name: expected {options.name} to hold {options.modality}s, found {' and '.join(self.modalities)}; "
                "set source.modality"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_own": None}  # another process makes its own

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """As the user's source lists them."""
        for sample in self._source().scan(known, progress):
            if not isinstance(sample, Scanned):
                raise DataError(
                    f"{self.options.name}: scan: expected embedpipe.sources.base.Scanned, found {type(sample).__name__}"
                )
            yield sample

    def read(self, locator: str) -> Image.Image | str:
        """As the user's source reads it. An error of its own is that of one sample."""
        try:
            sample = self._source().read(locator)
        except EmbedpipeError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise UnreadableSample(f"{self.options.name}: read: {type(error).__name__}: {said}") from error
        expected = Image.Image if self.options.modality == "image" else str
        if not isinstance(sample, expected):
            raise DataError(
                f"{self.options.name}: read: expected {expected.__name__}, found {type(sample).__name__}"
            )
        return sample

    def notes(self) -> list[str]:
        return self._source().notes()

    def _source(self) -> Source:
        if self._own is None:
            self._own = self._made()
        return self._own

    def _made(self) -> Source:
        where = f"name: {self.options.name}"
        module, _, attribute = self.options.name.partition(":")
        if not module or not attribute:
            raise ConfigError(f"{where}: expected module:factory, such as my_package.sources:open_scans")
        root = str(self.access.root)
        if root not in sys.path:
            sys.path.insert(0, root)
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{where}: cannot be imported ({error})") from error
        try:
            made: Source = factory(dict(self.options.options), self.access)
        except EmbedpipeError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            ) from error
        lacking = [name for name in _NEEDED if not hasattr(made, name)]
        if lacking:
            raise ConfigError(
                f"{where}: expected a source with {', '.join(_NEEDED)}, found {type(made).__name__} without "
                f"{', '.join(lacking)}"
            )
        return made
