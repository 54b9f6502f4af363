"""What a cache says of itself: the manifest, and the completion record of each shard."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmkd.cache.checks import counts, expect_keys, hash_text, number, shown, text
from mmkd.cache.settings import CacheSettings
from mmkd.data import DataSource
from mmkd.embeddings import TeacherSpec
from mmkd.errors import CacheError, MmkdError
from mmkd.files import write_json
from mmkd.parse import read_json

SCHEMA = 1
MANIFEST = "manifest.json"
PAIRS = "pairs.parquet"  # the captions and image paths of an imported cache


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
        """The teacher that made the embeddings; of several the first."""
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
        value = read_json(folder / MANIFEST)
    except MmkdError as error:
        mend = f"mend it with `mmkd cache verify {folder} --repair`"
        raise CacheError(f"cannot use the cache {folder}: {error}; {mend}") from error
    try:
        return CacheManifest.from_json(value)
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
