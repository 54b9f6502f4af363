"""Opening and reading caches of 10^5 to 10^7 rows: seconds, and memory of the process's own.

    python benchmarks/cache_scale.py --out FOLDER [--rows 100000 1000000 10000000]

The caches are really written, shard by shard as a build writes them: 16,384 rows a shard, vectors of 8 numbers, so
that 10^7 rows fill 611 shards and 0.65 GB. What is read is in the page cache. Memory is ``RssAnon`` of a process of
its own: what it holds itself, without the pages of mapped files, which the kernel takes back whenever it likes.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import xxhash

from mmkd.cache.manifest import CacheManifest, ShardRecord, write_manifest, write_record
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import shard_fields, write_shard
from mmkd.cache.store import open_cache
from mmkd.data import DataSource
from mmkd.embeddings import TeacherSpec
from mmkd.sampling import BatchPlan

DIM, SHARD_ROWS, BATCH, BATCHES = 8, 16_384, 1024, 300
Figures = dict[str, float]


def write_cache(folder: Path, rows: int) -> None:
    """Write a cache of ``rows`` rows, all of them valid; every vector lies along one axis."""
    teacher = TeacherSpec("a/teacher", None, "0" * 32, "1" * 32, "2" * 32, DIM, 100.0, (12, 12))
    source = DataSource("a/b", "train", "jpg", "txt")
    settings = CacheSettings(teacher, (source,), None, rows, 1, "float32", 64, SHARD_ROWS)
    digest, records = xxhash.xxh3_128(), list[ShardRecord]()
    for index in range(settings.shards):
        here = np.arange(settings.shard_range(index).start, settings.shard_range(index).stop)
        arrays = {
            name: np.ones(field.shape, field.dtype) for name, field in shard_fields(settings, index).items()
        }
        for side in ("image", "text"):
            arrays[side] = np.eye(DIM, dtype=np.float16)[here % DIM][:, None]
        arrays["row_hash"] = np.stack([here, here // 2], axis=1).astype(np.uint64)
        digest.update(arrays["row_hash"].tobytes())
        records.append(write_shard(folder, index, settings, arrays, {}))
        write_record(folder, index, settings, records[-1])
    write_manifest(folder, CacheManifest(settings, digest.hexdigest(), tuple(records)))


def own_memory() -> float:
    """MB that this process holds itself, without mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
    raise RuntimeError("no RssAnon in /proc/self/status; this benchmark needs Linux")


def measure(folder: Path, rows: int, warm: Path) -> Figures:
    """What opening and reading one cache takes, in a fresh process."""
    open_cache(warm, verify=False).read(np.arange(2))  # imports what the first reading of any cache imports
    rng, before = np.random.default_rng(0), own_memory()
    start = time.perf_counter()
    store = open_cache(folder, verify=False)
    found = {"open_ms": (time.perf_counter() - start) * 1e3}
    store.read(np.arange(BATCH) + rows // 2)
    found["open_and_read_ms"] = (time.perf_counter() - start) * 1e3
    start = time.perf_counter()
    store.read(rng.integers(0, rows, BATCH))
    found["first_random_ms"] = (time.perf_counter() - start) * 1e3
    start = time.perf_counter()
    for _ in range(BATCHES):
        chosen = rng.integers(0, rows, BATCH)
        store.read(chosen, np.zeros_like(chosen))
        store.hashes(chosen)
    found["rows_per_s"] = BATCH * BATCHES / (time.perf_counter() - start)
    found |= {"before_mb": before, "reading_mb": own_memory()}
    start = time.perf_counter()
    store.verify()
    found["verify_s"] = time.perf_counter() - start
    found["verified_mb"] = own_memory()
    plan = BatchPlan(store.usable, BATCH, seed=0)
    first, _ = next(plan.batches(0))
    plan.views_of(0, first)
    found["planning_mb"] = own_memory()
    return found


def main() -> None:
    """Write, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    options = parser.parse_args()
    results = {}
    for rows in options.rows:
        folder = options.out / f"rows-{rows}"
        if not (folder / "manifest.json").is_file():
            write_cache(folder, rows)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(measure, (folder, rows, options.out / f"rows-{options.rows[0]}"))
        results[rows] = found
        print(f"{rows:>12,} rows in {-(-rows // SHARD_ROWS)} shards")
        for name, value in found.items():
            print(f"{name:>20} {value:,.1f}", flush=True)
    smallest, largest = results[options.rows[0]], results[options.rows[-1]]
    growth = largest["reading_mb"] / smallest["reading_mb"] - 1
    print(f"memory when reading, most rows against fewest: {growth:+.1%}")
    (options.out / "results.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
