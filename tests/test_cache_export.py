"""``mmkd cache export``: clip-retrieval's files, which give the same bytes when they are imported again."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import mmkd
from conftest import draw_pair, save_pairs

from mmkd.cache.build import build_cache
from mmkd.cache.exporting import export_cache
from mmkd.cache.importing import plan_import, run_import
from mmkd.cache.store import open_cache
from mmkd.cache.vector_source import open_vectors
from mmkd.errors import CacheError, StaleCacheError


def test_import_of_an_export_has_the_same_bytes(tiny_cache, tmp_path):
    done = mmkd("cache", "export", tiny_cache, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    run_import(plan_import(open_vectors(tmp_path / "out"), tmp_path / "again", shard_rows=20))
    ours, theirs = open_cache(tiny_cache), open_cache(tmp_path / "again")
    for index in range(5):
        mine, other = ours.shard(index), theirs.shard(index)
        for name in ("image", "text", "image_norm", "text_norm", "valid", "captions"):
            assert mine[name].tobytes() == other[name].tobytes(), name
    assert (ours.hashes(np.arange(96)) == theirs.hashes(np.arange(96)))[:, 1].all()


def test_files_are_what_clip_retrieval_reads(tiny_cache, tmp_path):
    done = mmkd("cache", "export", tiny_cache, "--out", tmp_path / "out")
    assert "96 rows of 32-d image and text vectors" in done.stderr
    store = open_cache(tiny_cache)
    for number in range(5):
        image = np.load(tmp_path / f"out/img_emb/img_emb_{number}.npy")
        text = np.load(tmp_path / f"out/text_emb/text_emb_{number}.npy")
        table = pq.read_table(tmp_path / f"out/metadata/metadata_{number}.parquet").to_pydict()
        assert image.dtype == text.dtype == np.float16
        assert image.shape == text.shape == (len(table["caption"]), 32)
        rows = np.array(table["key"], dtype=np.int64)
        assert np.allclose(store.read(rows).text, text, atol=1e-3)
        assert table["caption"] == [draw_pair(row)[1] for row in rows]


def test_several_captions_views_and_masked_rows(tiny_encoder, tmp_path):
    from datasets import Sequence, Value

    from mmkd.augment import Augmentation
    from mmkd.data import DataSource, open_pairs

    images = [draw_pair(row)[0] for row in range(5)]
    captions = [["one", "two"], ["three"], ["four", "five"], ["six"], ["seven"]]
    data = save_pairs(
        tmp_path / "p.parquet", [*images[:3], b"broken", images[4]], captions, Sequence(Value("string"))
    )
    pairs = open_pairs([DataSource(str(data))])
    crop = Augmentation("crop+flip", 0)
    build_cache(tiny_encoder, pairs, tmp_path / "cache", max_bad=1, views=2, augmentation=crop)
    done = mmkd("cache", "export", tmp_path / "cache", "--out", tmp_path / "out")
    assert "the untouched images only, of 2 views each" in done.stderr
    assert "6 rows of 32-d image and text vectors · 1 masked rows left out" in done.stderr
    table = pq.read_table(tmp_path / "out/metadata/metadata_0.parquet").to_pydict()
    assert table["key"] == ["0", "0", "1", "2", "2", "4"]
    assert table["caption"] == ["one", "two", "three", "four", "five", "seven"]
    image = np.load(tmp_path / "out/img_emb/img_emb_0.npy")
    shard = open_cache(tmp_path / "cache").shard(0)
    assert image.tobytes() == shard["image"][[0, 0, 1, 2, 2, 4], 0].tobytes()


def test_one_side_keeps_its_links(tmp_path):
    from test_cache_import import import_, save_clip_retrieval, texts, vectors

    links = [f"https://example.org/{row}" for row in range(24)]
    source = save_clip_retrieval(tmp_path / "in", None, vectors(0), {"caption": texts(), "url": links})
    import_(source, tmp_path / "cache")
    store = open_cache(tmp_path / "cache")
    assert export_cache(store, store.open_pairs(), tmp_path / "out") == 24
    assert not (tmp_path / "out" / "img_emb").exists()
    table = pq.read_table(tmp_path / "out/metadata/metadata_0.parquet").to_pydict()
    assert (table["url"], table["caption"]) == (links, texts())


def test_a_full_folder_and_other_data_are_refused(tiny_cache, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(CacheError, match="holds something already; pass another --out"):
        export_cache(open_cache(tiny_cache), None, tmp_path / "out")
    other = save_pairs(tmp_path / "o.parquet", [draw_pair(0)[0]] * 96, ["other"] * 96)
    done = mmkd("cache", "export", tiny_cache, "--out", tmp_path / "new", "--data", other)
    assert (done.returncode, "was made from other data" in done.stderr) == (1, True)
    assert not (tmp_path / "new").exists()


def test_a_caption_that_was_not_sampled_must_be_the_one_that_was_embedded(tiny_cache, tiny_pairs, tmp_path):
    kept = type(tiny_pairs).__getitem__

    class Edited(type(tiny_pairs)):
        def __getitem__(self, row):
            pair = kept(self, row)
            return replace(pair, captions=("another",)) if row == 77 else pair

    edited = Edited(tiny_pairs._tables)
    with pytest.raises(
        StaleCacheError, match="row 77 of the data has other captions than when it was cached"
    ):
        export_cache(open_cache(tiny_cache), edited, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_one_is_in_is_not_replaced(tiny_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (Path(), tmp_path):
        done = mmkd("cache", "export", tiny_cache, "--out", out)
        assert done.returncode == 1
        assert "holds the folder you are in, and would be replaced; name a new one in it" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_stopped_export_leaves_nothing(tiny_cache, tmp_path, monkeypatch):
    store = open_cache(tiny_cache)

    def stop(done: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_cache(store, store.open_pairs(), tmp_path / "out", on_progress=stop)
    assert list(Path(tmp_path).iterdir()) == []


def test_npy_parts_hold_no_pickle(tiny_cache, tmp_path):
    store = open_cache(tiny_cache)
    export_cache(store, store.open_pairs(), tmp_path / "out")
    raw = (tmp_path / "out/img_emb/img_emb_0.npy").read_bytes()
    assert np.load(io.BytesIO(raw), allow_pickle=False).shape == (20, 32)
