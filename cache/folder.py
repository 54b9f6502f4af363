"""What a cache's folder may hold before anything is written into it."""

import re
from pathlib import Path

from mmkd.cache.manifest import MANIFEST, ShardRecord, read_manifest, read_record
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import check_file
from mmkd.errors import CacheError, StaleCacheError

_OURS = re.compile(r"(manifest\.json|pairs\.parquet|shard-\d{5,}\.(h5|json)|neighbours-.*\.h5|\..*)")


def refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds anything but a cache.

    Raises:
        CacheError: it does, or it is a file.
    """
    if out.exists() and not out.is_dir():
        raise CacheError(f"{out} is a file; expected a folder for the cache, pass another --out")
    foreign = sorted(p.name for p in out.iterdir() if not _OURS.fullmatch(p.name)) if out.is_dir() else []
    if foreign:
        raise CacheError(
            f"{out} holds something else than a cache ({', '.join(foreign[:3])}{', …' * (len(foreign) > 3)}); "
            "pass another --out"
        )


def refuse_other_cache(out: Path, settings: CacheSettings) -> None:
    """Refuse a folder that holds a cache of other settings.

    Raises:
        StaleCacheError: it does.
    """
    found = read_manifest(out).settings if (out / MANIFEST).exists() else None
    for path in [] if found is not None else sorted(out.glob("shard-*.json")):
        record = read_record(out, int(path.stem.removeprefix("shard-")))
        found = record[0] if record is not None else None
        if found is not None:
            break
    if found is not None and (differences := settings.differences(found)):
        raise StaleCacheError(
            f"{out} already holds a cache made with {'; '.join(differences)}; pass another --out, repeat the "
            "same command, or delete the folder"
        )


def finished_shard(
    out: Path, index: int, settings: CacheSettings, *, full: bool = True
) -> ShardRecord | None:
    """The record of a shard that is whole; None where it has to be made (again).

    Args:
        out: the cache.
        index: of the shard.
        settings: what it must have been made with.
        full: hash the file, too.
    """
    found = read_record(out, index)
    if found is None or settings.differences(found[0]):
        return None
    try:
        check_file(out / found[1].name, found[1], full=full)
    except (CacheError, OSError):  # what cannot be read is made again
        return None
    return found[1]
