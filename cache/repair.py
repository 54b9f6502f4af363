"""Mend a cache: what its files still tell is written again, broken shards alone are embedded again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from mmkd.cache.build import plan_build, run_build
from mmkd.cache.claims import shard_index, stray_files
from mmkd.cache.embed import Teachers, listed
from mmkd.cache.folder import finished_shard
from mmkd.cache.manifest import (
    MANIFEST,
    CacheManifest,
    read_manifest,
    shard_name,
    write_manifest,
    write_record,
)
from mmkd.cache.origin import teachers_differences
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import disk_errors, map_shard, shard_fields
from mmkd.cache.tally import BuildProgress
from mmkd.cache.verify import VerifyReport, import_again
from mmkd.cache.writers import writing
from mmkd.data import PairDataset, row_hash
from mmkd.errors import CacheError, MmkdError, StaleCacheError

Load = Callable[[CacheSettings], tuple[Teachers, PairDataset]]


def repair_cache(
    report: VerifyReport,
    load: Load,
    *,
    on_progress: Callable[[BuildProgress], None] = lambda _: None,
    workers: int | None = None,
) -> None:
    """Mend what ``verify_cache`` found; on the same kind of machine the bytes are those of an undisturbed build.

    Args:
        report: what was found; the folder must not have changed since.
        load: gives the teacher and the data; called only where there are shards to make again.
        on_progress: called after each batch that is embedded.
        workers: threads that decode.

    Raises:
        StaleCacheError: teacher or data are not those that the cache was made with; nothing was changed.
        CacheError: nothing tells what made the cache, another process is writing into it, the disk refuses, or it was
            imported, and what is broken is not in it a second time; all else was mended.
    """
    folder, settings = report.folder, report.settings
    if settings is None:
        raise CacheError(f"{folder} cannot be mended: {report.findings[-1]}")
    strays = stray_files(folder, settings.shards)
    if foreign := [name for name in strays if shard_index(name) is None]:
        raise CacheError(
            f"{folder} holds {', '.join(foreign[:3])}, which is no part of a cache; move it away"
        )
    complete, loaded = len(report.whole) == settings.shards, None
    if not complete and settings.imported is None:
        loaded = load(settings)
        _expect_same(report, settings, *loaded)
    with writing(folder, settings, alone=True), disk_errors(folder):
        for name in strays:
            (folder / name).unlink()
        _mend_records(report, settings)
        if complete:
            records = tuple(report.whole[index] for index in range(settings.shards))
            write_manifest(folder, CacheManifest(settings, report.data_hash, records))
    if loaded is not None:
        plan = plan_build(settings, loaded[1], folder)
        run_build(*loaded, plan, max_bad=1.0, on_progress=on_progress, workers=workers)
    if settings.imported is not None and (lost := [*lost_shards(report, settings), *report.lost]):
        raise CacheError(
            f"{', '.join(lost[:3])}{', …' * (len(lost) > 3)} of {folder} cannot be mended from the cache itself, which "
            f"was imported; what else was broken is mended; {import_again(folder, settings)}"
        )


def lost_shards(report: VerifyReport, settings: CacheSettings) -> list[str]:
    """Names of the shards that are not whole."""
    return [shard_name(index) for index in range(settings.shards) if index not in report.whole]


def _mend_records(report: VerifyReport, settings: CacheSettings) -> None:
    folder = report.folder
    manifest = _read(folder)
    if manifest is None or manifest.settings != settings:
        # The records outvoted it, and a build would take its word; killed here, they still tell everything.
        (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob("shard-*.json"):
        index = shard_index(path.name)
        if index not in report.whole and not _finished_since(report, index, settings):
            path.unlink()
    for index, record in report.whole.items():
        write_record(folder, index, settings, record)


def _finished_since(report: VerifyReport, index: int | None, settings: CacheSettings) -> bool:
    """Whether another process has made a shard since the cache was looked at."""
    if index is None:
        return False
    try:
        found = finished_shard(report.folder, index, settings)
    except CacheError:
        return False
    return found is not None and found != report.judged.get(index)


def _read(folder: Path) -> CacheManifest | None:
    try:
        return read_manifest(folder)
    except MmkdError:
        return None


def _expect_same(
    report: VerifyReport, settings: CacheSettings, encoder: Teachers, pairs: PairDataset
) -> None:
    """Refuse to mend with another teacher or other data than made the cache."""
    folder = report.folder
    if changed := teachers_differences(settings.teachers, [one.spec for one in listed(encoder)]):
        raise StaleCacheError(
            f"{folder} was made by a teacher with {', '.join(changed).replace('(here', '(now')}, so its shards cannot "
            "be made again by this one; pass the right --teacher"
        )
    if len(pairs) != settings.rows or pairs.max_captions != settings.captions:
        raise StaleCacheError(
            f"{folder} was made from {settings.rows:,} rows of at most {settings.captions} captions, but the data has "
            f"{len(pairs):,} of {pairs.max_captions}; pass the --data that it was made from"
        )
    manifest = _read(folder)
    if manifest is None or manifest.settings != settings:
        return
    digest = xxhash.xxh3_128()
    for index in range(settings.shards):
        if index in report.whole:
            path = folder / shard_name(index)
            arrays = map_shard(path, report.whole[index], shard_fields(settings, index))
            digest.update(np.ascontiguousarray(arrays["row_hash"]).tobytes())
        else:
            for row in settings.shard_range(index):
                digest.update(np.array(row_hash(pairs[row]), "<u8").tobytes())
    if digest.hexdigest() != manifest.data_hash:
        raise StaleCacheError(
            f"{folder} was made from other data than is there now: the rows of "
            f"{', '.join(shard_name(index) for index in report.broken[:3])} hash to other values; pass the --data "
            "that it was made from"
        )
