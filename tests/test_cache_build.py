"""Building, stopping, resuming, reading: the cache as training will see it."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import draw_pair, save_pairs
from datasets import List, Value

from mmkd.cache import build as build_module
from mmkd.cache import tally
from mmkd.cache.build import build_cache, cache_settings, plan_build
from mmkd.cache.manifest import CacheManifest, read_manifest
from mmkd.cache.store import CacheStore, check_data, open_cache
from mmkd.cache.writers import take_shard
from mmkd.data import DataSource, open_pairs, row_hash
from mmkd.encoders import PairEncoder
from mmkd.errors import CacheError, DataError
from mmkd.images import decode_image

SIZES = {"shard_rows": 20, "batch_size": 8}
CPU = torch.device("cpu")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_store_gives_what_the_teacher_gives(tiny_cache, tiny_encoder, tiny_pairs):
    store = open_cache(tiny_cache)
    rows = np.array([95, 3, 40, 3, 0, 19, 20])
    found = store.read(rows)
    images = tiny_encoder.encode_images([decode_image(tiny_pairs[row].image) for row in rows])
    texts = tiny_encoder.encode_texts([tiny_pairs[row].captions[0] for row in rows])
    assert (found.image - F.normalize(images)).abs().max() < 1e-3
    assert (found.text - F.normalize(texts)).abs().max() < 1e-3
    assert (len(store), store.spec) == (96, tiny_encoder.spec)
    assert len(store.usable) == 96
    assert store.hashes(np.array([40]))[0].tolist() == list(row_hash(tiny_pairs[40]))


def test_lengths_give_the_raw_vectors_back(tiny_cache, tiny_encoder, tiny_pairs):
    store = open_cache(tiny_cache)
    arrays = store.shard(0)
    raw = arrays["image"][7, 0].astype(np.float32) * arrays["image_norm"][7, 0]
    expected = tiny_encoder.encode_images([decode_image(tiny_pairs[7].image)])[0].numpy()
    assert np.allclose(raw, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_rows_and_captions_that_are_not_there(tiny_cache):
    store = open_cache(tiny_cache)
    for rows, captions in (([96], None), ([-1], None), ([0], [1]), ([0], [-1]), ([0, 1], [0])):
        with pytest.raises(IndexError):
            store.read(np.array(rows), None if captions is None else np.array(captions))
    assert store.read(np.array([], dtype=np.int64)).image.shape == (0, 32)


def test_the_store_travels_as_its_path(tiny_cache):
    store = open_cache(tiny_cache)
    first = store.read(np.arange(96))
    packed = pickle.dumps(store)
    assert len(packed) < 10_000
    assert torch.equal(pickle.loads(packed).read(np.arange(96)).image, first.image)


def test_bytes_do_not_depend_on_decoding_threads(tiny_cache, tiny_encoder, tiny_pairs, tmp_path):
    for workers in (0, 3):
        build_cache(tiny_encoder, tiny_pairs, tmp_path / str(workers), workers=workers, **SIZES)
        assert contents(tmp_path / str(workers)) == contents(tiny_cache)


def test_key_follows_the_embeddings(tiny_cache, tiny_encoder, tiny_pairs, tmp_path, pairs_parquet):
    same = tmp_path / "same"
    build_cache(tiny_encoder, tiny_pairs, same, **SIZES)
    assert open_cache(same).key == open_cache(tiny_cache).key
    fewer = open_pairs([DataSource(str(pairs_parquet))], limit=95)
    build_cache(tiny_encoder, fewer, tmp_path / "fewer", **SIZES)
    assert open_cache(tmp_path / "fewer").key != open_cache(tiny_cache).key


def test_each_distinct_caption_of_a_shard_is_embedded_once(tiny_encoder, tiny_pairs, tmp_path, monkeypatch):
    embedded: list[str] = []
    plain = PairEncoder.encode_texts

    def counting(self, texts):
        embedded.extend(texts)
        return plain(self, texts)

    monkeypatch.setattr(PairEncoder, "encode_texts", counting)
    build_cache(tiny_encoder, tiny_pairs, tmp_path / "cache", shard_rows=48, batch_size=8)
    assert len(embedded) == 2 * 12
    assert embedded[:12] == sorted(set(embedded), key=lambda text: (len(text), text))


def test_no_batch_reaches_into_another_shard(tiny_encoder, tiny_pairs, tmp_path, monkeypatch):
    sizes: list[int] = []
    plain = PairEncoder.encode_pixels

    def counting(self, pixels):
        sizes.append(len(pixels))
        return plain(self, pixels)

    monkeypatch.setattr(PairEncoder, "encode_pixels", counting)
    build_cache(tiny_encoder, tiny_pairs, tmp_path / "cache", **SIZES)
    assert sizes == [8, 8, 4] * 4 + [8, 8]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Two captions a row; row 1 is no picture, row 2 is cut short, row 3 has blank captions only."""
    images: list = [draw_pair(number)[0] for number in range(30)]
    images[1] = b"no picture"
    images[2] = b"\xff\xd8\xff\xe0" + b"\0" * 40
    captions = [[f"number {number}", f"the picture {number}"] for number in range(30)]
    captions[3] = ["", " "]
    captions[4] = ["only one"]
    return save_pairs(tmp_path_factory.mktemp("mixed") / "p.parquet", images, captions, List(Value("string")))


