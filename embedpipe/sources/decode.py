"""Bytes of an image file to a Pillow image in mode RGB or L, whatever format and mode the file has.

Alpha is laid over white, 16 bits become 8, EXIF rotation is applied, and of several frames the first is
taken. What cannot be decoded is an `UnreadableSample` with the reason in one sentence.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError, __version__

from embedpipe.errors import UnreadableSample

DECODER = f"pillow {__version__}"
# Pillow's own limit for an error: 179 million pixels, 512 MB as RGB
MAX_PIXELS = 178_956_970
# stubs that only name a format, and EPS, which would run Ghostscript on the file
_NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# between half the limit and the limit Pillow would warn; one limit is enough, and it is ours
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(content: bytes) -> Image.Image:
    """Decode a whole file.

    Parameters
    ----------
    content : bytes
        Of a file in any format that Pillow reads.

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``, or ``L`` if the file is grey.

    Raises
    ------
    UnreadableSample
        With the reason.
    """
    image = open_header(content)
    try:
        image.load()
        image = _rotated(image)
        return flattened(image)
    except UnreadableSample:
        raise
    except MemoryError as error:
        raise UnreadableSample(
            f"needs more memory than there is ({image.width}x{image.height} px)"
        ) from error
    except Exception as error:  # decoders raise whatever they like
        raise UnreadableSample(_reason(error)) from error


def as_decoded(image: Image.Image) -> Image.Image:
    """An image that Pillow has opened already, as `decode` would give it.

    Raises
    ------
    UnreadableSample
        With the reason.
    """
    try:
        image.load()
        return flattened(_rotated(image))
    except UnreadableSample:
        raise
    except Exception as error:
        raise UnreadableSample(_reason(error)) from error


def check_header(content: bytes) -> None:
    """Find out cheaply whether a file is an image: reads its header, not its pixels.

    A file cut off after its header passes; only `decode` finds that.

    Raises
    ------
    UnreadableSample
        With the reason.
    """
    open_header(content)


def image_suffixes() -> frozenset[str]:
    """File name suffixes, lower case with the dot, of the formats that Pillow reads."""
    Image.init()
    return frozenset(
        suffix
        for suffix, format_name in Image.registered_extensions().items()
        if format_name in Image.OPEN and format_name not in _NOT_IMAGES
    )


def open_header(content: bytes) -> Image.Image:
    """What the header of a file says: format, mode, size; pixels are not read yet. Raises as `check_header`."""
    if not content:
        raise UnreadableSample("empty file (0 bytes)")
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise UnreadableSample(f"not an image that Pillow reads (starts with {content[:12]!r})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableSample(f"a decompression bomb: more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:
        raise UnreadableSample(_reason(error)) from error
    if image.format in _NOT_IMAGES:
        raise UnreadableSample(f"a {image.format} file, which holds no pixels that Pillow decodes by itself")
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableSample(
            f"a decompression bomb: {image.width}x{image.height} px from {len(content):,} bytes, "
            f"at most {MAX_PIXELS:,} pixels"
        )
    return image


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return f"truncated: {text}"
    return f"damaged: {text}"


def _rotated(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing of rotation; the pixels are whole
        return image


def flattened(image: Image.Image) -> Image.Image:
    """To mode RGB or L: alpha over white, palettes to their colours, more bits to 8."""
    mode = image.mode
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        grey = mode in ("LA", "La", "L", "1")
        rgba = image.convert("LA" if mode == "La" else "RGBA").convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return flat.convert("L" if grey else "RGB")
    if mode in ("RGB", "L"):
        return image
    if mode == "1":
        return image.convert("L")
    if mode.startswith("I") or mode == "F":
        return _to_8_bits(image)
    if mode == "LAB":
        to_rgb = ImageCms.buildTransform(
            ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
        )
        converted = ImageCms.applyTransform(image, to_rgb)
        assert converted is not None
        return converted
    return image.convert("RGB")  # P, CMYK, YCbCr, HSV, RGBX


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits: integers of 0 to 65535, or floats of 0 to 1, spread over 0 to 255.

    The scale is that of the mode and never that of one image's brightest pixel: two images of one
    camera stay comparable.
    """
    values_HW = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    low, high = float(values_HW.min()), float(values_HW.max())
    if not (low >= 0.0 and high <= top):  # NaN fails too
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise UnreadableSample(f"{kind} from {low:g} to {high:g}, expected 0 to {top:g}; convert the file")
    return Image.fromarray(np.rint(values_HW * (255.0 / top)).astype(np.uint8))
