"""Make a cache shard by shard; killed at any moment and started again, it ends with the same bytes."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import xxhash

from mmkd.augment import DEFAULT_POLICY, NO_AUGMENTATION, Augmentation
from mmkd.cache.embed import Teachers, listed
from mmkd.cache.folder import finished_shard, refuse_foreign, refuse_other_cache
from mmkd.cache.making import ShardMaker
from mmkd.cache.manifest import CacheManifest, ShardRecord, count_masked, record_path, write_manifest
from mmkd.cache.origin import MAX_TEACHERS, teacher_differences
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import disk_errors, disk_full, free_bytes, map_shard, shard_bytes, shard_fields
from mmkd.cache.tally import MAX_BAD, BuildProgress, Tally, judge_masked
from mmkd.cache.writers import writing
from mmkd.data import PairDataset, row_hash
from mmkd.encoders import PairEncoder
from mmkd.errors import ConfigError, StaleCacheError
from mmkd.pixels import pixel_side

SHARD_ROWS = 16_384
PIXEL_SHARD_ROWS = 2_048  # a shard is put together in memory: 0.3 GB of 224 x 224 pixels
BATCH_SIZE = 64
JPEG_MARGIN = 1.5  # at 1 the teacher's own resampling would have nothing left to average
SAMPLED_ROWS = 16  # of each finished shard, held against the data before going on


@dataclass(frozen=True)
class BuildPlan:
    """What there is to do before anything is written.

    Attributes:
        folder: where the cache goes.
        settings: what was asked for.
        rank: this process, of ``world``; shard i belongs to process i % world.
        done: this process's shards that an earlier start finished.
        needed: bytes that all processes together still have to write.
        free: bytes that the disk has.
    """

    folder: Path
    settings: CacheSettings
    rank: int
    world: int
    done: dict[int, ShardRecord]
    needed: int
    free: int

    @property
    def own(self) -> list[int]:
        """This process's shards."""
        return list(range(self.rank, self.settings.shards, self.world))

    @property
    def todo(self) -> list[int]:
        """Those of them that are still to be made."""
        return [index for index in self.own if index not in self.done]

    @property
    def own_rows(self) -> int:
        """Rows of this process's shards."""
        return sum(len(self.settings.shard_range(index)) for index in self.own)

    @property
    def total(self) -> int:
        """About the size of the whole cache."""
        return sum(shard_bytes(self.settings, index) for index in range(self.settings.shards))


class Choices(TypedDict, total=False):
    """What ``cache_settings`` may be told."""

    shard_rows: int
    batch_size: int
    views: int
    augmentation: Augmentation
    store_pixels: bool
    scaled_jpeg: bool


def cache_settings(
    encoder: Teachers,
    pairs: PairDataset,
    *,
    shard_rows: int | None = None,
    batch_size: int = BATCH_SIZE,
    views: int = 1,
    augmentation: Augmentation = NO_AUGMENTATION,
    store_pixels: bool = False,
    scaled_jpeg: bool = False,
) -> CacheSettings:
    """What a cache of ``pairs`` by ``encoder``, or by several, will say of itself.

    Raises:
        ConfigError: a size is not positive, the views and their augmentation contradict each other, pixels are to be
            stored that no training could use, or a teacher is named twice.
    """
    encoders = listed(encoder)
    _check_teachers(encoders, store_pixels=store_pixels)
    shard_rows = (PIXEL_SHARD_ROWS if store_pixels else SHARD_ROWS) if shard_rows is None else shard_rows
    for name, value in (("--shard-rows", shard_rows), ("--batch-size", batch_size), ("--views", views)):
        if value < 1:
            raise ConfigError(f"found {name} {value}; expected at least 1")
    check_views(views, augmentation)
    if store_pixels and views > 1:
        raise ConfigError(
            f"--store-pixels keeps the untouched images alone, and --views {views} shows others; leave one of them out"
        )
    if scaled_jpeg and views > 1:
        raise ConfigError(
            f"--scaled-jpeg is for untouched images, and --views {views} cuts others out of whole ones; leave one of "
            "them out"
        )
    return CacheSettings(
        teacher=encoders[0].spec,
        more_teachers=tuple(one.spec for one in encoders[1:]),
        sources=tuple(pairs.sources),
        limit=pairs.limit,
        rows=len(pairs),
        captions=pairs.max_captions,
        dtype=str(encoders[0].model.dtype).removeprefix("torch."),
        batch_size=batch_size,
        shard_rows=shard_rows,
        views=views,
        augmentation=augmentation,
        pixels=pixel_side(encoders[0].image_processor) if store_pixels else None,
        jpeg_side=_jpeg_side(encoders) if scaled_jpeg else None,
    )


def _jpeg_side(encoders: Sequence[PairEncoder]) -> int:
    """The shorter side that JPEGs keep at least: half as much again as the teachers' own resampling makes of it."""
    return max(math.ceil(JPEG_MARGIN * pixel_side(one.image_processor)) for one in encoders)


def _check_teachers(encoders: Sequence[PairEncoder], *, store_pixels: bool) -> None:
    specs = [one.spec for one in encoders]
    for number, spec in enumerate(specs):
        if any(not teacher_differences(spec, other) for other in specs[:number]):
            raise ConfigError(f"--teacher {spec.model} is the same as another one of them; name it once")
    if len(specs) > MAX_TEACHERS:
        raise ConfigError(f"found {len(specs)} teachers; expected at most {MAX_TEACHERS}")
    if store_pixels and len({spec.preprocess_hash for spec in specs}) > 1:
        raise ConfigError(
            "--store-pixels keeps one picture of each image, and these teachers prepare images differently; leave it "
            "out, or make a cache for each"
        )


