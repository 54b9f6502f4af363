"""Scenes: pictures with captions, drawn by code, on which the whole pipeline runs offline.

A scene is 32 x 32 pixels: one or two coloured shapes, small or large, left of or above one another, on a
noisy ground, with a caption such as "a small red circle left of a large blue star". Every scene is a pure
function of (seed, split, index). Eight colour-shape combinations are never drawn for training, so that a
zero-shot test holds classes that nobody was shown.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmkd.files import atomic_file

SIDE = 32
SIZES = ("small", "large")
COLOURS = {
    "red": (215, 30, 35),
    "green": (35, 165, 45),
    "blue": (40, 65, 225),
    "yellow": (245, 225, 40),
    "purple": (150, 35, 190),
    "cyan": (45, 215, 225),
    "white": (248, 248, 248),
    "black": (12, 12, 12),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "arrow", "hourglass")
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("green", "heart"),
        ("blue", "arrow"),
        ("yellow", "crescent"),
        ("purple", "triangle"),
        ("cyan", "hourglass"),
        ("white", "square"),
        ("black", "ring"),
    }
)
"""Colour-shape combinations that no training scene holds: 16 of the 160 classes."""

_KINDS = tuple((size, colour, shape) for size in SIZES for colour in COLOURS for shape in SHAPES)
CLASS_NAMES = tuple(" ".join(kind) for kind in _KINDS)
"""The 160 classes of single shapes, such as "small red circle"."""
HELD_OUT_LABELS = tuple(label for label, kind in enumerate(_KINDS) if kind[1:] in HELD_OUT)
SEEN_LABELS = tuple(label for label, kind in enumerate(_KINDS) if kind[1:] not in HELD_OUT)

TEMPLATE = "a {}"
MAX_TOKENS = 24
SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>", "eos_token": "<eos>"}
# With an eos_token_id of 2 transformers would pool at the highest token id instead of at the first <eos>.
PAD, BOS, UNK, EOS = 0, 1, 2, 3

Split = Literal["train", "test"]
_SPLITS = {"train": 0, "test": 1}
_PIXELS = {"small": (11, 12), "large": (18, 19, 20)}
_PIXELS_BESIDE_SMALL = {"small": (11, 12), "large": (18,)}
_PIXELS_BESIDE_LARGE = {"small": (11, 12), "large": (15,)}
_TILTS = (-6, 0, 6)
_OVERSAMPLING = 8
_ONE_SHAPE = 0.6
_LARGEST_OFFSET = 5
_ROWS_A_GROUP = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """One shape of a scene and the square that holds it.

    Attributes:
        label: its class, an index into ``CLASS_NAMES``.
        left: first column of the square, in pixels.
        top: first row of the square, in pixels.
        side: side of the square, in pixels.
    """

    label: int
    left: int
    top: int
    side: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and what it shows.

    Attributes:
        image: RGB, 32 x 32 pixels.
        caption: true of the picture.
        label: the class of a single shape; ``None`` where there are two.
        parts: the shapes, the left or upper one first.
    """

    image: Image.Image
    caption: str
    label: int | None
    parts: tuple[Part, ...]


def draw(seed: int, index: int, split: Split) -> Scene:
    """Draw one scene, a pure function of the arguments.

    Args:
        seed: of the whole set.
        index: of the scene within it; a test scene shows the class ``index % 160``.
        split: "train" scenes hold one or two shapes and never a held-out combination, "test" scenes one shape
            of any class. The same seed and index draw different scenes in the two.
    """
    rng = np.random.default_rng([seed, _SPLITS[split], index])
    if split == "test":
        parts, caption = _one_shape(rng, index % len(CLASS_NAMES))
    elif rng.random() < _ONE_SHAPE:
        parts, caption = _one_shape(rng, _seen_label(rng))
    else:
        parts, caption = _two_shapes(rng)
    label = parts[0].label if len(parts) == 1 else None
    return Scene(_paint(rng, parts), caption, label, parts)


def _seen_label(rng: np.random.Generator) -> int:
    return SEEN_LABELS[rng.integers(len(SEEN_LABELS))]


def _side(rng: np.random.Generator, choices: tuple[int, ...]) -> int:
    return choices[rng.integers(len(choices))]


