"""Image files here or at addresses: stamp, key and check each one, several at a time.

Shared by the sources whose samples are files. A file whose stamp is as before is not opened; where the etag is the
identity, none is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from PIL import Image

from embedpipe.errors import DataError, UnreadableSample
from embedpipe.manifest.keys import content_key, version_key
from embedpipe.progress import Progress
from embedpipe.sources.base import ETAG, Seen
from embedpipe.sources.decode import DECODER, check_header, decode
from embedpipe.sources.places import FileInfo, Files

Check = Literal["header", "decode"]
_NUM_THREADS = 8  # hashing and decoding leave the interpreter's lock, and network disks answer slowly
_CHUNK = 512


def read_image(files: Files, address: str) -> Image.Image:
    """Decode one image file.

    Raises
    ------
    UnreadableSample
        With the reason.
    """
    return decode(files.read(address))


def look_at(
    files: Files, address: str, check: Check, version: str, seen: Seen | None, info: FileInfo | None = None
) -> Seen:
    """What is at an address: `seen` itself if its stamp still holds, else by reading the file.

    Parameters
    ----------
    version : str
        ``etag``: the stamp is the identity, and the file is not read. Anything else: its content is.
    info
        What a listing has said of it.
    """
    try:
        if info is None or not info.stamp:  # a listing over https:// says nothing of a file
            info = files.info(address)
    except FileNotFoundError:
        return Seen("", None, "no such file")
    except OSError as error:
        return Seen("", None, f"cannot be read ({error.strerror or error})")
    files.list_as_kept(address)
    if version == ETAG:
        if not info.stamp:
            raise DataError(
                f"{address}: expected an etag or a time of change, which `version: etag` needs, found neither; "
                "set version: content"
            )
        stamp = f"etag {info.stamp}"
        return Seen(stamp, version_key(address, info.stamp), None)
    stamp = f"{info.stamp} {check} {DECODER}" if info.stamp else ""
    if seen is not None and stamp and seen.stamp == stamp:
        return seen
    try:
        content = files.fetch(address, info)
        (decode if check == "decode" else check_header)(content)
    except UnreadableSample as error:
        return Seen(stamp, None, str(error))
    return Seen(stamp, content_key(content), None)


def look_at_all(
    files: Files,
    addresses: Sequence[str],
    locators: Sequence[str],
    check: Check,
    version: str,
    known: Mapping[str, Seen],
    progress: Progress,
    infos: Mapping[str, FileInfo] | None = None,
) -> Iterator[Seen]:
    """`look_at` for many files, in their order, a bounded number at a time.

    Parameters
    ----------
    infos
        By locator.
    """
    listed = infos or {}

    def look(address: str, locator: str) -> Seen:
        return look_at(files, address, check, version, known.get(locator), listed.get(locator))

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, len(addresses), _CHUNK):
            stop = min(start + _CHUNK, len(addresses))
            yield from pool.map(look, addresses[start:stop], locators[start:stop])
            progress(stop, len(addresses), "files")
