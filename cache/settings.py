"""What was asked of a cache: its teachers, data and sizes, as the manifest and each record say them."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmkd.augment import NO_AUGMENTATION, Augmentation
from mmkd.cache.checks import expect_keys, number, shown, text
from mmkd.cache.origin import SIDES, Imported, teachers_differences, teachers_from_json
from mmkd.data import DataSource
from mmkd.embeddings import TeacherSpec
from mmkd.errors import CacheError, ConfigError, DataError
from mmkd.pixels import MAX_SIDE

MAX_SHARDS = 16_384  # as many as a manifest of MAX_JSON bytes can surely list
VIEW_0 = {"policy": "teacher-preprocessing", "seed": 0}
DTYPES = ("float32", "bfloat16", "float16")
OPTIONAL = {"imported", "pixels", "jpeg_side"}  # keys of the settings
IMPORTED_DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True)
class CacheSettings:
    """What was asked for; equal settings and equal data give equal bytes on one kind of machine.

    Attributes:
        teacher: the teacher that embeds; of several the first.
        sources: where the pairs come from, every guess resolved.
        limit: rows kept of the whole; None for all.
        rows: R, rows in all shards, masked ones included.
        captions: C, the room for captions in each row.
        dtype: precision of the teacher's forward pass, or of the vectors that were imported; they are stored as
            float16.
        batch_size: images, or captions, of one forward pass; 0 in an imported cache, which made none.
        shard_rows: rows of each shard but the last, which may have fewer.
        views: V, views of each image; view 0 is the untouched one.
        augmentation: what the other views are.
        imported: where the vectors came from; None where mmkd computed them.
        pixels: S, the side of the untouched images that are stored, too; None: none are.
        jpeg_side: JPEGs were decoded as small as leaves the shorter side at least so many pixels; None: in full.
        more_teachers: others that embed the same images and captions; their vectors stand behind its own.
    """

    teacher: TeacherSpec
    sources: tuple[DataSource, ...]
    limit: int | None
    rows: int
    captions: int
    dtype: str
    batch_size: int
    shard_rows: int
    views: int = 1
    augmentation: Augmentation = NO_AUGMENTATION
    imported: Imported | None = None
    pixels: int | None = None
    jpeg_side: int | None = None
    more_teachers: tuple[TeacherSpec, ...] = ()

    def __post_init__(self) -> None:
        if self.shards > MAX_SHARDS:
            raise CacheError(
                f"{self.rows:,} rows fill {self.shards:,} shards of {self.shard_rows:,}, and a cache has at most "
                f"{MAX_SHARDS:,}; use a larger --shard-rows"
            )

    @property
    def teachers(self) -> tuple[TeacherSpec, ...]:
        """All teachers that embed, in the order of their vectors."""
        return self.teacher, *self.more_teachers

    @property
    def dim(self) -> int:
        """D of the stored vectors: that of all teachers together."""
        return sum(one.dim for one in self.teachers)

    @property
    def parts(self) -> tuple[slice, ...]:
        """Where each teacher's vectors stand within D."""
        ends = np.cumsum([one.dim for one in self.teachers]).tolist()
        return tuple(slice(end - one.dim, end) for one, end in zip(self.teachers, ends, strict=True))

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that there are vectors of."""
        return SIDES if self.imported is None else self.imported.sides

    @property
    def shards(self) -> int:
        """How many shards the rows fill."""
        return -(-self.rows // self.shard_rows)

    def shard_range(self, index: int) -> range:
        """The rows of shard ``index``."""
        return range(index * self.shard_rows, min((index + 1) * self.shard_rows, self.rows))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        views = [VIEW_0, *[asdict(self.augmentation)] * (self.views - 1)]
        value = {**asdict(self), "sources": [s.to_json() for s in self.sources], "views": views}
        del value["augmentation"], value["more_teachers"]
        if self.more_teachers:
            del value["teacher"]
            value = {"teachers": [one.to_json() for one in self.teachers], **value}
        else:
            value["teacher"] = self.teacher.to_json()
        value["imported"] = None if self.imported is None else self.imported.to_json()
        # Only a cache that has them has these keys, so that others are what they were before there were any.
        return {key: item for key, item in value.items() if key not in OPTIONAL or item is not None}

    @classmethod
    def from_json(cls, value: Any) -> "CacheSettings":
        """Read what ``to_json`` wrote.

        Raises:
            CacheError: anything is missing, unknown, or of the wrong type.
        """
        optional = OPTIONAL - (value.keys() if isinstance(value, dict) else set())
        keys = cls.__dataclass_fields__.keys() - {"augmentation", "more_teachers"} - optional
        if isinstance(value, dict) and "teachers" in value:
            keys = keys - {"teacher"} | {"teachers"}
        expect_keys(value, keys, "the settings")
        imported = Imported.from_json(value["imported"]) if "imported" in value else None
        if not isinstance(value["sources"], list) or not value["sources"]:
            raise CacheError("the settings name no data source")
        dtypes = IMPORTED_DTYPES if imported else DTYPES
        if value["dtype"] not in dtypes:
            raise CacheError(f"found dtype {shown(value['dtype'])}; expected one of {', '.join(dtypes)}")
        if imported and len(value["sources"]) != 1:
            raise CacheError(f"found {len(value['sources'])} data sources of an import; expected one")
        limit = value["limit"]
        teacher, *more = teachers_from_json(value, imported=imported is not None)
        return cls(
            teacher=teacher,
            more_teachers=tuple(more),
            sources=tuple(_source(source) for source in value["sources"]),
            limit=limit if limit is None else number(value, "limit", 1),
            rows=number(value, "rows", 1),
            captions=number(value, "captions", 1, most=65_535),
            dtype=value["dtype"],
            batch_size=number(value, "batch_size", 0 if imported else 1),
            shard_rows=number(value, "shard_rows", 1),
            views=len(value["views"]) if isinstance(value["views"], list) else 0,
            augmentation=_augmentation(value["views"]),
            imported=imported,
            pixels=_pixels(value),
            jpeg_side=_jpeg_side(value),
        )

    def describe_views(self) -> str:
        """In words: ``1``, or ``5 (crop+flip, seed 0)``."""
        return "1" if self.views == 1 else f"{self.views} ({self.augmentation})"

    def describe_pixels(self) -> str:
        """In words: ``none``, or ``224 x 224``."""
        return "none" if self.pixels is None else f"{self.pixels} x {self.pixels}"

    def describe_jpeg(self) -> str:
        """In words: ``in full``, or ``at a shorter side of 336 or more``."""
        return "in full" if self.jpeg_side is None else f"at a shorter side of {self.jpeg_side} or more"

    def differences(self, other: "CacheSettings") -> list[str]:
        """What differs, in words: ``batch_size 64 (here 32)``; the teacher's name does not count."""
        mine, theirs = self.to_json(), other.to_json()
        changed = [
            f"{name} {theirs[name]} (here {mine[name]})"
            for name in ("limit", "rows", "captions", "dtype", "batch_size", "shard_rows")
            if mine[name] != theirs[name]
        ]
        if self.pixels != other.pixels:
            changed.append(f"pixels {other.describe_pixels()} (here {self.describe_pixels()})")
        if self.jpeg_side != other.jpeg_side:
            changed.append(f"JPEGs decoded {other.describe_jpeg()} (here {self.describe_jpeg()})")
        if (self.views, self.augmentation) != (other.views, other.augmentation):
            changed.append(f"views {other.describe_views()} (here {self.describe_views()})")
        if self.imported != other.imported:
            changed.append("vectors from elsewhere, or changed since")
        if self.sources != other.sources:
            named = [", ".join(source.spec for source in s.sources) for s in (other, self)]
            same = named[0] == named[1]
            changed.append("other columns of the data" if same else f"data {named[0]} (here {named[1]})")
        return [*teachers_differences(other.teachers, self.teachers), *changed]


