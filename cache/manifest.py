"""What a cache says of itself: the manifest, and the completion record of each shard."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmkd.augment import NO_AUGMENTATION, Augmentation
from mmkd.cache.checks import counts, expect_keys, hash_text, number, shown, text
from mmkd.cache.origin import SIDES, Imported, teacher_differences, teacher_from_json
from mmkd.data import DataSource
from mmkd.embeddings import TeacherSpec
from mmkd.errors import CacheError, ConfigError, DataError, MmkdError
from mmkd.files import write_json
from mmkd.parse import read_json
from mmkd.pixels import MAX_SIDE

SCHEMA = 1
MAX_SHARDS = 16_384  # as many as a manifest of MAX_JSON bytes can surely list
MANIFEST = "manifest.json"
PAIRS = "pairs.parquet"  # the captions and image paths of an imported cache
VIEW_0 = {"policy": "teacher-preprocessing", "seed": 0}
DTYPES = ("float32", "bfloat16", "float16")
OPTIONAL = {"imported", "pixels"}  # keys of the settings
IMPORTED_DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True)
class CacheSettings:
    """What was asked for; equal settings and equal data give equal bytes on one kind of machine.

    Attributes:
        teacher: the teacher that embeds.
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

    def __post_init__(self) -> None:
        if self.shards > MAX_SHARDS:
            raise CacheError(
                f"{self.rows:,} rows fill {self.shards:,} shards of {self.shard_rows:,}, and a cache has at most "
                f"{MAX_SHARDS:,}; use a larger --shard-rows"
            )

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
        del value["augmentation"]
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
        expect_keys(value, cls.__dataclass_fields__.keys() - {"augmentation"} - optional, "the settings")
        imported = Imported.from_json(value["imported"]) if "imported" in value else None
        if not isinstance(value["sources"], list) or not value["sources"]:
            raise CacheError("the settings name no data source")
        dtypes = IMPORTED_DTYPES if imported else DTYPES
        if value["dtype"] not in dtypes:
            raise CacheError(f"found dtype {shown(value['dtype'])}; expected one of {', '.join(dtypes)}")
        if imported and len(value["sources"]) != 1:
            raise CacheError(f"found {len(value['sources'])} data sources of an import; expected one")
        limit = value["limit"]
        return cls(
            teacher=teacher_from_json(value["teacher"], may_be_unknown=imported is not None),
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
        )

    def describe_views(self) -> str:
        """In words: ``1``, or ``5 (crop+flip, seed 0)``."""
        return "1" if self.views == 1 else f"{self.views} ({self.augmentation})"

    def describe_pixels(self) -> str:
        """In words: ``none``, or ``224 x 224``."""
        return "none" if self.pixels is None else f"{self.pixels} x {self.pixels}"

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
        if (self.views, self.augmentation) != (other.views, other.augmentation):
            changed.append(f"views {other.describe_views()} (here {self.describe_views()})")
        if self.imported != other.imported:
            changed.append("vectors from elsewhere, or changed since")
        if self.sources != other.sources:
            named = [", ".join(source.spec for source in s.sources) for s in (other, self)]
            same = named[0] == named[1]
            changed.append("other columns of the data" if same else f"data {named[0]} (here {named[1]})")
        return [*teacher_differences(other.teacher, self.teacher), *changed]


@dataclass(frozen=True)
class ShardRecord:
    """One finished shard.

    Attributes:
        name: the file's name.
        rows: its rows.
        bytes: the file's size.
        xxh3_128: hash of the file, 32 hexadecimal digits.
        masked: rows without a usable image or caption, counted by reason.
    """

    name: str
    rows: int
    bytes: int
    xxh3_128: str
    masked: dict[str, int]

    @classmethod
    def from_json(cls, value: Any) -> "ShardRecord":
        """Read what ``dataclasses.asdict`` gave.

        Raises:
            CacheError: anything is missing, unknown, or of the wrong type.
        """
        expect_keys(value, set(cls.__dataclass_fields__), "a shard")
        return cls(
            name=text(value, "name"),
            rows=number(value, "rows", 1),
            bytes=number(value, "bytes", 1),
            xxh3_128=hash_text(value, "xxh3_128"),
            masked=counts(value["masked"]),
        )


