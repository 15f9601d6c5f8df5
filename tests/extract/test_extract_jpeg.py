"""JPEG files decoded to tensors: Pillow's pixels, Pillow's reasons, and the name of it in the store's spec."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from embedpipe.errors import ConfigError, UnreadableSample
from embedpipe.extract import jpeg
from embedpipe.sources.decode import DECODER, decode

needs_torchcodec = pytest.mark.skipif(jpeg.tensor_decoder() is None, reason="torchcodec is not installed")


def picture(height: int = 221, width: int = 333, mode: str = "RGB") -> Image.Image:
    """Smooth and noisy parts, so that chroma upsampling matters."""
    generator = np.random.default_rng(height * width)
    small = generator.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(smooth + generator.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


def encoded(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **{"format": "JPEG", "quality": 90, **options})  # type: ignore[arg-type]
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return encoded(picture(), exif=exif)


JPEGS = {
    "colour": encoded(picture()),
    "grey": encoded(picture(mode="L")),
    "one pixel": encoded(picture(1, 1)),
    "4:4:4": encoded(picture(), subsampling=0),
    "4:2:2": encoded(picture(), subsampling=1),
    "progressive": encoded(picture(), progressive=True),
    "coarse": encoded(picture(), quality=12),
    "bytes behind its end": encoded(picture()) + b"more than the image",
    "upright": turned(1),
}


def segment(payload: bytes) -> bytes:
    """An APP1 segment of a JPEG file."""
    return b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload


def tagged(kind: int, value: int) -> bytes:
    """An EXIF block with the orientation alone; kind 3 is a number of 16 bits, as it should be, 1 one of 8."""
    entry = b"\x12\x01" + kind.to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
    return b"Exif\0\0II*\0\x08\0\0\0" + b"\x01\0" + entry + bytes(4)


def xmp(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="r"><rdf:Description tiff:Orientation="%d"/>'
        b"</rdf:RDF></x:xmpmeta>" % orientation
    )


def behind_its_start(*segments: bytes) -> bytes:
    content = encoded(picture())
    return content[:2] + b"".join(segments) + content[2:]


def with_maker_and_xmp() -> bytes:
    exif = Image.Exif()
    exif[0x10F] = "a maker"
    return encoded(picture(), exif=exif, xmp=xmp(6))


TURNED = {
    **{f"orientation {i}": turned(i) for i in range(2, 9)},
    "EXIF behind XMP": behind_its_start(
        segment(b"http://ns.adobe.com/xap/1.0/\0<x/>"), segment(tagged(3, 6))
    ),
    "XMP alone": encoded(picture(), xmp=xmp(6)),
    "EXIF that is silent and XMP": with_maker_and_xmp(),
    "a tag of the wrong type": behind_its_start(segment(tagged(1, 6))),
}


@needs_torchcodec
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_decoded_to_a_tensor_has_the_pixels_of_pillow(name: str) -> None:
    found = jpeg.decode_as_tensor(JPEGS[name])
    expected = np.asarray(decode(JPEGS[name]))
    assert isinstance(found, torch.Tensor) and found.dtype == torch.uint8
    pixels = found.permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels[..., 0] if expected.ndim == 2 else pixels, expected)


@needs_torchcodec
@pytest.mark.parametrize("name", TURNED)
def test_an_image_that_is_to_be_turned_comes_as_pillow_turns_it_whatever_says_so(name: str) -> None:
    found = jpeg.decode_as_tensor(TURNED[name])
    pixels = found.permute(1, 2, 0).numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    np.testing.assert_array_equal(pixels, np.asarray(decode(TURNED[name])))


@needs_torchcodec
@pytest.mark.parametrize(
    "content",
    [encoded(picture(mode="CMYK")), encoded(picture(), format="PNG"), encoded(picture(), format="WEBP")],
    ids=["cmyk", "png", "webp"],
)
def test_what_is_no_plain_jpeg_is_left_to_pillow(content: bytes) -> None:
    found = jpeg.decode_as_tensor(content)
    assert isinstance(found, Image.Image)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(decode(content)))


@needs_torchcodec
@pytest.mark.parametrize("cut", [0.5, 0.95, -2], ids=["half", "its tail gone", "no end marker"])
def test_a_damaged_jpeg_is_unreadable_for_the_reason_that_pillow_gives(cut: float) -> None:
    whole = encoded(picture())
    content = whole[: int(cut * len(whole))] if cut > 0 else whole[: int(cut)]
    with pytest.raises(UnreadableSample) as expected:
        decode(content)
    with pytest.raises(UnreadableSample) as found:
        jpeg.decode_as_tensor(content)
    assert str(found.value) == str(expected.value)


@needs_torchcodec
def test_a_decompression_bomb_is_refused_before_a_byte_of_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedpipe.sources.decode.MAX_PIXELS", 1000)
    monkeypatch.setattr(jpeg, "_torchcodec", lambda: pytest.fail("decoded"))
    with pytest.raises(UnreadableSample, match="decompression bomb"):
        jpeg.decode_as_tensor(encoded(picture()))


def test_a_torchcodec_that_cannot_be_loaded_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("Could not load libtorchcodec\nmore lines")

    jpeg._torchcodec.cache_clear()
    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(
        ConfigError, match=r"extract\.decoder: torchcodec cannot be used \(Could not load lib"
    ):
        jpeg._torchcodec()
    assert "install the version that belongs to this torch" in (jpeg.unusable() or "")


@pytest.mark.parametrize("version", [None, "0.15.2"], ids=["missing", "without image decoders"])
def test_without_a_torchcodec_that_decodes_images_pillow_is_the_only_decoder(
    version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if version is None else object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    jpeg.tensor_decoder.cache_clear()
    try:
        assert jpeg.tensor_decoder() is None
        assert jpeg.decoder_like("torchcodec 0.17.0 for JPEG, pillow 13.0.0 else") == DECODER
    finally:
        jpeg.tensor_decoder.cache_clear()
