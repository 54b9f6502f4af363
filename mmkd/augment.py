"""Views of an image: augmentations that are pure functions of (seed, row, view)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mmkd.errors import ConfigError

POLICIES = ("none", "crop+flip", "randaugment")
DEFAULT_POLICY = "crop+flip"  # of a cache with several views
# What a name means is fixed for good: caches hold targets of these very views. A change needs a new name.
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10
FLIP = 0.5
OPERATIONS = 2
MAGNITUDE = 9 / 30
MAX_SIDE = 512  # more than any CLIP takes in; bounds the work that a large photo makes
_GREY = (128, 128, 128)

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What the views beyond view 0 are; with the row and the view's number it gives each of them again.

    Attributes:
        policy: one of ``POLICIES``.
        seed: of the draws, from 0.

    Raises:
        ConfigError: there is no such policy, or the seed is not a whole number of 63 bits.
    """

    policy: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(f"there is no augmentation {self.policy!r}; expected {', '.join(POLICIES)}")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"found an augmentation seed of {self.seed}; expected 0 or more, of 63 bits")

    def __call__(self, image: Image.Image, *, row: int, view: int) -> Image.Image:
        """View ``view`` of ``row``'s image; see ``augment``."""
        return augment(image, self.policy, seed=self.seed, row=row, view=view)

    def __str__(self) -> str:
        return f"{self.policy}, seed {self.seed}"


NO_AUGMENTATION = Augmentation()


class _Draws:
    """Uniform numbers from [0, 1) of one (seed, row, view), the same on every machine and in any order.

    Philox is keyed by seed and row and counts from the view on, so that no two views share a number. Only its
    raw stream is used: NumPy promises that one, and not its distributions, across versions.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """

    def __init__(self, seed: int, row: int, view: int) -> None:
        key, counter = np.array([seed, row], np.uint64), np.array([0, view, 0, 0], np.uint64)
        self._bits = np.random.Philox(key=key, counter=counter)

    def __call__(self) -> float:
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def below(self, count: int) -> int:
        """A whole number from 0 to ``count - 1``."""
        return int(self() * count)

    def chance(self, share: float) -> bool:
        """True in ``share`` of all cases."""
        return self() < share


def augment(image: Image.Image, policy: str, *, seed: int, row: int, view: int) -> Image.Image:
    """View ``view`` of a row's image: the same picture whatever process, thread or order asks for it.

    The view goes through the model's own preprocessing afterwards, as the untouched image does.

    Policies:
        ``none``: the image as it is.
        ``crop+flip``: a random resized crop, then mirrored with probability 0.5. The mirror turns the left of a
            caption into the right of its picture.
        ``randaugment``: a random resized crop, then 2 of 14 operations at magnitude 9 of 30; never mirrored.

    Args:
        image: RGB.
        policy: one of ``POLICIES``.
        seed: of the draws, from 0.
        row: the image's row, from 0.
        view: from 0; view 0 is the untouched image under every policy.

    Returns:
        The image itself for view 0 and ``none``; otherwise a square RGB image of at most 512 pixels a side.

    Raises:
        ValueError: the policy is unknown.
    """
    if policy not in POLICIES:
        raise ValueError(f"there is no augmentation {policy!r}")
    if view == 0 or policy == "none":
        return image
    draw = _Draws(seed, row, view)
    square = _stretch(image.crop(crop_box(*image.size, draw)))
    if policy == "crop+flip":
        return ImageOps.mirror(square) if draw.chance(FLIP) else square
    for name, signed in choose_operations(draw):
        square = _OPERATIONS[name](square, signed)
    return square


def crop_box(width: int, height: int, draw: Callable[[], float]) -> Box:
    """Left, top, right and bottom of a random crop, in whole pixels.

    Its area is uniform in [0.08, 1] of the image's, its width over height log-uniform in [3/4, 4/3]. What does
    not fit is drawn again, ten times at most, and then is the largest centred crop of such a shape. In the mean it
    keeps 0.48 of a square image's area, 0.43 of a 4:3 and 0.39 of a 3:2 photo's.

    Source: Szegedy et al., arXiv 1409.4842, section 6; the ranges and the fall-back are those of torchvision's
    ``RandomResizedCrop``.
    """
    for _ in range(ATTEMPTS):
        area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * draw())
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** draw()
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(draw() * (width - wide + 1)), int(draw() * (height - high + 1))
            return left, top, left + wide, top + high
    wide = max(1, min(width, round(height * RATIO[1])))
    high = max(1, min(height, round(width / RATIO[0])))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def choose_operations(draw: _Draws) -> list[tuple[str, float]]:
    """The names of 2 of RandAugment's operations, with replacement, each with magnitude 0.3 or -0.3.

    Source: Cubuk et al., RandAugment, arXiv 1909.13719; operations, ranges and the scale of 30 that the magnitude of
    9 stands on are those of torchvision's ``RandAugment``.
    """
    chosen = []
    for _ in range(OPERATIONS):
        name = tuple(_OPERATIONS)[draw.below(len(_OPERATIONS))]
        chosen.append((name, MAGNITUDE if draw.chance(0.5) else -MAGNITUDE))
    return chosen


def _stretch(crop: Image.Image) -> Image.Image:
    # To a square, as RandomResizedCrop does: the model's own centre crop then cuts nothing off. By the longer side,
    # so that the model's own resampling is the one that loses detail.
    side = min(max(crop.size), MAX_SIDE)
    return crop.resize((side, side), Image.Resampling.BICUBIC)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, matrix, resample, fillcolor=_GREY)


def _rotate(image: Image.Image, level: float) -> Image.Image:
    return image.rotate(30 * level, Image.Resampling.BILINEAR, fillcolor=_GREY)


# At most: shears of 0.3, shifts of 150/331 of a side, turns of 30 degrees, factors of 1 +- 0.9, 4 bits and all values
# inverted. Those without a direction take the magnitude's size alone. Uncovered ground is mid-grey.
_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "shear-x": lambda image, level: _affine(image, 1, 0.3 * level, 0, 0, 1, 0),
    "shear-y": lambda image, level: _affine(image, 1, 0, 0, 0.3 * level, 1, 0),
    "translate-x": lambda image, level: _affine(image, 1, 0, int(150 / 331 * level * image.width), 0, 1, 0),
    "translate-y": lambda image, level: _affine(image, 1, 0, 0, 0, 1, int(150 / 331 * level * image.height)),
    "rotate": _rotate,
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(1 + 0.9 * level),
    "color": lambda image, level: ImageEnhance.Color(image).enhance(1 + 0.9 * level),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(1 + 0.9 * level),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * level),
    "posterize": lambda image, level: ImageOps.posterize(image, 8 - round(4 * abs(level))),
    "solarize": lambda image, level: ImageOps.solarize(image, math.ceil(255 * (1 - abs(level)))),
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
}