@dataclass(frozen=True)
class CacheManifest:
    """The whole cache; written last, so a folder with a manifest is a finished cache.

    Attributes:
        settings: what was asked for.
        data_hash: xxh3_128 of all row hashes in order.
        shards: the shards in order of their rows.
    """

    settings: CacheSettings
    data_hash: str
    shards: tuple[ShardRecord, ...]

    @property
    def teacher(self) -> TeacherSpec:
        """The teacher that made the embeddings."""
        return self.settings.teacher

    @property
    def sources(self) -> list[DataSource]:
        """Where the pairs came from."""
        return list(self.settings.sources)

    @property
    def limit(self) -> int | None:
        """Rows kept of the whole; None for all."""
        return self.settings.limit

    @property
    def rows(self) -> int:
        """R, masked rows included."""
        return self.settings.rows

    @property
    def masked(self) -> dict[str, int]:
        """Masked rows, counted by reason."""
        return count_masked(self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "schema": SCHEMA,
            "settings": self.settings.to_json(),
            "data_hash": self.data_hash,
            "masked": self.masked,
            "shards": [asdict(shard) for shard in self.shards],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "CacheManifest":
        """Read what ``to_json`` wrote.

        Raises:
            CacheError: another schema version, or anything missing, unknown, of the wrong type, or at odds.
        """
        _expect_schema(value)
        expect_keys(value, {"schema", "settings", "data_hash", "masked", "shards"}, "the manifest")
        settings = CacheSettings.from_json(value["settings"])
        if not isinstance(value["shards"], list) or len(value["shards"]) != settings.shards:
            raise CacheError(f"found another number of shards than the {settings.shards} that its rows fill")
        shards = tuple(ShardRecord.from_json(shard) for shard in value["shards"])
        for index, shard in enumerate(shards):
            _expect_place(shard, index, settings)
        manifest = cls(settings, hash_text(value, "data_hash"), shards)
        if counts(value["masked"]) != manifest.masked:
            raise CacheError("the masked rows do not add up to those of the shards")
        return manifest


def count_masked(shards: Sequence[ShardRecord]) -> dict[str, int]:
    """Masked rows of ``shards``, counted by reason."""
    found: dict[str, int] = {}
    for shard in shards:
        for reason, rows in shard.masked.items():
            found[reason] = found.get(reason, 0) + rows
    return dict(sorted(found.items()))


def shard_name(index: int) -> str:
    """File name of shard ``index``."""
    return f"shard-{index:05d}.h5"


def record_path(folder: Path, index: int) -> Path:
    """Where shard ``index`` has its completion record."""
    return folder / f"shard-{index:05d}.json"


def read_manifest(folder: Path) -> CacheManifest:
    """Read and check a cache's manifest.

    Raises:
        CacheError: there is none, or it cannot be trusted.
    """
    if not folder.is_dir():
        raise CacheError(
            f"no cache at {folder}; make one with `mmkd cache-teacher --out {folder}`, or pass --cache"
        )
    if not (folder / MANIFEST).is_file():
        started = record_path(folder, 0).exists()
        raise CacheError(
            f"the cache {folder} is not finished (it has no {MANIFEST}); run the same `cache-teacher` again"
            if started
            else f"{folder} holds no {MANIFEST}; expected a cache made by `mmkd cache-teacher` (--cache)"
        )
    try:
        return CacheManifest.from_json(read_json(folder / MANIFEST))
    except MmkdError as error:
        raise CacheError(f"cannot use the cache {folder}: {error}") from error


def write_manifest(folder: Path, manifest: CacheManifest) -> None:
    """Write a cache's manifest, whole or not at all."""
    write_json(folder / MANIFEST, manifest.to_json())


def write_record(folder: Path, index: int, settings: CacheSettings, record: ShardRecord) -> None:
    """Write a shard's completion record, whole or not at all."""
    value = {"schema": SCHEMA, "settings": settings.to_json(), "shard": asdict(record)}
    write_json(record_path(folder, index), value)


def read_record(folder: Path, index: int) -> tuple[CacheSettings, ShardRecord] | None:
    """A shard's completion record with the settings it was made by; None where there is none.

    Raises:
        CacheError: it cannot be trusted.
    """
    path = record_path(folder, index)
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        _expect_schema(value)
        expect_keys(value, {"schema", "settings", "shard"}, "the record")
        settings = CacheSettings.from_json(value["settings"])
        record = ShardRecord.from_json(value["shard"])
        _expect_place(record, index, settings)
    except MmkdError as error:
        raise CacheError(f"cannot use {path}: {error}; delete it to make its shard again") from error
    return settings, record


def _expect_schema(value: dict[str, Any]) -> None:
    if type(value.get("schema")) is not int or value["schema"] != SCHEMA:
        raise CacheError(
            f"found format version {shown(value.get('schema'))}; this mmkd reads version {SCHEMA}"
        )


def _expect_place(record: ShardRecord, index: int, settings: CacheSettings) -> None:
    # Only these names are ever opened, so a manifest cannot point outside its folder.
    rows = settings.shard_range(index)
    if record.name != shard_name(index) or record.rows != len(rows):
        raise CacheError(
            f"found shard {shown(record.name)} of {record.rows} rows; expected {shard_name(index)} of {len(rows)}"
        )


def _pixels(value: Any) -> int | None:
    if "pixels" not in value:
        return None
    if len(value["views"]) > 1 or "imported" in value:
        raise CacheError(
            "found pixels beside several views or imported vectors; expected them of untouched images"
        )
    return number(value, "pixels", 1, most=MAX_SIDE)


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
