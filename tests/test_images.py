import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmkd.images import MAX_PIXELS, BadImageError, decode_image


def encode(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT" + zlib.compress(b""))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_lossless_formats_give_the_pixels_back(form):
    image = Image.new("RGB", (7, 5), (10, 200, 30))
    assert np.array_equal(np.asarray(decode_image(encode(image, form))), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode):
    form = "TIFF" if mode == "CMYK" else "PNG"
    decoded = decode_image(encode(Image.new("RGB", (6, 4), "red").convert(mode), form))
    assert (decoded.mode, decoded.size) == ("RGB", (6, 4))


def test_palette_with_transparency_keeps_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    data = encode(image, "PNG", transparency=b"\x40\x80")  # shades, not one clear colour
    assert np.asarray(decode_image(data)).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_exif_rotation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encode(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (8, 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no image data"),
        (b"<html>not found</html>", "not an image of a known format"),
        (png_header_only(8_001, 8_000), "too many pixels"),
        (png_header_only(10_000, 10_000), "too many pixels"),
        (png_header_only(60_000, 60_000), "too many pixels"),
        (png_header_only(10, 10), "damaged image"),
        (encode(Image.effect_noise((64, 64), 50), "JPEG")[:500], "damaged image"),
        (b"SIMPLE  =                    T" + b" " * 2880, "not an image of a known format"),
    ],
    ids=["empty", "html", "just-over", "over", "bomb", "no-pixels", "cut", "fits"],
)
def test_bad_images_are_told_apart(data, reason):
    with pytest.raises(BadImageError) as caught:
        decode_image(data)
    assert caught.value.reason == reason


def test_the_limit_is_on_pixels_not_on_a_side():
    assert MAX_PIXELS == 64_000_000
    assert decode_image(encode(Image.new("1", (60_000, 2)), "PNG")).size == (60_000, 2)


def test_openai_preprocessing_is_reproduced_exactly(shared_data):
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil()
    photos = sorted((shared_data / "clip-preprocess-golden").glob("*.jpg"))
    assert len(photos) == 4
    for photo in photos:
        expected = np.load(photo.with_suffix(".npz"))["pixel_values"]
        found = processor(images=[decode_image(photo.read_bytes())], return_tensors="np")["pixel_values"][0]
        assert np.abs(found - expected).max() == 0
