"""Images between resizing and normalising: small enough to be stored, and one table away from a model's input."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SIDE = 4096
_PROBES = ((48, 40), (40, 48), (41, 41), (500, 333), (250, 375), (900, 31))


def prepare_images(image_processor: Any, images: "Sequence[Image]") -> Tensor:
    """What the processor makes of ``images``, to the bit: float32 (B, 3, S, S).

    A CLIP's own preprocessing is done by Pillow and a table of levels, without the processor's copies between, in two
    thirds of the time; any other is left to the processor.

    Args:
        image_processor: a model's.
        images: at least one.
    """
    quick = _quick_resize(image_processor, image_processor.to_json_string())
    if quick is None or any(image.mode != "RGB" for image in images):
        pixels: Tensor = image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels
    planes = torch.from_numpy(_stack(quick, images)).permute(0, 3, 1, 2)
    return normalise_pixels(planes, pixel_levels(image_processor))


def resize_images(image_processor: Any, images: "Sequence[Image]") -> NDArray[np.uint8]:
    """The processor's own resizing and cropping alone: uint8 (B, S, S, 3).

    Args:
        image_processor: a model's, of the Pillow kind, which rounds to whole levels after resizing.
        images: RGB, at least one.
    """
    quick = _quick_resize(image_processor, image_processor.to_json_string())
    return _processed(image_processor, images) if quick is None else _stack(quick, images)


def _processed(image_processor: Any, images: "Sequence[Image]") -> NDArray[np.uint8]:
    found = image_processor(images=list(images), do_rescale=False, do_normalize=False, return_tensors="np")
    resized: NDArray[np.uint8] = found["pixel_values"]
    return np.ascontiguousarray(resized.transpose(0, 2, 3, 1))


def _stack(resize: "Callable[[Image], Image]", images: "Sequence[Image]") -> NDArray[np.uint8]:
    return np.stack([np.asarray(resize(image)) for image in images])


@lru_cache(maxsize=8)
def _quick_resize(image_processor: Any, settings: str) -> "Callable[[Image], Image] | None":  # noqa: ARG001
    """Resizing and cropping by Pillow alone; None where pictures of all kinds do not come out the same to the bit."""
    says = image_processor.to_dict()
    size, crop = says.get("size") or {}, says.get("crop_size") or {}
    side = size.get("shortest_edge")
    squares = says.get("do_resize") and says.get("do_center_crop") and crop == {"height": side, "width": side}
    if not squares or not isinstance(side, int):
        return None
    resize = partial(_resize_and_crop, side=side, resample=says.get("resample"))
    images = _probe_images()
    try:
        expected = image_processor(images=images, return_tensors="pt")["pixel_values"]
        planes = torch.from_numpy(_stack(resize, images)).permute(0, 3, 1, 2)
        same = torch.equal(normalise_pixels(planes, pixel_levels(image_processor)), expected)
    except (ValueError, TypeError, KeyError, RuntimeError):
        return None
    return resize if same else None


def _resize_and_crop(image: "Image", *, side: int, resample: int) -> "Image":
    wide, high = image.size
    wide, high = (side, int(side * high / wide)) if wide <= high else (int(side * wide / high), side)
    left, top = (wide - side) // 2, (high - side) // 2
    return image.resize((wide, high), resample).crop((left, top, left + side, top + side))


def _probe_images() -> "list[Image]":
    from PIL import Image

    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (high, wide, 3), dtype=np.uint8)) for wide, high in _PROBES]


def pixel_levels(image_processor: Any) -> Tensor:
    """What the processor's own rescaling and normalising make of each level: float32 (3, 256), by channel."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    found = image_processor(images=[ramp], do_resize=False, do_center_crop=False, return_tensors="pt")
    levels: Tensor = found["pixel_values"][0].reshape(3, 256)
    return levels


def normalise_pixels(pixels: Tensor, levels: Tensor) -> Tensor:
    """A model's input from stored pixels, to the bit what its processor makes of the image, wherever they are.

    Args:
        pixels: uint8 (B, 3, S, S).
        levels: float32 (3, 256), from ``pixel_levels``, on the same device.

    Returns:
        float32 (B, 3, S, S).
    """
    table = levels.flatten()
    first = torch.arange(0, len(table), 256, dtype=torch.int32, device=pixels.device).view(-1, 1, 1)
    values = torch.empty(pixels.shape, dtype=levels.dtype, device=pixels.device)
    step = 1 if pixels.device.type == "cpu" else max(1, len(pixels))  # what stays in the processor's cache
    for start in range(0, len(pixels), step):
        part = pixels[start : start + step].contiguous().int() + first
        torch.index_select(table, 0, part.view(-1), out=values[start : start + step].view(-1))
    return values


def pixel_side(image_processor: Any) -> int:
    """S, the side of the images that a processor makes.

    Raises:
        ConfigError: they are not squares of one size, or not what a table of levels can give back to the bit.
    """
    shapes, exact, levels = set(), True, pixel_levels(image_processor)
    for image in _probe_images():
        resized = resize_images(image_processor, [image])
        shapes.add(resized.shape[1:])
        expected = image_processor(images=[image], return_tensors="pt")["pixel_values"]
        found = resized.dtype == np.uint8 and normalise_pixels(
            torch.from_numpy(resized).permute(0, 3, 1, 2), levels
        )
        exact = exact and isinstance(found, Tensor) and torch.equal(found, expected)
    sides = {shape[0] for shape in shapes} | {shape[1] for shape in shapes}
    if len(sides) != 1 or not exact or (side := sides.pop()) > MAX_SIDE:
        raise ConfigError(
            "--store-pixels and --scaled-jpeg are for a teacher whose preprocessing makes squares of one size, at most "
            f"{MAX_SIDE} a side, and rounds after resizing; this one's makes {', '.join(map(str, sorted(shapes)))}"
            + ("" if exact else " and does not round")
        )
    return int(side)
