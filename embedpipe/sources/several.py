"""Several sources as one data set: amazon and webcam, a folder and shards. Ids start with the name of the source.

The label column `source` names it, by which domains can be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Literal

from PIL import Image
from pydantic import BeforeValidator, Field

from embedpipe.errors import ConfigError, DataError, UnreadableSample
from embedpipe.params import StrictModel
from embedpipe.progress import Progress, silent
from embedpipe.sources.arrays import ArraysOptions
from embedpipe.sources.base import Access, Encoded, Modality, Scanned, Seen, Source, expanded, open_source
from embedpipe.sources.folder import FolderOptions
from embedpipe.sources.glyphs import GlyphsOptions
from embedpipe.sources.hdf5 import Hdf5Options
from embedpipe.sources.python import PythonOptions
from embedpipe.sources.sklearn import SklearnOptions
from embedpipe.sources.table import TableOptions
from embedpipe.sources.tar import TarOptions
from embedpipe.sources.torchvision import TorchvisionOptions

COLUMN = "source"

SingleSource = Annotated[
    FolderOptions
    | TableOptions
    | Hdf5Options
    | ArraysOptions
    | TarOptions
    | TorchvisionOptions
    | PythonOptions
    | SklearnOptions
    | GlyphsOptions,
    Field(discriminator="kind"),
    BeforeValidator(expanded),
]


class SeveralOptions(StrictModel):
    """Sources that are one data set together."""

    kind: Literal["several"] = Field(description="Marks this source.")
    of: dict[str, SingleSource] = Field(
        min_length=1,
        description="The sources by name; ids become name/id, and the label column `source` the name.",
    )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has: the same in all sources."""
        return next(iter(self.of.values())).modalities


class SeveralSource:
    """The samples of each source in turn; ids and locators start with its name."""

    def __init__(self, options: SeveralOptions, access: Access) -> None:
        self.sources: dict[str, Source] = {}
        for name, one in options.of.items():
            if "/" in name:
                raise ConfigError(f"source.of.{name}: expected a name without /, since ids start with it")
            try:
                self.sources[name] = open_source(
                    one,
                    access.root,
                    id_column=access.id_column,
                    version=access.version,
                    spool=None if access.spool is None else access.spool / name,
                    spooling=access.spooling,
                )
            except ConfigError as error:
                raise ConfigError(f"source.of.{name}: {error}") from error
        modalities = {name: source.modalities for name, source in self.sources.items()}
        if len(set(modalities.values())) > 1:
            some = ", ".join(f"{name} {' and '.join(found)}" for name, found in modalities.items())
            raise ConfigError(f"source.of: expected sources of one modality, found {some}")
        self.modalities: tuple[Modality, ...] = next(iter(modalities.values()))

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List the samples of each source."""
        known_of: dict[str, dict[str, Seen]] = {name: {} for name in self.sources}
        for locator, seen in known.items():
            name, _, rest = locator.partition("/")
            if name in known_of:
                known_of[name][rest] = seen
        for name, source in self.sources.items():
            try:
                for sample in source.scan(known_of[name], progress):
                    yield replace(
                        sample,
                        sample_id=f"{name}/{sample.sample_id}",
                        locator=f"{name}/{sample.locator}",
                        labels={COLUMN: name, **sample.labels},
                        also={of: (key, f"{name}/{at}") for of, (key, at) in sample.also.items()},
                    )
            except DataError as error:
                raise type(error)(f"source.of.{name}: {error}") from error

    def read(self, locator: str) -> Image.Image | str:
        """One sample of the source that the locator names."""
        source, locator = self._source(locator)
        return source.read(locator)

    def read_encoded(self, locator: str) -> bytes | None:
        """The file of one image; None where its source has none."""
        source, locator = self._source(locator)
        return source.read_encoded(locator) if isinstance(source, Encoded) else None

    def _source(self, locator: str) -> tuple[Source, str]:
        """The source that a locator names, and the locator there."""
        name, _, rest = locator.partition("/")
        if name not in self.sources:
            raise UnreadableSample(
                f"expected a locator that starts with {', '.join(self.sources)}, found {locator!r}"
            )
        return self.sources[name], rest

    def notes(self) -> list[str]:
        return [f"{name}: {note}" for name, source in self.sources.items() for note in source.notes()]