def _pixels(value: Any) -> int | None:
    if "pixels" not in value:
        return None
    if len(value["views"]) > 1 or "imported" in value:
        raise CacheError(
            "found pixels beside several views or imported vectors; expected them of untouched images"
        )
    return number(value, "pixels", 1, most=MAX_SIDE)


def _jpeg_side(value: Any) -> int | None:
    if "jpeg_side" not in value:
        return None
    if len(value["views"]) > 1 or "imported" in value:
        raise CacheError(
            "found jpeg_side beside several views or imported vectors; expected it of untouched images"
        )
    return number(value, "jpeg_side", 1, most=2 * MAX_SIDE)


def _source(value: Any) -> DataSource:
    try:
        return DataSource.from_json(value if isinstance(value, dict) else {})
    except DataError as error:
        raise CacheError(str(error)[:500]) from error


def _augmentation(views: Any) -> Augmentation:
    """The one augmentation of all views beyond the first."""
    if not isinstance(views, list) or views[:1] != [VIEW_0]:
        raise CacheError(f"found the views {shown(views)}; expected the teacher's own preprocessing first")
    if len(views) == 1:
        return NO_AUGMENTATION
    expect_keys(views[1], set(Augmentation.__dataclass_fields__), "view 1")
    if any(view != views[1] for view in views[2:]):
        raise CacheError("found views of several augmentations; expected one for all but the first")
    try:
        augmentation = Augmentation(text(views[1], "policy"), number(views[1], "seed", 0, most=(1 << 63) - 1))
    except ConfigError as error:
        raise CacheError(str(error)) from error
    if augmentation.policy == "none":
        raise CacheError("found views without an augmentation; expected the untouched image once")
    return augmentation