def check_views(views: int, augmentation: Augmentation) -> None:
    """Refuse views that would be the same, and an augmentation that no view would show.

    Raises:
        ConfigError: they contradict each other.
    """
    if views > 1 and augmentation.policy == "none":
        raise ConfigError(
            f"--views {views} --augment none would store the same image {views} times; pass "
            f"--augment {DEFAULT_POLICY} or randaugment, or --views 1"
        )
    if views == 1 and augmentation != NO_AUGMENTATION:
        raise ConfigError(
            f"--augment {augmentation.policy} has no view to work on: --views 1 is the untouched image alone; pass "
            "--views 5, say"
            if augmentation.policy != "none"
            else f"--augment-seed {augmentation.seed} has no view to work on; pass --views 5, say"
        )


def plan_build(
    settings: CacheSettings, pairs: PairDataset, out: Path, *, rank: int = 0, world: int = 1
) -> BuildPlan:
    """Look at ``out`` and the disk; finished shards of the same teacher, data and settings are kept.

    Raises:
        StaleCacheError: ``out`` holds shards of another teacher, other data or other settings.
        CacheError: ``out`` holds something else, or the disk has too little space.
    """
    refuse_foreign(out)
    refuse_other_cache(out, settings)
    done = {}
    for index in range(rank, settings.shards, world):
        if (record := finished_shard(out, index, settings)) is not None:
            _refuse_other_rows(out, index, record, settings, pairs)
            done[index] = record
    missing = [i for i in range(settings.shards) if not record_path(out, i).exists()]
    needed = sum(shard_bytes(settings, index) for index in missing)
    free = free_bytes(out)
    if needed > free:
        raise disk_full(out, needed, free)
    return BuildPlan(out, settings, rank, world, done, needed, free)


def run_build(
    encoder: Teachers,
    pairs: PairDataset,
    plan: BuildPlan,
    *,
    max_bad: float = MAX_BAD,
    workers: int | None = None,
    on_progress: Callable[[BuildProgress], None] = lambda _: None,
) -> CacheManifest | None:
    """Embed this process's shards; process 0 then waits for the others and writes the manifest.

    Processes that were started independently of each other share the work, too: each shard is made by the one that
    locked it. Process 0 takes over the shards of a process that came to an end.

    Args:
        max_bad: the largest share of masked rows to accept.
        workers: threads that decode; default: this process's share of the cores.
        on_progress: called after each batch.

    Returns:
        The manifest in process 0, None in the others.

    Raises:
        DataError: too many rows are masked.
        CacheError: the disk refuses, the device's memory is full, or another cache is being written there.
    """
    tally = Tally(plan.done, plan.settings.rows, max_bad, on_progress)
    maker = ShardMaker(encoder, pairs, plan, tally, _default_workers() if workers is None else workers)
    with writing(plan.folder, plan.settings):
        refuse_other_cache(plan.folder, plan.settings)  # others may have written since the plan was made
        maker.make(plan.todo)
        return _finish(plan, maker, tally, max_bad) if plan.rank == 0 else None


def build_cache(
    encoder: Teachers,
    pairs: PairDataset,
    out: Path,
    *,
    rank: int = 0,
    world: int = 1,
    max_bad: float = MAX_BAD,
    workers: int | None = None,
    on_progress: Callable[[BuildProgress], None] = lambda _: None,
    **choices: Unpack[Choices],
) -> CacheManifest | None:
    """``cache_settings``, ``plan_build`` and ``run_build`` in one call."""
    settings = cache_settings(encoder, pairs, **choices)
    plan = plan_build(settings, pairs, out, rank=rank, world=world)
    return run_build(encoder, pairs, plan, max_bad=max_bad, workers=workers, on_progress=on_progress)


def _finish(plan: BuildPlan, maker: ShardMaker, tally: Tally, max_bad: float) -> CacheManifest:
    settings = plan.settings
    while left := maker.look():
        tally.wait(len(left))
        time.sleep(0.2)
        maker.take_over(left)
    records = tuple(maker.records[index] for index in range(settings.shards))
    digest = xxhash.xxh3_128()
    for index, record in enumerate(records):
        arrays = map_shard(plan.folder / record.name, record, shard_fields(settings, index))
        digest.update(np.ascontiguousarray(arrays["row_hash"]).tobytes())
    judge_masked(count_masked(records), settings.rows, max_bad)
    manifest = CacheManifest(settings, digest.hexdigest(), records)
    with disk_errors(plan.folder):
        write_manifest(plan.folder, manifest)
    return manifest


def _refuse_other_rows(
    out: Path, index: int, record: ShardRecord, settings: CacheSettings, pairs: PairDataset
) -> None:
    known = map_shard(out / record.name, record, shard_fields(settings, index))["row_hash"]
    rows = settings.shard_range(index)
    for place in sorted(set(np.linspace(0, len(rows) - 1, SAMPLED_ROWS, dtype=int).tolist())):
        if row_hash(pairs[rows[place]]) != tuple(known[place].tolist()):
            raise StaleCacheError(
                f"{out} already holds a cache made from other data: row {rows[place]:,} has changed; pass another "
                "--out, or delete the folder"
            )


def _default_workers() -> int:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(16, (os.cpu_count() or 1) // processes))