def test_rows_that_cannot_be_used_are_masked_and_never_shift(mixed, tiny_encoder, tmp_path):
    pairs = open_pairs([DataSource(str(mixed))])
    states = []
    manifest = build_cache(
        tiny_encoder, pairs, tmp_path / "c", **SIZES, max_bad=0.1, on_progress=states.append
    )
    assert manifest is not None
    assert manifest.masked == {"no caption": 1, "not an image of a known format": 2}
    assert (states[-1].rows, states[-1].masked, states[-1].shards) == (30, 3, 2)
    store = open_cache(tmp_path / "c")
    assert store.usable.listed.tolist() == [1, 2, 3]
    assert store.caption_counts(np.arange(6)).tolist() == [2, 0, 0, 0, 1, 2]
    masked = store.read(np.array([1, 2, 3]))
    assert masked.image.abs().sum() == masked.text.abs().sum() == 0
    second = store.read(np.array([0, 5, 29]), np.array([1, 1, 1]))
    expected = F.normalize(tiny_encoder.encode_texts(["the picture 0", "the picture 5", "the picture 29"]))
    assert (second.text - expected).abs().max() < 1e-3
    image = F.normalize(tiny_encoder.encode_images([decode_image(pairs[29].image)]))
    assert (second.image[2] - image[0]).abs().max() < 1e-3
    with pytest.raises(IndexError):
        store.read(np.array([4]), np.array([1]))
    check_data(store, pairs)


def test_too_many_masked_rows_stop_the_build_and_leave_nothing(mixed, tiny_encoder, tmp_path):
    pairs = open_pairs([DataSource(str(mixed))])
    with pytest.raises(
        DataError, match=r"3 of 30 rows cannot be used \(no caption 1, not an image .* 2\), more"
    ):
        build_cache(tiny_encoder, pairs, tmp_path / "c", shard_rows=30, batch_size=8, max_bad=0.09)
    assert not (tmp_path / "c").exists()


def test_too_many_masked_rows_stop_early(tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(tally, "EARLY_ROWS", 16)
    path = save_pairs(tmp_path / "p.parquet", [b"no picture"] * 100, ["words"] * 100)
    states = []
    with pytest.raises(DataError, match="16 of 16 rows cannot be used"):
        build_cache(
            tiny_encoder,
            open_pairs([DataSource(str(path))]),
            tmp_path / "c",
            **SIZES,
            on_progress=states.append,
        )
    assert states[-1].rows == 8


def test_a_finished_cache_is_left_alone(copied_cache, tiny_encoder, tiny_pairs):
    before = {path: path.stat().st_mtime_ns for path in copied_cache.glob("shard-*")}
    build_cache(tiny_encoder, tiny_pairs, copied_cache, **SIZES)
    assert {path: path.stat().st_mtime_ns for path in copied_cache.glob("shard-*")} == before


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "unrecorded"])
def test_damage_is_found_and_mended_by_the_same_command(
    copied_cache, tiny_cache, tiny_encoder, tiny_pairs, damage
):
    shard = copied_cache / "shard-00002.h5"
    whole = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(whole[:-1])
    elif damage == "flip":
        shard.write_bytes(whole[:5000] + bytes([whole[5000] ^ 4]) + whole[5001:])
    elif damage == "gone":
        shard.unlink()
    else:
        (copied_cache / "shard-00002.json").unlink()
    if damage != "unrecorded":
        with pytest.raises(CacheError, match=r"shard-00002\.h5 .*run the same `mmkd cache-teacher` again"):
            open_cache(copied_cache)
    (copied_cache / ".shard-00002.h5.999.tmp").write_bytes(b"left by a killed process")
    build_cache(tiny_encoder, tiny_pairs, copied_cache, **SIZES)
    assert contents(copied_cache) == contents(tiny_cache)


def test_quick_opening_trusts_the_hash_but_not_the_size(copied_cache):
    shard = copied_cache / "shard-00002.h5"
    shard.write_bytes(shard.read_bytes()[:-1])
    store = open_cache(copied_cache, verify=False)
    with pytest.raises(CacheError, match="expected"):
        store.read(np.array([45]))


