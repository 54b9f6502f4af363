"""Images of every kind are what the teacher's own processor makes of them, or are refused; bombs cost nothing."""

import gc
import io
import os
import struct
import warnings
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_pair, save_pairs
from fuzzing import in_child
from PIL import Image, ImageCms, PngImagePlugin
from test_images import encode

from mmkd.cache.build import build_cache
from mmkd.cache.store import open_cache
from mmkd.data import DataSource, open_pairs
from mmkd.images import MAX_BYTES, MAX_PIXELS, BadImageError, decode_image, read_image_file

MEGABYTES = 50  # that refusing a bomb may take


def picture() -> Image.Image:
    return draw_pair(5)[0]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def png_48_bit() -> bytes:
    """16 bits a channel, which Pillow cannot write."""
    values = np.random.default_rng(0).integers(0, 65_536, (24, 32, 3)).astype(">u2")
    return png(32, 24, depth=16, rows=b"".join(b"\0" + row.tobytes() for row in values))


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 65_536, (24, 32)).astype(np.uint16))


def animated(form: str, **options) -> bytes:
    frames = [draw_pair(number)[0] for number in range(3)]
    return encode(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(picture(), "JPEG", exif=exif)


def clear_palette() -> bytes:
    return encode(picture().quantize(16), "PNG", transparency=bytes(range(0, 256, 16)))


PICTURES = {
    "JPEG": encode(picture(), "JPEG"),
    "progressive JPEG": encode(picture(), "JPEG", progressive=True, quality=60),
    "grey JPEG": encode(picture().convert("L"), "JPEG"),
    "CMYK JPEG": encode(picture().convert("CMYK"), "JPEG"),
    "YCbCr TIFF": encode(picture().convert("YCbCr"), "TIFF", compression="jpeg"),
    "CMYK TIFF": encode(picture().convert("CMYK"), "TIFF"),
    "LAB TIFF": encode(Image.new("LAB", (30, 20), (90, 30, 200)), "TIFF"),
    "16-bit PNG": encode(sixteen_bit(), "PNG"),
    "16-bit TIFF": encode(sixteen_bit(), "TIFF"),
    "48-bit PNG": png_48_bit(),
    "32-bit float TIFF": encode(
        Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)), "TIFF"
    ),
    "1-bit PNG": encode(picture().convert("1"), "PNG"),
    "palette PNG": encode(picture().quantize(16), "PNG"),
    "palette PNG with transparency": clear_palette(),
    "grey PNG with transparency": encode(picture().convert("LA"), "PNG"),
    "PNG with transparency": encode(picture().convert("RGBA"), "PNG"),
    "PNG with a clear colour": encode(picture(), "PNG", transparency=(1, 2, 3)),
    "PNG with a profile": encode(
        picture(), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ),
    "GIF": encode(picture(), "GIF"),
    "animated GIF": animated("GIF"),
    "animated WEBP": animated("WEBP", lossless=True),
    "animated PNG": animated("PNG"),
    "animated PNG with a cover": animated("PNG", default_image=True),
    "several pages": animated("TIFF"),
    "two pictures in a JPEG": animated("MPO"),
    "WEBP": encode(picture(), "WEBP", quality=80),
    "PPM of 16 bits": b"P5 4 2 65535\n" + bytes(range(16)),
    "EXIF-rotated JPEG": rotated(),
    "one pixel": encode(Image.new("RGB", (1, 1), "red"), "PNG"),
    "long and thin": encode(Image.new("RGB", (2000, 3), "red"), "PNG"),
}


