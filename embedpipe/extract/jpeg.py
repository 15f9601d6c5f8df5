"""JPEG files straight to tensors: the pixels of `decode`, in less time and without Python's lock.

torchcodec, which took over torchvision's decoders, decodes where it is installed. Both it and Pillow use
libjpeg-turbo, and a test holds their pixels equal; which one decoded stands in a store's spec all the same. What
it does not read as Pillow does, or not at all, is left to Pillow, which also says what is wrong with a file.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image

from embedpipe.errors import ConfigError
from embedpipe.sources.decode import DECODER, decode, open_header

if TYPE_CHECKING:
    import torch

_LEAST = (0, 16)  # the first that decodes images


@functools.cache
def tensor_decoder() -> str | None:
    """What a store's spec says of `decode_as_tensor`; None where torchcodec is missing or too old."""
    if importlib.util.find_spec("torchcodec") is None:
        return None
    version = importlib.metadata.version("torchcodec")
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    return f"torchcodec {version.split('+')[0]} for JPEG, {DECODER} else" if numbers >= _LEAST else None


def decoder_like(stored: str) -> str:
    """The decoder that a store's spec names, where it is here; else Pillow."""
    return stored if stored == tensor_decoder() else DECODER


def decode_as_tensor(content: bytes) -> torch.Tensor | Image.Image:
    """Decode a whole file.

    Returns
    -------
    uint8 tensor (C, H, W), C being 1 or 3, or what `decode` gives
        The former for a JPEG in grey or colour that is not to be turned.

    Raises
    ------
    UnreadableSample
        With the reason.
    ConfigError
        If torchcodec is installed and cannot be used.
    """
    header = open_header(content)
    if header.format != "JPEG" or header.mode not in ("RGB", "L") or _is_turned(header):
        return decode(content)
    try:
        pixels_CHW: torch.Tensor = _torchcodec().decode_jpeg(content, mode="UNCHANGED")
    except RuntimeError:  # damaged: Pillow says how, or reads it after all
        return decode(content)
    return pixels_CHW if pixels_CHW.shape[:0:-1] == header.size else decode(content)


def _is_turned(header: Image.Image) -> bool:
    """Whether EXIF or XMP turns an image, or says something that two readers may understand in two ways."""
    if not {"exif", "xmp"} & header.info.keys():
        return False
    try:
        orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged block, which each reader makes of what it can
        return True
    return not (type(orientation) is int and orientation == 1)


@functools.cache
def _torchcodec() -> Any:
    try:
        return importlib.import_module("torchcodec.decoders")
    except Exception as error:  # built for another torch: what the loader says may be any error
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"params.yaml: extract.decoder: torchcodec cannot be used ({reason[0][:200]}); install the version that "
            "belongs to this torch, or set extract.decoder to pillow"
        ) from error


def unusable() -> str | None:
    """Why torchcodec, which is installed, cannot be used; None where it can."""
    try:
        _torchcodec()
    except ConfigError as error:
        return str(error)
    return None
