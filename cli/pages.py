"""HTML pages that need nothing else: no scripts, no network, every text escaped, pictures within."""

import base64
import io
from pathlib import Path
from typing import Any

THUMBNAIL = 224


def thumbnail(data: bytes, *, side: int = THUMBNAIL) -> str:
    """An encoded image as a JPEG of at most ``side`` pixels in base64; empty where it cannot be decoded."""
    from mmkd.images import BadImageError, decode_image

    try:
        image = decode_image(data)
    except BadImageError:
        return ""
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def write_page(file: Path, page: str, **values: Any) -> None:
    """Fill ``page`` of ``configs/pages`` with ``values``, and write it whole or not at all."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    from mmkd.files import write_text

    source = files("mmkd.configs").joinpath("pages", page).read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(source)
    write_text(file, template.render(values))
