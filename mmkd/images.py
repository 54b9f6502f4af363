"""Image bytes from untrusted sources to RGB images."""

import io
import warnings
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000
MAX_BYTES = 256 << 20  # of a file

# What a damaged TIFF or PNG lacks is told once a tag; what counts is whether it can be decoded.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# A bomb is refused from its header; Pillow's own, larger limit then has nothing left to warn of.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# Compressed texts in a PNG of 200 KB took 64 MB, Pillow's own limit.
PngImagePlugin.MAX_TEXT_MEMORY = 16 << 20


class BadImageError(Exception):
    """An image that cannot be decoded; ``reason`` is one of a few fixed phrases, fit for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_image(data: bytes, *, jpeg_side: int | None = None) -> Image.Image:
    """Decode the first frame of an image as RGB.

    The pixels stay as stored: no EXIF rotation, as in OpenAI's CLIP.

    Args:
        data: the encoded image.
        jpeg_side: decode a JPEG at half, a quarter or an eighth of its size, as small as leaves the shorter side at
            least so many pixels: the decoder then does less, and averages blocks of pixels, which is near to what
            resampling does and not the same. None: in full.

    Only JPEG, PNG, WEBP, GIF, BMP, TIFF and PPM are opened, and nothing is decoded
    before the header has shown at most ``MAX_PIXELS`` pixels.

    Raises:
        BadImageError: the bytes are empty, of another format, too large, or damaged.
    """
    if not data:
        raise BadImageError("no image data")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError("too many pixels")
            if jpeg_side is not None and image.format == "JPEG":
                image.draft(None, (jpeg_side, jpeg_side))
            return _to_rgb(image)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("not an image of a known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError("too many pixels") from error
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise BadImageError("damaged image") from error


def read_image_file(path: Path) -> bytes:
    """The bytes of an image's file; none where it cannot be read, is no ordinary file, or has over ``MAX_BYTES``.

    Lists of paths come from anybody: a device never ends, and a pipe is waited for.
    """
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError:
        return b""
    return data if len(data) <= MAX_BYTES else b""


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns on the direct way; the colours are the same.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
