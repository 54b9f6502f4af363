"""What a cache of very many rows costs before it is read: nothing that grows with them."""

import importlib.util
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mmkd.cache.manifest import CacheManifest, ShardRecord, read_manifest, write_manifest
from mmkd.cache.store import CacheStore, open_cache

FILE = Path(__file__).parents[1] / "benchmarks" / "cache_scale.py"
ROWS = 1_000_000


@pytest.fixture(scope="module")
def scale():
    """The benchmark, as a module."""
    spec = importlib.util.spec_from_file_location("cache_scale", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cache_scale"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cache_scale"]


@pytest.fixture(scope="module")
def large(scale, tmp_path_factory) -> Path:
    """A million rows of 1-d vectors in 16 shards."""
    folder = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "DIM", 1)
        patch.setattr(scale, "SHARD_ROWS", 1 << 16)
        scale.write_cache(folder, ROWS)
    return folder


def test_reading_holds_nothing_that_has_an_entry_a_row(large):
    open_cache(large).read(np.arange(2))  # imports
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        store = open_cache(large)
        for _ in range(5):
            rows = rng.integers(0, ROWS, 1024)
            found = store.read(rows, np.zeros_like(rows))
            hashes = store.hashes(rows)
        assert len(store.usable) == ROWS
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < ROWS / 2  # the least of its columns has a byte a row
    assert (hashes[:, 0] == rows).all()
    assert found.image.shape == (1024, 1)


def test_rows_are_gathered_in_the_order_asked_for(large):
    store = open_cache(large, verify=False)
    for rows in ([ROWS - 1, 0, 65_536, 65_535, 0], [], [7]):
        expected = [[row, row // 2] for row in rows]
        assert store.hashes(np.array(rows, dtype=np.int64)).tolist() == expected
    for row in (-1, ROWS):
        with pytest.raises(IndexError):
            store.hashes(np.array([row]))


def test_611_shards_are_opened_in_100_ms(scale, tmp_path, monkeypatch):
    """Of 10^7 rows; the shards themselves are opened when they are read."""

    def record(_folder, index, settings, _arrays, masked):
        name, rows = f"shard-{index:05d}.h5", len(settings.shard_range(index))
        return ShardRecord(name, rows, 1000 + index, "0" * 32, masked)

    monkeypatch.setattr(scale, "write_shard", record)
    monkeypatch.setattr(scale, "write_record", lambda *_: None)
    monkeypatch.setattr(scale, "shard_fields", lambda *_: {})
    scale.write_cache(tmp_path, 10**7)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        store = open_cache(tmp_path, verify=False)
        took.append(time.perf_counter() - start)
    assert isinstance(store, CacheStore)
    assert len(store.manifest.shards) == 611
    assert min(took) < 0.1


def test_the_largest_manifest_that_is_written_is_read(scale, tmp_path):
    """16,384 shards, each with several reasons for masked rows."""
    from dataclasses import replace

    folder = tmp_path / "small"
    scale.write_cache(folder, 100)
    small = read_manifest(folder)
    masked = {f"a reason of some length, number {number}": 1 for number in range(5)}
    settings = replace(small.settings, rows=16_384 * 100, shard_rows=100)
    record = ShardRecord("", 100, 1 << 40, "f" * 32, masked)
    shards = tuple(replace(record, name=f"shard-{index:05d}.h5") for index in range(16_384))
    write_manifest(tmp_path, CacheManifest(settings, "0" * 32, shards))
    assert len(read_manifest(tmp_path).shards) == 16_384