def _one_shape(rng: np.random.Generator, label: int) -> tuple[tuple[Part, ...], str]:
    side = _side(rng, _PIXELS[_KINDS[label][0]])
    left, top = rng.integers(SIDE - side + 1, size=2)
    return (Part(label, int(left), int(top), side),), TEMPLATE.format(CLASS_NAMES[label])


def _two_shapes(rng: np.random.Generator) -> tuple[tuple[Part, ...], str]:
    first = second = _seen_label(rng)
    while second == first:
        second = _seen_label(rng)
    sizes = [_KINDS[label][0] for label in (first, second)]
    pixels = _PIXELS_BESIDE_SMALL if "small" in sizes else _PIXELS_BESIDE_LARGE
    sides = [_side(rng, pixels[size]) for size in sizes]
    along = _split_the_line(rng, sides)
    across = _place_across(rng, sides)
    horizontal = bool(rng.random() < 0.5)
    corners = zip(along, across, strict=True) if horizontal else zip(across, along, strict=True)
    parts = tuple(
        Part(label, left, top, side)
        for label, (left, top), side in zip((first, second), corners, sides, strict=True)
    )
    a, b = (TEMPLATE.format(CLASS_NAMES[label]) for label in (first, second))
    forward, backward = ("left of", "right of") if horizontal else ("above", "below")
    return parts, f"{a} {forward} {b}" if rng.random() < 0.5 else f"{b} {backward} {a}"


def _split_the_line(rng: np.random.Generator, sides: list[int]) -> tuple[int, int]:
    """Where two shapes begin on the axis that separates them: at least one pixel lies between them."""
    spare = SIDE - sum(sides) - 1
    before, between = (int(value) for value in np.sort(rng.integers(spare + 1, size=2)))
    return before, between + sides[0] + 1


def _place_across(rng: np.random.Generator, sides: list[int]) -> tuple[int, int]:
    """Where they begin on the other axis: nearly level, so that only one relation is true."""
    centre = rng.integers(max(sides) // 2, SIDE - (max(sides) + 1) // 2 + 1)
    offset = rng.integers(-_LARGEST_OFFSET, _LARGEST_OFFSET + 1)
    begins = (centre - sides[0] // 2, centre + offset - sides[1] // 2)
    first, second = (int(np.clip(begin, 0, SIDE - side)) for begin, side in zip(begins, sides, strict=True))
    return first, second


def _paint(rng: np.random.Generator, parts: tuple[Part, ...]) -> Image.Image:
    ground = rng.uniform(85, 165) + rng.uniform(-18, 18, size=3)
    canvas = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    canvas[:] = ground
    for part in parts:
        _, colour, shape = _KINDS[part.label]
        alpha = _mask(shape, part.side, _side(rng, _TILTS))
        tint = np.asarray(COLOURS[colour] + rng.uniform(-14, 14, size=3), dtype=np.float32)
        window = canvas[part.top : part.top + part.side, part.left : part.left + part.side]
        window += alpha * (tint - window)
    canvas += rng.uniform(5, 12) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


@cache
def _mask(shape: str, side: int, tilt: int) -> NDArray[np.float32]:
    """Antialiased coverage of the shape, float32 (side, side, 1) in [0, 1]."""
    big = side * _OVERSAMPLING
    image = Image.new("L", (big, big))
    _draw_shape(ImageDraw.Draw(image), shape, big / 2)
    small = image.rotate(tilt, resample=Image.Resampling.BILINEAR).reduce(_OVERSAMPLING)
    mask: NDArray[np.float32] = np.asarray(small, dtype=np.float32)[..., None] / np.float32(255)
    mask.flags.writeable = False
    return mask


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, half: float) -> None:
    """Draw a white shape into a square of side ``2 * half``; coordinates run from -1 to 1, y downwards."""

    def disc(x: float, y: float, radius: float, fill: int) -> None:
        box = [(value + 1) * half for value in (x - radius, y - radius, x + radius, y + radius)]
        pen.ellipse(box, fill=fill)

    if shape in ("circle", "ring", "crescent"):
        disc(0, 0, 0.97, 255)
    if shape == "ring":
        disc(0, 0, 0.55, 0)
    if shape == "crescent":
        disc(0.5, 0, 0.78, 0)
    for outline in _outlines().get(shape, ()):
        pen.polygon([((x + 1) * half, (y + 1) * half) for x, y in outline], fill=255)


@cache
def _outlines() -> dict[str, tuple[tuple[tuple[float, float], ...], ...]]:
    """Polygons of the shapes that are made of them."""
    spikes = [(0.42 if corner % 2 else 1.0, math.pi * (corner / 5 - 0.5)) for corner in range(10)]
    turns = [2 * math.pi * step / 64 for step in range(64)]
    heart = tuple(
        (
            0.95 * math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2.5) / 15.5,
        )
        for t in turns
    )
    return {
        "square": (((-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)),),
        "triangle": (((0, -0.95), (0.95, 0.85), (-0.95, 0.85)),),
        "star": (tuple((r * math.cos(angle), r * math.sin(angle)) for r, angle in spikes),),
        "cross": (
            ((-0.3, -0.95), (0.3, -0.95), (0.3, 0.95), (-0.3, 0.95)),
            ((-0.95, -0.3), (0.95, -0.3), (0.95, 0.3), (-0.95, 0.3)),
        ),
        "heart": (heart,),
        "arrow": (
            ((-0.97, -0.28), (0.1, -0.28), (0.1, 0.28), (-0.97, 0.28)),
            ((0.0, -0.92), (0.97, 0), (0.0, 0.92)),
        ),
        "hourglass": (
            ((-0.85, -0.95), (0.85, -0.95), (0.12, 0), (-0.12, 0)),
            ((-0.85, 0.95), (0.85, 0.95), (0.12, 0), (-0.12, 0)),
        ),
    }


