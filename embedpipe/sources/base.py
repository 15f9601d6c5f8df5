"""What every source can do, and how one is opened.

A source lists its samples (`scan`) and reads one (`read`). It holds no state but caches, and one bad
sample never stops it: the sample is listed with the reason. The registry holds dotted names, so that a
source that is not used is not imported.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator

from embedpipe.errors import ConfigError
from embedpipe.params import StrictModel, did_you_mean, validate
from embedpipe.progress import Progress, silent
from embedpipe.sources.places import Files

if TYPE_CHECKING:
    from PIL import Image

Modality = Literal["image", "text", "array"]
Label = str | float | int | list["Label"] | None
"""What stands in one cell: a list where the table has lists."""
SPOOL = "spool"
"""Folder of copies, below what ingest remembers of a data set."""
CONTENT, ETAG = "content", "etag"
"""How a change is seen; any other `version:` is a column."""


@dataclass(frozen=True)
class Access:
    """What a source is opened with beside its options.

    Attributes
    ----------
    root : Path
        The folder of params.yaml; relative paths start there.
    id_column : str or None
        Column that names the samples, for a source that has columns. Reading needs none.
    version : str
        What a sample's identity is: ``content``, ``etag``, or a column.
    spool : Path or None
        Folder of local copies of what lies at addresses.
    spooling : bool
        Whether a scan copies the samples that it reads there.
    """

    root: Path
    id_column: str | None = None
    version: str = CONTENT
    spool: Path | None = None
    spooling: bool = False

    def files(self, storage: Mapping[str, Any] | None) -> Files:
        """Its files, as the file system of their addresses has them."""
        return Files(storage or {}, self.spool, self.spooling)


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
    extra : str or None
        What else the source wants to know of it the next time.
    """

    stamp: str
    key: bytes | None
    reason: str | None
    extra: str | None = None


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
    extra : str or None
        As in `Seen`.
    """

    sample_id: str
    locator: str
    key: bytes | None
    reason: str | None = None
    labels: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    split: str | None = None
    stamp: str | None = None
    also: Mapping[Modality, tuple[bytes, str]] = dataclasses.field(default_factory=dict)
    extra: str | None = None


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


@runtime_checkable
class Fed(Protocol):
    """A source that can be told what has changed, and then lists nothing."""

    def scan_changes(
        self, changes: Mapping[str, str], known: Mapping[str, Seen], progress: Progress = silent
    ) -> Iterator[Scanned]:
        """As `Source.scan`, but look at the samples that `changes` names and take the others from `known`.

        Parameters
        ----------
        changes : mapping from sample_id to ``add``, ``update`` or ``delete``
        """
        ...


@runtime_checkable
class Encoded(Protocol):
    """A source whose images are files of some format, so that they can be decoded otherwise than by `Source.read`."""

    def read_encoded(self, locator: str) -> bytes | None:
        """The file of one image; None where the sample is none. Raises as `Source.read`."""
        ...


# kind -> "module:options model:class"; the class is called with (options, access)
REGISTRY: dict[str, str] = {
    "arrays": "embedpipe.sources.arrays:ArraysOptions:ArraysSource",
    "folder": "embedpipe.sources.folder:FolderOptions:FolderSource",
    "glyphs": "embedpipe.sources.glyphs:GlyphsOptions:GlyphsSource",
    "hdf5": "embedpipe.sources.hdf5:Hdf5Options:Hdf5Source",
    "several": "embedpipe.sources.several:SeveralOptions:SeveralSource",
    "python": "embedpipe.sources.python:PythonOptions:PythonSource",
    "sklearn": "embedpipe.sources.sklearn:SklearnOptions:SklearnSource",
    "table": "embedpipe.sources.table:TableOptions:TableSource",
    "tar": "embedpipe.sources.tar:TarOptions:TarSource",
    "torchvision": "embedpipe.sources.torchvision:TorchvisionOptions:TorchvisionSource",
}


def plain(value: object) -> Label:
    """A label as text or number, or a list of them; what is neither (a date, a mapping) as its text."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    return str(value)


def expanded(raw: Any) -> Any:
    """Options with ``kind: torchvision:MNIST`` written out as kind and name."""
    if (
        isinstance(raw, Mapping)
        and isinstance(raw.get("kind"), str)
        and ":" in raw["kind"]
        and "name" not in raw
    ):
        kind, _, name = raw["kind"].partition(":")
        return {**raw, "kind": kind, "name": name}
    return raw


def open_source(
    config: StrictModel | Mapping[str, Any],
    root: Path,
    *,
    id_column: str | None = None,
    version: str = CONTENT,
    spool: Path | None = None,
    spooling: bool = False,
    where: str = "source",
) -> Source:
    """Open a source by its options.

    Parameters
    ----------
    config : options model or mapping
        As in params.yaml or as kept in a manifest: ``{"kind": "folder", "path": "photos"}``.
    root : Path
        The folder of params.yaml; relative paths start there.
    id_column, version, spool, spooling
        See `Access`.
    where : str
        How the user finds the options; errors start with it.

    Raises
    ------
    ConfigError
        If the kind is unknown or the options do not fit it.
    """
    raw = config.model_dump() if isinstance(config, StrictModel) else expanded(dict(config))
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
    access = Access(root, id_column, version, spool, spooling)
    source: Source = getattr(module, class_name)(options, access)
    return source


def refuse_columns(kind: str, access: Access, name: str, versions: Sequence[str]) -> None:
    """Errors of a source whose samples have names of their own, and no columns.

    Parameters
    ----------
    name
        What its samples are named by; naming that is no error.
    versions
        What may be their identity.
    """
    if access.id_column not in (None, name):
        raise ConfigError(
            f"id: expected {name!r} or nothing, found {access.id_column!r}; {_a(kind)} source names its samples itself"
        )
    if access.version not in versions:
        raise ConfigError(
            f"version: expected {' or '.join(versions)}, found {access.version!r}, which {_a(kind)} source lacks"
        )


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' or kind == 'hdf5' else 'a'} {kind}"
