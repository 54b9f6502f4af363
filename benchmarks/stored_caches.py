"""Caches of made-up vectors, really written, for benchmarks of what reads and writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.cache.manifest import CacheManifest, ShardRecord, write_manifest, write_record
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import shard_fields, write_shard
from mmkd.data import DataSource
from mmkd.embeddings import TeacherSpec

SHARD_ROWS, PIXEL_SHARD_ROWS = 16_384, 2_048


def made_up_settings(rows: int, dim: int, pixels: int | None = None) -> CacheSettings:
    """What a cache of ``rows`` rows, and of pixels ``pixels`` a side, would say of itself."""
    teacher = TeacherSpec("a/teacher", None, "0" * 32, "1" * 32, "2" * 32, dim, 100.0, (12, 12))
    source = DataSource("a/b", "train", "jpg", "txt")
    shard_rows = SHARD_ROWS if pixels is None else PIXEL_SHARD_ROWS
    return CacheSettings(teacher, (source,), None, rows, 1, "float32", 64, shard_rows, pixels=pixels)


def made_up_arrays(settings: CacheSettings, index: int) -> dict[str, NDArray[Any]]:
    """The arrays of shard ``index``: random unit vectors, every row valid."""
    here = settings.shard_range(index)
    arrays = {n: np.ones(field.shape, field.dtype) for n, field in shard_fields(settings, index).items()}
    draw = np.random.default_rng(index)
    for side in ("image", "text"):
        vectors = draw.standard_normal(arrays[side].shape, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        arrays[side] = vectors.astype(np.float16)
    if "pixels" in arrays:
        arrays["pixels"] = np.asarray(draw.integers(0, 256, arrays["pixels"].shape, dtype=np.uint8))
    numbers = np.arange(here.start, here.stop)
    arrays["row_hash"] = np.stack([numbers, numbers], axis=1).astype(np.uint64)
    return arrays


def write_cache(folder: Path, rows: int, dim: int, pixels: int | None = None) -> CacheSettings:
    """Write a cache of ``rows`` random rows into ``folder``, unless it is there."""
    settings = made_up_settings(rows, dim, pixels)
    if (folder / "manifest.json").is_file():
        return settings
    digest, records = xxhash.xxh3_128(), list[ShardRecord]()
    for index in range(settings.shards):
        arrays = made_up_arrays(settings, index)
        digest.update(arrays["row_hash"].tobytes())
        records.append(write_shard(folder, index, settings, arrays, {}))
        write_record(folder, index, settings, records[-1])
    write_manifest(folder, CacheManifest(settings, digest.hexdigest(), tuple(records)))
    return settings
