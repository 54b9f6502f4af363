"""A cache is bound to its teacher, its data and its settings; whatever else is asked of it is refused."""

from pathlib import Path

import pytest
import torch
from conftest import draw_pair, save_pairs, save_tiny_clip

from mmkd.cache import build as build_module
from mmkd.cache.build import build_cache
from mmkd.cache.store import check_data, check_teacher, open_cache
from mmkd.data import DataSource, PairDataset, open_pairs
from mmkd.encoders import load_encoder
from mmkd.errors import CacheError, ConfigError, StaleCacheError

SIZES = {"shard_rows": 20, "batch_size": 8}
CPU = torch.device("cpu")


def test_another_teacher_is_refused(copied_cache, tiny_encoder, tiny_pairs, tmp_path):
    store = open_cache(copied_cache)
    check_teacher(store, tiny_encoder.spec)
    other = load_encoder(save_tiny_clip(tmp_path / "other", seed=1), device=CPU)
    with pytest.raises(
        StaleCacheError, match=r"with weights ....… \(now ....…\), but this run asks for .*other"
    ):
        check_teacher(store, other.spec)
    with pytest.raises(StaleCacheError, match="already holds a cache made with weights"):
        build_cache(other, tiny_pairs, copied_cache, **SIZES)


def test_other_weights_and_preprocessing_under_the_same_name_are_refused(copied_cache, tiny_encoder):
    from dataclasses import replace

    store = open_cache(copied_cache)
    with pytest.raises(StaleCacheError, match=r"weights .* \(now ffff…\); make it again"):
        check_teacher(store, replace(tiny_encoder.spec, weights_hash="f" * 32))
    with pytest.raises(StaleCacheError, match="with preprocessing"):
        check_teacher(store, replace(tiny_encoder.spec, preprocess_hash="f" * 32))
    with pytest.raises(StaleCacheError, match="with tokenizer"):
        check_teacher(store, replace(tiny_encoder.spec, tokenizer_hash="f" * 32))
    check_teacher(store, replace(tiny_encoder.spec, model="the/same", revision="elsewhere"))


def test_other_preprocessing_changes_the_spec(tiny_clip, tiny_encoder, tmp_path):
    import json
    import shutil

    folder = Path(shutil.copytree(tiny_clip, tmp_path / "changed"))
    file = next(folder.glob("*processor_config.json"))
    settings = json.loads(file.read_text())
    (settings.get("image_processor") or settings)["resample"] = 2
    file.write_text(json.dumps(settings))
    changed = load_encoder(folder, device=CPU).spec
    assert changed.preprocess_hash != tiny_encoder.spec.preprocess_hash
    assert changed.weights_hash == tiny_encoder.spec.weights_hash


def test_another_activation_is_another_teacher(copied_cache, tiny_clip, tiny_encoder, tmp_path):
    import json
    import shutil

    folder = Path(shutil.copytree(tiny_clip, tmp_path / "changed"))
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (folder / "config.json").write_text(json.dumps(config))
    changed = load_encoder(folder, device=CPU).spec
    assert changed.weights_hash == tiny_encoder.spec.weights_hash
    store = open_cache(copied_cache)
    with pytest.raises(StaleCacheError, match=r"with configuration ....… \(now ....…\)"):
        check_teacher(store, changed)


def test_a_cache_that_does_not_say_the_configuration_is_read(copied_cache, tiny_encoder):
    import json

    before = open_cache(copied_cache).key
    manifest = copied_cache / "manifest.json"
    written = json.loads(manifest.read_text())
    del written["settings"]["teacher"]["config_hash"]
    manifest.write_text(json.dumps(written))
    store = open_cache(copied_cache)
    check_teacher(store, tiny_encoder.spec)
    assert json.loads(json.dumps(store.manifest.to_json())) == written, "a cache's key stays what it was"
    assert store.key != before


def save_rows(path: Path, numbers: list[int]) -> PairDataset:
    images, captions = zip(*map(draw_pair, numbers), strict=True)
    return open_pairs([DataSource(str(save_pairs(path, list(images), list(captions))))])


def test_other_data_is_refused(copied_cache, tmp_path, tiny_encoder):
    store = open_cache(copied_cache)
    check_data(store, save_rows(tmp_path / "same.parquet", list(range(96))))
    for name, numbers, message in (
        ("fewer", list(range(95)), "holds 96 rows, but the data has 95"),
        ("more", list(range(97)), "holds 96 rows, but the data has 97"),
        ("swapped", [1, 0, *range(2, 96)], "2 of 96 rows looked at differ, the first of them row 0"),
    ):
        with pytest.raises(StaleCacheError, match=message):
            check_data(store, save_rows(tmp_path / f"{name}.parquet", numbers))


def test_a_few_rows_are_looked_at_first_and_last_among_them(copied_cache, tmp_path, monkeypatch):
    store = open_cache(copied_cache)
    looked: list[int] = []
    plain = PairDataset.__getitem__
    pairs = save_rows(tmp_path / "same.parquet", list(range(96)))
    monkeypatch.setattr(PairDataset, "__getitem__", lambda self, row: looked.append(row) or plain(self, row))
    check_data(store, pairs, sample=5)
    assert looked == [0, 23, 47, 71, 95]


def test_data_that_changed_under_a_started_cache_is_refused(tiny_encoder, tmp_path):
    pairs = save_rows(tmp_path / "p.parquet", list(range(30)))
    build_cache(tiny_encoder, pairs, tmp_path / "cache", **SIZES)
    (tmp_path / "cache" / "manifest.json").unlink()
    changed = save_rows(tmp_path / "p.parquet", list(range(29, -1, -1)))
    with pytest.raises(StaleCacheError, match="made from other data: row 0 has changed"):
        build_cache(tiny_encoder, changed, tmp_path / "cache", **SIZES)


def test_other_settings_are_refused(copied_cache, tiny_encoder, tiny_pairs, pairs_parquet):
    with pytest.raises(StaleCacheError, match=r"batch_size 8 \(here 16\)"):
        build_cache(tiny_encoder, tiny_pairs, copied_cache, shard_rows=20, batch_size=16)
    (copied_cache / "manifest.json").unlink()
    with pytest.raises(StaleCacheError, match=r"limit None \(here 40\); rows 96 \(here 40\)"):
        build_cache(
            tiny_encoder, open_pairs([DataSource(str(pairs_parquet))], limit=40), copied_cache, **SIZES
        )
    for sizes in ({"shard_rows": 0}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match="expected at least 1"):
            build_cache(tiny_encoder, tiny_pairs, copied_cache, **sizes)


def test_folders_that_hold_something_else_are_refused(tiny_encoder, tiny_pairs, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    with pytest.raises(CacheError, match=r"holds something else than a cache \(thesis\.tex\)"):
        build_cache(tiny_encoder, tiny_pairs, tmp_path / "thesis", **SIZES)
    with pytest.raises(CacheError, match="is a file; expected a folder"):
        build_cache(tiny_encoder, tiny_pairs, tmp_path / "thesis" / "thesis.tex", **SIZES)
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "thesis.tex"]


def test_too_small_a_disk_is_told_before_anything_is_written(tiny_encoder, tiny_pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "free_bytes", lambda _: 1000)
    with pytest.raises(CacheError, match=r"more are needed; free some space"):
        build_cache(tiny_encoder, tiny_pairs, tmp_path / "cache", **SIZES)
    assert not (tmp_path / "cache").exists()