def test_an_unfinished_cache_is_not_opened(copied_cache, tmp_path):
    (copied_cache / "manifest.json").unlink()
    with pytest.raises(CacheError, match="is not finished"):
        open_cache(copied_cache)
    with pytest.raises(CacheError, match="no cache at"):
        open_cache(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheError, match=r"holds no manifest\.json"):
        open_cache(tmp_path / "empty")


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_shards(tiny_cache, tiny_encoder, tiny_pairs, tmp_path, world):
    folder = tmp_path / "cache"
    for rank in range(1, world):
        assert build_cache(tiny_encoder, tiny_pairs, folder, **SIZES, rank=rank, world=world) is None
        assert not (folder / "manifest.json").exists()
    mine = {f"shard-{index:05d}.h5" for index in range(5) if index % world != 0}
    assert {path.name for path in folder.glob("*.h5")} == mine
    assert build_cache(tiny_encoder, tiny_pairs, folder, **SIZES, rank=0, world=world) is not None
    assert contents(folder) == contents(tiny_cache)


def test_the_first_process_waits_for_shards_that_others_still_mend(
    tiny_encoder, tiny_pairs, tmp_path, monkeypatch
):
    build_cache(tiny_encoder, tiny_pairs, tmp_path, **SIZES, rank=1, world=2)
    shard = tmp_path / "shard-00001.h5"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    waits: list[float] = []
    other = take_shard(tmp_path, 1)

    def mend(seconds):
        waits.append(seconds)
        if len(waits) == 9:
            shard.write_bytes(whole)
            other.release()

    monkeypatch.setattr(build_module.time, "sleep", mend)
    build_cache(tiny_encoder, tiny_pairs, tmp_path, **SIZES, rank=0, world=2)
    assert len(waits) == 9
    open_cache(tmp_path)


@pytest.mark.slow
def test_two_real_processes_write_the_bytes_of_one(tmp_path, tiny_clip, pairs_parquet):
    command = [sys.executable, "-m", "mmkd", "cache-teacher", "--teacher", str(tiny_clip)]
    command += ["--data", str(pairs_parquet), "--shard-rows", "20", "--batch-size", "8"]
    started = []
    for out, rank, world in (("one", 0, 1), ("two", 0, 2), ("two", 1, 2)):
        places = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "OMP_NUM_THREADS": "1",
        }
        started.append(subprocess.Popen([*command, "--out", str(tmp_path / out)], env=os.environ | places))
    assert [process.wait(300) for process in started] == [0, 0, 0]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_plan_tells_what_is_left(copied_cache, tiny_encoder, tiny_pairs):
    settings = cache_settings(tiny_encoder, tiny_pairs, **SIZES)
    plan = plan_build(settings, tiny_pairs, copied_cache)
    assert (plan.todo, plan.own, plan.own_rows, plan.needed) == ([], [0, 1, 2, 3, 4], 96, 0)
    (copied_cache / "shard-00003.json").unlink()
    plan = plan_build(settings, tiny_pairs, copied_cache, rank=1, world=2)
    assert (plan.todo, plan.own, plan.own_rows) == ([3], [1, 3], 40)
    assert 0 < plan.needed < plan.total


def test_a_teacher_that_gives_no_numbers_is_named(tiny_encoder, tiny_pairs, tmp_path, monkeypatch):
    from mmkd.errors import ModelError

    monkeypatch.setattr(
        PairEncoder, "encode_pixels", lambda _, pixels: torch.full((len(pixels), 32), torch.nan)
    )
    with pytest.raises(ModelError, match="gives vectors that are zero or not finite in float32"):
        build_cache(tiny_encoder, tiny_pairs, tmp_path / "cache", **SIZES)


def test_manifest_says_what_was_done(tiny_cache, tiny_encoder, tiny_pairs):
    manifest = read_manifest(tiny_cache)
    assert manifest.sources == tiny_pairs.sources
    assert (manifest.rows, manifest.settings.captions, manifest.settings.dtype) == (96, 1, "float32")
    assert [shard.rows for shard in manifest.shards] == [20, 20, 20, 20, 16]
    assert isinstance(open_cache(tiny_cache), CacheStore)


def test_the_documented_way_to_read_without_mmkd_works(tiny_cache):
    page = (Path(__file__).parents[1] / "docs" / "cache-format.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    names = {"cache": tiny_cache}
    exec(code, names)
    found = torch.from_numpy(np.array(names["image"], dtype=np.float32))
    assert torch.allclose(F.normalize(found), open_cache(tiny_cache).read(np.arange(20)).image)


def test_the_documented_manifest_is_one():
    import json
    import re

    page = (Path(__file__).parents[1] / "docs" / "cache-format.md").read_text(encoding="utf-8")
    example = json.loads(re.sub("…", "0" * 32, page.split("```json\n")[1].split("```")[0]))
    example["settings"]["rows"], example["masked"] = 16_384, {"damaged image": 2}
    assert json.loads(json.dumps(CacheManifest.from_json(example).to_json())) == example
