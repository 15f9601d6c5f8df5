"""Image files on a disk: stamp, key and check each one, several at a time.

Shared by the sources whose samples are files. A file whose size and modification time are as before is
not opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from PIL import Image

from embedpipe.errors import UnreadableSample
from embedpipe.manifest.keys import content_key
from embedpipe.progress import Progress
from embedpipe.sources.base import Seen
from embedpipe.sources.decode import DECODER, check_header, decode

Check = Literal["header", "decode"]
_NUM_THREADS = 8  # hashing and decoding leave the interpreter's lock, and network disks answer slowly
_CHUNK = 512


def stamp_of(path: Path, check: Check) -> str:
    """Changes when the file may have, or when it is looked at otherwise.

    Raises
    ------
    OSError
        If there is no such file.
    """
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {check} {DECODER}"


def read_content(path: Path) -> bytes:
    """A file's bytes.

    Raises
    ------
    UnreadableSample
        If it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableSample("no such file") from error
    except OSError as error:
        raise UnreadableSample(f"cannot be read ({error.strerror or error})") from error


def read_image(path: Path) -> Image.Image:
    """Decode one image file.

    Raises
    ------
    UnreadableSample
        With the reason.
    """
    return decode(read_content(path))


def look_at(path: Path, check: Check, seen: Seen | None) -> Seen:
    """What is at `path`: `seen` itself if its stamp still holds, else by reading the file."""
    try:
        stamp = stamp_of(path, check)
    except FileNotFoundError:
        return Seen("", None, "no such file")
    except OSError as error:
        return Seen("", None, f"cannot be read ({error.strerror or error})")
    if seen is not None and seen.stamp == stamp:
        return seen
    try:
        content = read_content(path)
        (decode if check == "decode" else check_header)(content)
    except UnreadableSample as error:
        return Seen(stamp, None, str(error))
    return Seen(stamp, content_key(content), None)


def look_at_all(
    paths: Sequence[Path],
    locators: Sequence[str],
    check: Check,
    known: Mapping[str, Seen],
    progress: Progress,
) -> Iterator[Seen]:
    """`look_at` for many files, in their order, a bounded number at a time."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, len(paths), _CHUNK):
            stop = min(start + _CHUNK, len(paths))
            yield from pool.map(
                look_at,
                paths[start:stop],
                [check] * (stop - start),
                [known.get(locator) for locator in locators[start:stop]],
            )
            progress(stop, len(paths), "files")
