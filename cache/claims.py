"""What a cache's manifest and records say of it, where they contradict each other or cannot be read."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmkd.cache.manifest import (
    MANIFEST,
    CacheManifest,
    ShardRecord,
    read_manifest,
    read_record,
    record_path,
    shard_name,
)
from mmkd.cache.settings import CacheSettings
from mmkd.errors import CacheError

_RECORD = re.compile(r"shard-(\d{5,9})\.json")


@dataclass(frozen=True)
class Claims:
    """The manifest and the records, each as far as it can be read.

    Attributes:
        folder: the cache's folder.
        manifest: None where it is missing or refused.
        records: by shard; those that can be read.
        refused: by file name, why it cannot be read.
    """

    folder: Path
    manifest: CacheManifest | None
    records: dict[int, tuple[CacheSettings, ShardRecord]]
    refused: dict[str, str] = field(default_factory=dict)

    @cached_property
    def settings(self) -> CacheSettings | None:
        """What most of them say; None where nothing can be read, or where they are at a draw."""
        most = Counter(self.says().values()).most_common(2)
        drawn = not most or (len(most) == 2 and most[0][1] == most[1][1])
        return None if drawn else most[0][0]

    def says(self) -> dict[str, CacheSettings]:
        """What each file that can be read says of what made the cache, by its name."""
        found = {} if self.manifest is None else {MANIFEST: self.manifest.settings}
        return found | {
            record_path(self.folder, i).name: settings for i, (settings, _) in self.records.items()
        }

    def of_shard(self, index: int) -> ShardRecord | None:
        """What shard ``index`` should be; None where no file that agrees with ``settings`` tells.

        The manifest's word goes first: a shard that came here from another cache may have brought its record.
        """
        if self.manifest is not None and self.manifest.settings == self.settings:
            return self.manifest.shards[index]
        settings, record = self.records.get(index, (None, None))
        return record if settings == self.settings else None

    def outvoted(self) -> Iterator[tuple[str, str, str]]:
        """Files that say something else than most do: which, what, and what most say."""
        settings = self.settings
        for name, found in self.says().items() if settings is not None else ():
            if settings is not None and found != settings:
                path, one, other = first_difference(found.to_json(), settings.to_json())
                yield name, f"{path} {one}", other


def read_claims(folder: Path) -> Claims:
    """Read the manifest and every record of a folder.

    Raises:
        CacheError: there is no folder, or neither manifest nor record in it.
    """
    indices = []
    for path in folder.glob("shard-*.json") if folder.is_dir() else ():
        match = _RECORD.fullmatch(path.name)
        if match and record_path(folder, int(match[1])) == path:
            indices.append(int(match[1]))
    if not indices and not (folder / MANIFEST).is_file():
        read_manifest(folder)  # raises, in the words that every command uses
    refused, records, manifest = {}, {}, None
    try:
        manifest = read_manifest(folder)
    except CacheError as error:
        refused[MANIFEST] = str(error)
    for index in sorted(indices):
        try:
            record = read_record(folder, index)
        except CacheError as error:
            refused[record_path(folder, index).name] = str(error)
            continue
        if record is not None:
            records[index] = record
    return Claims(folder, manifest, records, refused)


def stray_files(folder: Path, shards: int) -> list[str]:
    """Files that a cache of ``shards`` shards does not have; hidden ones and mined neighbours may be there."""
    names = {path.name for path in folder.iterdir()} - {MANIFEST}
    strays = []
    for name in sorted(names):
        if name.startswith(".") or re.fullmatch(r"neighbours-.*\.h5|pairs\.parquet", name):
            continue
        index = shard_index(name)
        if index is None or index >= shards:
            strays.append(name)
    return strays


def shard_index(name: str) -> int | None:
    """Which shard a file or record is of; None where its name is not one of a shard."""
    match = re.fullmatch(r"shard-(\d{5,9})\.(h5|json)", name)
    index = int(match[1]) if match else None
    fits = index is not None and name.removesuffix(".json").removesuffix(".h5") == shard_name(index)[:-3]
    return index if fits else None


def first_difference(found: Any, expected: Any, path: str = "") -> tuple[str, str, str]:
    """The first leaf where two JSON values differ: its path, ``teacher.revision``, and both values in words."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            if found.get(key) != expected.get(key):
                return first_difference(found.get(key), expected.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            if one != other:
                return first_difference(one, other, f"{path}[{place}]")
    return path, repr(found), repr(expected)
