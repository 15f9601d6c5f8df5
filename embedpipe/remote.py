"""Folders and files at addresses such as s3://bucket/store, read through fsspec.

Knows nothing of arrays. Credentials and endpoints come from the environment, as the file system has them,
or from `options`, which are passed on to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from embedpipe.errors import ConfigError


def is_remote(path: object) -> bool:
    """Whether a path is an address, such as ``s3://bucket/store``."""
    return isinstance(path, str) and "://" in path


@dataclass(frozen=True)
class RemoteFolder:
    """A folder or a file by its address.

    Attributes
    ----------
    url : str
    options : mapping
        What fsspec's file system is made with, e.g. ``{"endpoint_url": ...}`` for S3.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __truediv__(self, name: str) -> RemoteFolder:
        return replace(self, url=f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]

    def read_bytes(self) -> bytes:
        """Content of the file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        content: bytes = self._filesystem().cat_file(self.url)
        return content

    def nbytes(self) -> int:
        """Size of the file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        return int(self._filesystem().size(self.url))

    def _filesystem(self) -> Any:
        return filesystem(self.url, self.options)


def filesystem(url: str, options: Mapping[str, Any] | None = None) -> Any:
    """fsspec's file system of an address.

    Raises
    ------
    ConfigError
        If the package that reads such addresses is not installed, or none is known.
    """
    import fsspec

    protocol = url.split("://", 1)[0]
    try:
        return fsspec.filesystem(protocol, **(options or {}))
    except (ImportError, ValueError) as error:
        extra = "; install embedpipe with the extra s3" if protocol == "s3" else ""
        raise ConfigError(
            f"{url}: cannot open addresses that start with {protocol}:// ({error}){extra}"
        ) from error
