"""Rows that share their first caption and no other: what is mined among first captions takes them for one."""

from pathlib import Path

import numpy as np
import pytest
from conftest import draw_pair
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from mmkd.batches import BatchReader
from mmkd.cache.build import build_cache
from mmkd.cache.manifest import read_manifest
from mmkd.cache.overview import overview
from mmkd.cache.rows import RowReader
from mmkd.cache.store import CacheStore, open_cache
from mmkd.cli.cache_pictures import Pictures
from mmkd.data import DataSource, PairDataset, open_pairs
from mmkd.mining import NegativeRules, Share, mine_neighbours
from mmkd.mining.first_captions import first_caption_ids
from mmkd.sampling import StepRows

ROWS, FIRST = 24, 4


@pytest.fixture(scope="module")
def cache(tiny_encoder, tmp_path_factory) -> Path:
    """24 pairs in three shards: 4 first captions, each with a second one of its own, but for the last four pairs."""
    folder = tmp_path_factory.mktemp("first")
    rows = {
        "image": [draw_pair(number)[0] for number in range(ROWS)],
        "caption": [
            [f"photo {number % FIRST}", *([f"another {number}"] if number < ROWS - 4 else [])]
            for number in range(ROWS)
        ],
    }
    features = Features({"image": ImageFeature(), "caption": List(Value("string"))})
    Dataset.from_dict(rows, features=features).to_parquet(str(folder / "table.parquet"))
    pairs = open_pairs([DataSource(str(folder / "table.parquet"))])
    build_cache(tiny_encoder, pairs, folder / "cache", shard_rows=8, batch_size=8)
    return folder / "cache"


def ids_of(store: CacheStore, pairs: PairDataset, share: Share) -> np.ndarray:
    return first_caption_ids(pairs, store, np.arange(ROWS), share=share, on_progress=lambda *_: None)


def test_none_is_mined_for_a_row_that_has_it_too(cache: Path) -> None:
    store = open_cache(cache)
    ids = ids_of(store, store.open_pairs(), Share())
    assert np.array_equal(ids, ids[:FIRST][np.arange(ROWS) % FIRST])
    rules = NegativeRules(8, relative_margin=None)
    mined = mine_neighbours(store, np.arange(ROWS), ids, rules=rules, seed=0).rows
    assert mined.shape == (ROWS, FIRST - 1)
    assert (mined >= 0).all()
    assert (mined % FIRST != np.arange(ROWS)[:, None] % FIRST).all()


def test_processes_read_a_part_each(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_cache(cache)
    whole, parts, read = ids_of(store, store.open_pairs(), Share()), [], []
    monkeypatch.setattr(
        Share, "gather", lambda _, local, lengths: parts.append(local) or np.zeros(sum(lengths), int)
    )
    kept = PairDataset.__getitem__
    monkeypatch.setattr(PairDataset, "__getitem__", lambda self, row: read.append(row) or kept(self, row))
    for rank in range(3):
        ids_of(store, store.open_pairs(), Share(rank, 3))
    assert np.concatenate(parts).view(np.uint64).tolist() == whole[: ROWS - 4].tolist()
    assert read == list(range(ROWS - 4)), "a row with one caption has its hash in the cache"


def test_a_bank_knows_the_captions_of_the_batch(cache: Path, tiny_encoder) -> None:
    store = open_cache(cache)
    pairs = store.open_pairs()
    reader = BatchReader(
        pairs,
        tiny_encoder.image_processor,
        tiny_encoder.tokenizer,
        77,
        store,
        first_captions=ids_of(store, pairs, Share()),
    )
    rows = np.arange(8)
    step = StepRows(rows, np.zeros(8), np.arange(8, ROWS), np.zeros(8, dtype=np.int64))
    batch = reader.__getitems__(step)
    same = batch.caption_ids[:, None] == batch.bank_ids[None, :, 0]
    assert np.array_equal(same.numpy(), (rows[:, None] - np.arange(8, ROWS)) % FIRST == 0)
    others = step._replace(draws=np.full(8, 0.9))
    assert not (reader.__getitems__(others).caption_ids[:, None] == batch.bank_ids[None, :, 0]).any()


def test_where_captions_are_not_read_the_cache_tells_them_apart(cache: Path, tiny_encoder) -> None:
    store = open_cache(cache)
    pairs = store.open_pairs(sides=("image",))
    known = store.hashes(np.arange(ROWS))[:, 1]
    assert np.array_equal(ids_of(store, pairs, Share()), known)
    reader = BatchReader(
        pairs, tiny_encoder.image_processor, tiny_encoder.tokenizer, 77, store, sides=("image",)
    )
    nothing = np.empty(0, dtype=np.int64)
    batch = reader.__getitems__(StepRows(np.arange(8), np.zeros(8), nothing, np.zeros(8, dtype=np.int64)))
    assert batch.caption_ids.tolist() == known[:8].astype(np.int64).tolist()


def test_a_cache_is_looked_at_by_first_captions(cache: Path) -> None:
    manifest = read_manifest(cache)
    reader = RowReader(cache, manifest.settings, dict(enumerate(manifest.shards)))
    pictures = Pictures(reader, open_cache(cache).open_pairs())
    assert pictures.own(0, FIRST)
    assert not pictures.own(0, 1)
    for one in overview(reader, queries=6, neighbours=3).neighbourhoods:
        near = [other.row % FIRST for other in one.near["text to text"]]
        assert sorted([*near, one.row % FIRST]) == list(range(FIRST))