def plainly(data: bytes) -> Image.Image:
    """What everybody does: Pillow opens it, and makes RGB of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_every_kind_are_as_the_teachers_processor_makes_them(kind):
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    ours, theirs = decode_image(PICTURES[kind]), plainly(PICTURES[kind])
    assert ours.size == theirs.size
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    pixels = [processor(images=[one], return_tensors="np")["pixel_values"] for one in (ours, theirs)]
    assert np.array_equal(*pixels)


def test_only_the_first_frame_counts_and_nothing_is_turned():
    for form in ("GIF", "PNG"):
        first = np.asarray(decode_image(animated(form)).convert("RGB"), dtype=int)
        assert np.abs(first - np.asarray(draw_pair(0)[0], dtype=int)).mean() < 12
    assert decode_image(PICTURES["EXIF-rotated JPEG"]).size == picture().size


DAMAGED = {
    "empty": (b"", "no image data"),
    "cut JPEG": (PICTURES["JPEG"][:-200], "damaged image"),
    "cut PNG": (PICTURES["16-bit PNG"][:-60], "damaged image"),
    "cut TIFF": (PICTURES["16-bit TIFF"][: len(PICTURES["16-bit TIFF"]) // 2], "damaged image"),
    "cut WEBP": (PICTURES["WEBP"][:-100], "damaged image"),
    "cut header": (PICTURES["JPEG"][:20], "not an image of a known format"),
    "wrong checksum": (
        PICTURES["48-bit PNG"][:200] + bytes(9) + PICTURES["48-bit PNG"][209:],
        "damaged image",
    ),
    "HTML": (b"<!doctype html><title>404</title>", "not an image of a known format"),
    "SVG": (
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "not an image",
    ),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    "zeros": (bytes(10_000), "not an image of a known format"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_pictures_are_refused_by_a_few_reasons(kind):
    data, reason = DAMAGED[kind]
    with pytest.raises(BadImageError, match=reason):
        decode_image(data)


def test_damaged_pictures_are_masked_and_counted(tiny_encoder, tmp_path):
    files = [*PICTURES.values(), *(data for data, _ in DAMAGED.values())]
    path = save_pairs(tmp_path / "p.parquet", files, [f"picture {number}" for number in range(len(files))])
    pairs = open_pairs([DataSource(str(path))])
    build_cache(tiny_encoder, pairs, tmp_path / "cache", shard_rows=20, batch_size=8, max_bad=0.9, workers=0)
    store = open_cache(tmp_path / "cache")
    assert store.usable.to_array().tolist() == list(range(len(PICTURES)))
    assert sum(store.manifest.masked.values()) == len(DAMAGED)
    found = store.read(np.arange(len(PICTURES))).image
    expected = tiny_encoder.encode_images([plainly(data) for data in PICTURES.values()])
    assert np.allclose(found, expected / expected.norm(dim=1, keepdim=True), atol=2e-3)


def patched(data: bytes, after: bytes, offset: int, layout: str, *values: int) -> bytes:
    """``data`` with numbers written ``offset`` bytes behind the first ``after``."""
    place = data.index(after) + offset
    new = struct.pack(layout, *values)
    return data[:place] + new + data[place + len(new) :]


def large_webp() -> bytes:
    side = struct.pack("<I", 16_382)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + side + side + PICTURES["WEBP"][12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def texts(kind: bytes, head: bytes, count: int, size: int) -> bytes:
    packed = zlib.compress(bytes(size), 9)
    return png(4, 4, *(chunk(kind, b"k%d" % n + head + packed) for n in range(count)), rows=bytes(13 * 4))


def many_frames() -> bytes:
    frames = [Image.new("P", (300, 300), number % 250) for number in range(400)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


BOMBS = {
    "PNG": (lambda: png(60_000, 60_000), "too many pixels"),
    "packed PNG": (lambda: png(8_001, 8_000, colour=0, rows=bytes(8_000 * 8_002)), "too many pixels"),
    "GIF screen": (lambda: patched(PICTURES["GIF"], b"GIF8", 6, "<HH", 65_535, 65_535), "too many pixels"),
    "JPEG": (lambda: patched(PICTURES["JPEG"], b"\xff\xc0", 5, ">HH", 65_000, 65_000), "too many pixels"),
    "BMP": (lambda: patched(encode(picture(), "BMP"), b"BM", 18, "<ii", 60_000, 60_000), "too many pixels"),
    "PPM": (lambda: b"P6 60000 60000 255\n", "too many pixels"),
    "WEBP": (large_webp, "too many pixels"),
    "TIFF": (
        lambda: encode(Image.new("1", (8_001, 8_000)), "TIFF", compression="group4"),
        "too many pixels",
    ),
    "200 MB of texts": (lambda: texts(b"zTXt", b"\0\0", 200, 1_000_000), "damaged image"),
    "200 MB of more texts": (lambda: texts(b"iTXt", b"\0\1\0\0\0", 200, 1_000_000), "damaged image"),
    "a text of 150 MB": (lambda: texts(b"zTXt", b"\0\0", 1, 150_000_000), "damaged image"),
    "a profile of 150 MB": (lambda: texts(b"iCCP", b"\0\0", 1, 150_000_000), "damaged image"),
    "rows of 150 MB": (lambda: png(4, 4, rows=bytes(150_000_000)), None),
    "EXIF of 12 MB": (  # a block of it is held two or three times: no bomb, but a limit
        lambda: png(4, 4, chunk(b"eXIf", b"MM\0*" + bytes(12_000_000)), rows=bytes(13 * 4)),
        None,
    ),
    "many frames": (many_frames, None),
}


def memory() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_cost_no_memory(kind):
    make, reason = BOMBS[kind]
    data = make()

    def read() -> None:
        decode_image(PICTURES["GIF"])  # what is first used is first paged in
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = memory()
        if reason is None:
            assert decode_image(data).width <= 300
        else:
            with pytest.raises(BadImageError, match=reason):
                decode_image(data)
        assert memory() - before < MEGABYTES << 20, f"{(memory() - before) >> 20} MB"

    in_child("bombs", [read])


def test_limits_are_what_the_documentation_says():
    assert (MAX_PIXELS, MAX_BYTES) == (64_000_000, 256 << 20)
    assert PngImagePlugin.MAX_TEXT_MEMORY == 16 << 20


def test_files_that_never_end_hold_no_image(tmp_path, monkeypatch):
    monkeypatch.setattr("mmkd.images.MAX_BYTES", 100)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(101))
    (tmp_path / "right").write_bytes(bytes(100))
    names = [
        tmp_path / "pipe",
        tmp_path / "large",
        tmp_path / "gone",
        tmp_path,
        Path("/dev/zero"),
        Path("a\0b"),
    ]
    assert [read_image_file(path) for path in names] == [b""] * len(names)
    assert read_image_file(tmp_path / "right") == bytes(100)


def test_rows_that_name_such_files_are_masked(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    picture().save(tmp_path / "0.png")
    (tmp_path / "list.csv").write_text("image_path,caption\n0.png,one\npipe,two\n/dev/zero,three\n")
    pairs = open_pairs([DataSource(str(tmp_path / "list.csv"))])
    read = partial(lambda rows: [len(pairs[row].image) for row in rows], range(3))
    sizes = read()
    assert sizes[0] == (tmp_path / "0.png").stat().st_size
    assert sizes[1:] == [0, 0]
