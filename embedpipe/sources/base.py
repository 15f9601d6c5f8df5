"""What every source can do, and how one is opened.

A source lists its samples (`scan`) and reads one (`read`). It holds no state but caches, and one bad
sample never stops it: the sample is listed with the reason. The registry holds dotted names, so that a
source that is not used is not imported.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from embedpipe.errors import ConfigError
from embedpipe.params import StrictModel, did_you_mean, validate
from embedpipe.progress import Progress, silent

if TYPE_CHECKING:
    from PIL import Image

Modality = Literal["image", "text", "array"]
Label = str | float | int | None


@dataclass(frozen=True)
class Seen:
    """What an earlier scan found at a locator.

    Attributes
    ----------
    stamp : str
        Changes when the content may have: size and modification time of a file, settings of a generator.
    key : bytes or None
        Key of the content, 16 bytes; None if it could not be read.
    reason : str or None
        Why it could not be read.
    """

    stamp: str
    key: bytes | None
    reason: str | None


@dataclass(frozen=True)
class Scanned:
    """One sample as its source lists it.

    Attributes
    ----------
    sample_id : str
        Stable name, unique in the data set.
    locator : str
        What `read` takes.
    key : bytes or None
        Key of the content, 16 bytes; None if it could not be read, and then `reason` says why.
    reason : str or None
        Why the sample is unreadable, in one sentence.
    labels : mapping
        Label columns of the source; None where one is missing.
    split : str or None
        ``train``, ``val`` or ``test`` where the source itself gives splits.
    stamp : str or None
        As in `Seen`; None if there is nothing to gain from remembering this sample.
    also : mapping of modality to (key, locator)
        Of a sample of several modalities: those after the first. Empty where `key` is None.
    """

    sample_id: str
    locator: str
    key: bytes | None
    reason: str | None = None
    labels: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    split: str | None = None
    stamp: str | None = None
    also: Mapping[Modality, tuple[bytes, str]] = dataclasses.field(default_factory=dict)


class WindowOptions(StrictModel):
    """How a long text becomes several rows, the key ``rows:`` of a data set: windows, in tokens of its backbone."""

    tokens: int = Field(
        ge=8,
        description="Tokens of a window, special ones included; at most what the backbone takes. A text of fewer is "
        "one row.",
    )
    overlap: int = Field(
        0,
        ge=0,
        description="Tokens that a window repeats of the one before, so that no sentence is cut in both.",
    )

    @model_validator(mode="after")
    def _goes_on(self) -> Self:
        if self.overlap >= self.tokens:
            raise ValueError(f"expected overlap below tokens, found {self.overlap} of {self.tokens}")
        return self


class Source(Protocol):
    """A place that samples come from.

    Attributes
    ----------
    modalities : tuple
        What each of its samples has; keys and locators of a scan are of the first.
    """

    modalities: tuple[Modality, ...]

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List every sample in a stable order, reading only those whose stamp differs from `known`.

        Parameters
        ----------
        known : mapping from locator to Seen
            What an earlier scan found.

        Raises
        ------
        DataError
            If the source as a whole is missing, empty or contradictory; never for one bad sample.
        """
        ...

    def read(self, locator: str) -> Image.Image | str:
        """Read one sample: an image in mode RGB or L, or a text. Safe to call from several threads.

        Raises
        ------
        UnreadableSample
            With the reason.
        """
        ...

    def notes(self) -> list[str]:
        """What the last scan passed over or took for granted, one sentence each."""
        ...


# kind -> "module:options model:class"; the class is called with (options, root folder, id column)
REGISTRY: dict[str, str] = {
    "folder": "embedpipe.sources.folder:FolderOptions:FolderSource",
    "glyphs": "embedpipe.sources.glyphs:GlyphsOptions:GlyphsSource",
    "sklearn": "embedpipe.sources.sklearn:SklearnOptions:SklearnSource",
    "table": "embedpipe.sources.table:TableOptions:TableSource",
}


def open_source(
    config: StrictModel | Mapping[str, Any],
    root: Path,
    *,
    id_column: str | None = None,
    where: str = "source",
) -> Source:
    """Open a source by its options.

    Parameters
    ----------
    config : options model or mapping
        As in params.yaml or as kept in a manifest: ``{"kind": "folder", "path": "photos"}``.
    root : Path
        The folder of params.yaml; relative paths start there.
    id_column : str, optional
        Column that names the samples, for a source that has columns. `read` needs none.
    where : str
        How the user finds the options; errors start with it.

    Raises
    ------
    ConfigError
        If the kind is unknown or the options do not fit it.
    """
    raw = config.model_dump() if isinstance(config, StrictModel) else dict(config)
    kind = raw.get("kind")
    if kind not in REGISTRY:
        raise ConfigError(
            f"{where}.kind: unknown kind {kind!r}{did_you_mean(str(kind), sorted(REGISTRY))}; "
            f"known kinds: {', '.join(sorted(REGISTRY))}"
        )
    module_name, options_name, class_name = REGISTRY[kind].split(":")
    module = importlib.import_module(module_name)
    options = (
        config if isinstance(config, StrictModel) else validate(getattr(module, options_name), raw, where)
    )
    source: Source = getattr(module, class_name)(options, root, id_column)
    return source


def refuse_id_column(kind: str, id_column: str | None, default: str) -> None:
    """Error of sources whose samples have names of their own."""
    if id_column not in (None, default):
        raise ConfigError(
            f"id: expected {default!r} or nothing, found {id_column!r}; a {kind} source names its samples "
            "itself"
        )