def write_training_scenes(
    path: Path, count: int, seed: int, *, on_scenes: Callable[[int], None] | None = None
) -> None:
    """Write ``count`` training scenes to a Parquet file with the columns ``image`` (PNG) and ``caption``.

    Args:
        path: the file, which appears whole or not at all.
        count: scenes.
        seed: of the set.
        on_scenes: called with the number of scenes just drawn.
    """
    from datasets import Features, Value
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "caption": Value("string")})
    scenes = (draw(seed, index, "train") for index in range(count))
    rows = ({"image": _encode(scene.image), "caption": scene.caption} for scene in scenes)
    _write_parquet(path, features, rows, on_scenes)


def write_test_scenes(
    path: Path,
    per_class: int,
    seed: int,
    *,
    labels: Sequence[int] = range(len(CLASS_NAMES)),
    on_scenes: Callable[[int], None] | None = None,
) -> None:
    """Write ``per_class`` test scenes of each class to a Parquet file.

    Its columns are ``image`` (PNG) and ``label`` (``ClassLabel`` with all 160 ``CLASS_NAMES``). No training
    scene of any seed shares a random stream with them.

    Args:
        path: the file, which appears whole or not at all.
        per_class: scenes a class.
        seed: of the set.
        labels: the classes to draw.
        on_scenes: called with the number of scenes just drawn.
    """
    from datasets import ClassLabel, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(CLASS_NAMES))})
    indices = (turn * len(CLASS_NAMES) + label for turn in range(per_class) for label in labels)
    scenes = (draw(seed, index, "test") for index in indices)
    rows = ({"image": _encode(scene.image), "label": scene.label} for scene in scenes)
    _write_parquet(path, features, rows, on_scenes)


def _encode(image: Image.Image) -> dict[str, Any]:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return {"bytes": stream.getvalue(), "path": None}


def _write_parquet(
    path: Path, features: Any, rows: Iterator[dict[str, Any]], on_scenes: Callable[[int], None] | None
) -> None:
    import itertools

    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = features.arrow_schema
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        while group := list(itertools.islice(rows, _ROWS_A_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            if on_scenes is not None:
                on_scenes(len(group))


def vocabulary() -> dict[str, int]:
    """Every word that a caption can hold, after the special tokens."""
    words = ["a", "of", "left", "right", "above", "below", *SIZES, *COLOURS, *SHAPES]
    return {word: number for number, word in enumerate([*SPECIAL_TOKENS.values(), *words])}


def build_tokenizer(folder: Path) -> None:
    """Save the captions' tokenizer into ``folder``, for ``AutoTokenizer.from_pretrained``.

    It knows one token a word, and only the words of the captions: every other word, a person's profession
    say, becomes ``<unk>``. Each text is wrapped in ``<bos>`` and ``<eos>``.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel(vocabulary(), unk_token=SPECIAL_TOKENS["unk_token"]))
    backend.normalizer = Lowercase()
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=MAX_TOKENS,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        **SPECIAL_TOKENS,
    )
    tokenizer.save_pretrained(folder)
