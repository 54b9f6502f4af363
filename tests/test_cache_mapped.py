"""Rows of all shards in one gather, wherever each shard is mapped."""

import gc
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkd.cache import joined
from mmkd.cache.store import open_cache
from mmkd.errors import CacheError


def rows_of(store) -> np.ndarray:
    """In no order, some of them twice, of every shard."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(store)), 2))


def one_by_one(store, name: str) -> np.ndarray:
    """A dataset of all shards, read without a gather."""
    return np.concatenate([np.array(store.shard(i)[name]) for i in range(len(store.manifest.shards))])


def alone(store) -> list[int]:
    return sorted(store._shards._alone)


@pytest.mark.parametrize("name", ["image", "text", "image_norm", "valid", "captions", "row_hash"])
def test_a_gather_gives_what_the_shards_hold(tiny_cache, name):
    store = open_cache(tiny_cache, verify=False)
    rows = rows_of(store)
    assert np.array_equal(store._gather(name, rows), one_by_one(store, name)[rows])
    assert alone(store) == [4], "the last shard has 16 rows, and the others 20"
    assert store._gather(name, rows[:0]).shape[0] == 0


def test_without_linux_each_shard_is_mapped_by_itself(tiny_cache, monkeypatch):
    store = open_cache(tiny_cache, verify=False)
    rows = rows_of(store)
    expected = store.read(rows)
    monkeypatch.setattr(sys, "platform", "darwin")
    other = open_cache(tiny_cache, verify=False)
    found = other.read(rows)
    assert alone(other) == [0, 1, 2, 3, 4]
    assert (found.image == expected.image).all()
    assert (found.text == expected.text).all()


@pytest.mark.parametrize("odd", [0, 2])
def test_a_shard_laid_out_otherwise_is_mapped_by_itself(tiny_cache, monkeypatch, odd):
    """Its offsets differ from the first one's, or are not aligned, which NumPy would copy everything for."""
    real = joined.shard_offsets

    def offsets(path: Path, record, fields):
        found = real(path, record, fields)
        return found | {"image": found["image"] + 1} if path.name == f"shard-{odd:05d}.h5" else found

    monkeypatch.setattr(joined, "shard_offsets", offsets)
    store = open_cache(tiny_cache, verify=False)
    rows = rows_of(store)
    assert np.array_equal(store._gather("image", rows), one_by_one(store, "image")[rows])
    assert odd in alone(store)


def test_no_address_space_left(tiny_cache, monkeypatch):
    monkeypatch.setattr(joined, "_map", lambda *_: None)
    store = open_cache(tiny_cache, verify=False)
    rows = rows_of(store)
    assert np.array_equal(store._gather("text", rows), one_by_one(store, "text")[rows])
    assert alone(store) == [0, 1, 2, 3, 4]


def test_nothing_can_be_written_and_arrays_outlive_the_store(tiny_cache):
    store = open_cache(tiny_cache, verify=False)
    array = store.shard(1)["image"]
    expected = array.copy()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0
    del store
    gc.collect()
    assert np.array_equal(array, expected)


def maps_of(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_maps_go_with_the_last_array(copied_cache):
    store = open_cache(copied_cache, verify=False)
    store.read(np.arange(len(store)))
    assert maps_of(copied_cache) >= 5
    other = pickle.loads(pickle.dumps(store))
    assert len(other.read(np.arange(3))) == 3
    del store, other
    gc.collect()
    assert maps_of(copied_cache) == 0


def test_a_shard_cut_short_after_its_check_is_refused(copied_cache, monkeypatch):
    real = joined.shard_offsets

    def offsets(path: Path, record, fields):
        found = real(path, record, fields)
        path.write_bytes(path.read_bytes()[:-1])
        return found

    monkeypatch.setattr(joined, "shard_offsets", offsets)
    with pytest.raises(CacheError, match="being written to"):
        open_cache(copied_cache, verify=False).read(np.array([0]))
