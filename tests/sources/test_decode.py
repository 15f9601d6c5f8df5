"""Whatever Pillow reads becomes RGB or L; what it cannot read is refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedpipe.errors import UnreadableSample
from embedpipe.sources import decode as decoding
from embedpipe.sources.decode import check_header, decode, image_suffixes


def encoded(image: Image.Image, suffix: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(decode(content))


RAMP = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5


@pytest.mark.parametrize("suffix", ["PNG", "BMP", "TIFF", "PPM", "TGA", "SGI", "PCX"])
def test_lossless_formats_keep_every_pixel(suffix: str) -> None:
    image = decode(encoded(Image.fromarray(RAMP), suffix))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), RAMP)


@pytest.mark.parametrize("suffix", ["JPEG", "WEBP", "JPEG2000", "GIF"])
def test_lossy_formats_come_out_near(suffix: str) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    image = decode(encoded(Image.fromarray(flat), suffix))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - flat).max() <= 8


def test_grey_stays_grey() -> None:
    grey = RAMP[..., 0]
    image = decode(encoded(Image.fromarray(grey)))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), grey)


def test_one_bit_becomes_black_and_white() -> None:
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1")
    np.testing.assert_array_equal(pixels(encoded(bits)), [[0, 255], [255, 0]])


def test_palette_becomes_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 150, 100])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(pixels(encoded(image)), [[[10, 20, 30], [200, 150, 100]]])


def test_alpha_is_laid_over_white() -> None:
    rgba = Image.fromarray(np.array([[[100, 0, 0, 255], [100, 0, 0, 0], [100, 0, 0, 51]]], dtype=np.uint8))
    # 51 of 255 is a fifth: 0.2 * 100 + 0.8 * 255 = 224 and 0.8 * 255 = 204
    np.testing.assert_array_equal(pixels(encoded(rgba)), [[[100, 0, 0], [255, 255, 255], [224, 204, 204]]])


def test_grey_alpha_is_laid_over_white_and_stays_grey() -> None:
    image = decode(encoded(Image.fromarray(np.array([[[0, 255], [0, 0]]], dtype=np.uint8))))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), [[0, 255]])


def test_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 150, 100])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(
        pixels(encoded(image, transparency=0)), [[[255, 255, 255], [200, 150, 100]]]
    )


def test_cmyk_becomes_rgb() -> None:
    # no black: red = 255 - cyan and so on, by the definition of CMY
    image = Image.merge("CMYK", [Image.new("L", (8, 8), ink) for ink in (0, 255, 255, 0)])
    assert np.abs(pixels(encoded(image, "TIFF")).astype(int) - [255, 0, 0]).max() == 0
    assert np.abs(pixels(encoded(image, "JPEG")).astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight_by_the_same_scale_for_all(suffix: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)  # 257 * 0, 1, 128, 255
    image = decode(encoded(Image.fromarray(values), suffix))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), [[0, 1, 128, 255]])


def test_floats_of_zero_to_one_become_eight_bits() -> None:
    image = Image.fromarray(np.array([[0.0, 0.2, 1.0]], dtype=np.float32))
    np.testing.assert_array_equal(pixels(encoded(image, "TIFF")), [[0, 51, 255]])


def test_floats_beyond_one_are_refused() -> None:
    image = Image.fromarray(np.array([[0.0, 300.0]], dtype=np.float32))
    with pytest.raises(UnreadableSample, match="floats from 0 to 300, expected 0 to 1; convert the file"):
        decode(encoded(image, "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    upright = np.zeros((16, 32), dtype=np.uint8)
    upright[:8, :8] = 255  # bright at the top left
    # how a camera that held the picture so would have stored it: EXIF 2.3, table of orientation tags
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(
        pixels(encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)), upright
    )


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pixels(content)[0, 0], [255, 0, 0])


def test_an_empty_file_is_called_empty() -> None:
    for look in (decode, check_header):
        with pytest.raises(UnreadableSample, match=r"empty file \(0 bytes\)"):
            look(b"")


def test_text_is_called_no_image() -> None:
    for look in (decode, check_header):
        with pytest.raises(UnreadableSample, match=r"not an image that Pillow reads \(starts with b'hello"):
            look(b"hello, I am text")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_truncated_image_is_called_truncated(jpeg: Callable[..., bytes], keep: float) -> None:
    content = jpeg(side_px=128)
    check_header(content[: int(keep * len(content))])
    with pytest.raises(UnreadableSample, match="truncated"):
        decode(content[: int(keep * len(content))])


def test_a_truncated_png_is_refused() -> None:
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)))
    with pytest.raises(UnreadableSample, match=r"truncated|damaged"):
        decode(content[: len(content) // 2])


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    for look in (decode, check_header):
        with pytest.raises(UnreadableSample, match="a decompression bomb: more than 178,956,970 pixels"):
            look(bomb)


def test_the_pixel_limit_is_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100)
    with pytest.raises(UnreadableSample, match=r"a decompression bomb: 20x20 px from \d+ bytes, at most 100"):
        decode(encoded(Image.new("L", (20, 20))))


def test_suffixes_are_those_pillow_decodes() -> None:
    suffixes = image_suffixes()
    assert {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".webp"} <= suffixes
    assert not {".txt", ".pdf", ".eps", ".mpg"} & suffixes
