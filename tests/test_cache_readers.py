"""A million rows read by forked and spawned workers while another process makes shards again: not one is wrong."""

import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd.cache.build import build_cache
from mmkd.cache.store import CacheStore, open_cache

READS, BATCH, WORKERS = 1_000_000, 2_000, 2
pytestmark = pytest.mark.slow


def read_and_compare(store: CacheStore, image: np.ndarray, text: np.ndarray, seed: int, results) -> None:
    """Rows in random order against what they must be; puts the number read and the number that differ."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(seed)
    read = wrong = 0
    while read < READS // (2 * WORKERS):
        rows = generator.integers(0, len(store), BATCH)
        found = store.read(rows)
        wrong += int((found.image.numpy() != image[rows]).any(axis=1).sum())
        wrong += int((found.text.numpy() != text[rows]).any(axis=1).sum())
        read += BATCH
        if read % (20 * BATCH) == 0:
            store = open_cache(store.folder, verify=False)  # as a new epoch's workers do
    results.put((read, wrong))


def make_shards_again(folder: Path, encoder, pairs, stop: threading.Event) -> None:
    while not stop.is_set():
        for index in range(5):
            (folder / f"shard-{index:05d}.json").unlink(missing_ok=True)
        build_cache(encoder, pairs, folder, shard_rows=20, batch_size=8)


def test_no_row_is_wrong_while_shards_are_made_again(copied_cache, tiny_encoder, tiny_pairs) -> None:
    store = open_cache(copied_cache)
    known = store.read(np.arange(len(store)))
    image, text = known.image.numpy().copy(), known.text.numpy().copy()
    before = {path.name: path.stat().st_ino for path in copied_cache.glob("*.h5")}
    stop = threading.Event()
    writer = threading.Thread(target=make_shards_again, args=(copied_cache, tiny_encoder, tiny_pairs, stop))
    total = wrong = 0
    # Fork first, while this process has one thread; the maps that it opened cross over.
    forked, spawned = multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")
    queues = [forked.SimpleQueue(), spawned.SimpleQueue()]
    workers = [
        context.Process(target=read_and_compare, args=(store, image, text, seed, queue))
        for context, queue in zip((forked, spawned), queues, strict=True)
        for seed in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    writer.start()
    try:
        for worker in workers:
            worker.join(120)
            assert worker.exitcode == 0
    finally:
        stop.set()
        writer.join()
    for queue in queues:
        for _ in range(WORKERS):
            read, differ = queue.get()
            total, wrong = total + read, wrong + differ
        queue.close()
    assert total >= READS
    assert wrong == 0
    after = {path.name: path.stat().st_ino for path in copied_cache.glob("*.h5")}
    assert all(before[name] != after[name] for name in before), "no shard was made again meanwhile"
