"""Image bytes from untrusted sources to RGB images."""

import io
import warnings

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000

# A bomb is refused from its header; Pillow's own, larger limit then has nothing left to warn of.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class BadImageError(Exception):
    """An image that cannot be decoded; ``reason`` is one of a few fixed phrases, fit for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_image(data: bytes) -> Image.Image:
    """Decode the first frame of an image as RGB.

    The pixels stay as stored: no EXIF rotation, as in OpenAI's CLIP.

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
            return _to_rgb(image)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("not an image of a known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError("too many pixels") from error
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise BadImageError("damaged image") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns on the direct way; the colours are the same.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
