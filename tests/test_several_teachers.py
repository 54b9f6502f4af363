"""Several teachers in one cache: what is stored, what is read, and what a student learns from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, mmkd
from conftest import save_tiny_clip, save_tiny_siglip

from mmkd.cache.build import build_cache
from mmkd.cache.manifest import MANIFEST, read_manifest
from mmkd.cache.store import check_teacher, open_cache
from mmkd.encoders import load_encoder
from mmkd.errors import CacheError, ConfigError, StaleCacheError

ROWS = np.arange(96)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another teacher, of another family, size and preprocessing."""
    return save_tiny_siglip(tmp_path_factory.mktemp("models") / "other", layers=2, seed=3)


@pytest.fixture(scope="module")
def both(tiny_clip, other, pairs_parquet, tmp_path_factory) -> Path:
    """A cache of two teachers, made by the command."""
    out = tmp_path_factory.mktemp("caches") / "both"
    options = ["--data", pairs_parquet, "--out", out, "--shard-rows", "20", "--batch-size", "8"]
    done = mmkd("cache-teacher", "--teacher", tiny_clip, "--teacher", other, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("teacher ") == 2
    return out


@pytest.fixture(scope="module")
def alone(other, tiny_pairs, tmp_path_factory) -> Path:
    """A cache of the second teacher alone."""
    out = tmp_path_factory.mktemp("caches") / "alone"
    build_cache(load_encoder(other), tiny_pairs, out, shard_rows=20, batch_size=8)
    return out


def test_each_teachers_vectors_are_those_of_a_cache_of_its_own(both, tiny_cache, alone):
    together = open_cache(both)
    for index in range(5):
        mine = together.shard(index)
        for part, norm, single in ((slice(32), 0, tiny_cache), (slice(32, 80), 1, alone)):
            theirs = open_cache(single).shard(index)
            for side in ("image", "text"):
                assert (mine[side][..., part] == theirs[side]).all()
                assert (mine[f"{side}_norm"][..., norm] == theirs[f"{side}_norm"]).all()
        assert (mine["row_hash"] == theirs["row_hash"]).all()


def test_a_cosine_of_all_is_the_mean_of_the_teachers(both, tiny_cache, alone):
    read = open_cache(both).read(ROWS)
    assert read.image.shape == (96, 80)
    ours = read.image @ read.text.T
    theirs = [one.image @ one.text.T for one in (open_cache(path).read(ROWS) for path in (tiny_cache, alone))]
    assert np.allclose(ours, (theirs[0] + theirs[1]) / 2, atol=1e-3)


@pytest.mark.parametrize(("name", "number"), [("1", 0), ("2", 1), ("other", 1), ("tiny-clip", 0)])
def test_one_of_them_is_picked(both, tiny_cache, alone, name, number):
    picked, single = open_cache(both, teacher=name), open_cache((tiny_cache, alone)[number])
    assert picked.spec == picked.lead == single.spec
    mine, theirs = picked.read(ROWS), single.read(ROWS)
    assert (mine.image == theirs.image).all()
    assert (mine.text == theirs.text).all()
    assert picked.key not in {open_cache(both).key, single.key, open_cache(both, teacher=str(2 - number)).key}


@pytest.mark.parametrize("name", ["0", "3", "nobody", ""])
def test_nobody_is_picked(both, name):
    with pytest.raises(ConfigError, match=r"names none of the cache's teachers; expected .* 1 = .*, 2 = "):
        open_cache(both, teacher=name)


def test_verify_looks_at_each_of_them(both, other, tmp_path, capsys):
    done = mmkd("cache", "verify", both, "--reencode", "20")
    assert done.returncode == 0, done.stderr
    said = capsys.readouterr().out
    assert "20 rows again, 80 vectors" in said
    assert "by teacher" in said
    changed = save_tiny_siglip(tmp_path / "changed", layers=2, seed=4)
    done = mmkd("cache", "verify", both, "--reencode", "5", "--teacher", read_manifest(both).teacher.model)
    assert "made by 2 teachers, but --teacher names 1" in done.stderr
    teachers = ["--teacher", read_manifest(both).teacher.model, "--teacher", changed]
    done = mmkd("cache", "verify", both, "--reencode", "5", *teachers)
    assert done.returncode == 1
    assert "teacher 2's weights" in done.stderr
    assert "cosine" in done.stderr


def test_repair_needs_all_of_them(both, tmp_path):
    broken = Path(shutil.copytree(both, tmp_path / "broken"))
    (broken / "shard-00002.h5").unlink()
    done = mmkd("cache", "verify", broken, "--repair")
    assert done.returncode == 0, done.stderr
    assert (broken / "shard-00002.h5").read_bytes() == (both / "shard-00002.h5").read_bytes()


def test_inspect_names_both_and_its_cosines_are_means(both, capsys, tmp_path):
    done = mmkd("cache", "inspect", both, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    said = capsys.readouterr().out
    assert said.count("teacher ") == 2
    found = json.loads((tmp_path / "found.json").read_text())
    read = open_cache(both).read(ROWS)
    assert found["matched"] == pytest.approx(float((read.image * read.text).sum(1).mean()), abs=1e-3)


def test_export_of_one_is_its_own_caches_export(both, alone, tmp_path):
    done = mmkd("cache", "export", both, "--out", tmp_path / "picked", "--pick-teacher", "2")
    assert done.returncode == 0, done.stderr
    assert mmkd("cache", "export", alone, "--out", tmp_path / "single").returncode == 0
    files = sorted(path.relative_to(tmp_path / "picked") for path in (tmp_path / "picked").rglob("*.npy"))
    assert files
    for file in files:
        assert (tmp_path / "picked" / file).read_bytes() == (tmp_path / "single" / file).read_bytes()


def test_a_student_of_both_has_a_head_and_of_one_has_none(both, tmp_path):
    done = mmkd("train", "--cache", both, *SMALL, "--out", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    assert "and 1 more, side by side" in done.stderr
    assert "head 32 -> 80" in done.stderr
    record = json.loads((tmp_path / "both" / "run.json").read_text())
    assert len(record["teachers"]) == 2
    assert load_encoder(tmp_path / "both" / "student").spec.dim == 80
    done = mmkd("train", "--cache", both, *SMALL, "--out", tmp_path / "two", "--pick-teacher", "other")
    assert done.returncode == 0, done.stderr
    assert "head" not in done.stderr
    assert load_encoder(tmp_path / "two" / "student").spec.dim == 48
    assert "pick-teacher: '2'" in (tmp_path / "two" / "config.yaml").read_text()
    record = json.loads((tmp_path / "two" / "run.json").read_text())
    assert record["teacher"]["dim"] == 48
    assert "teachers" not in record


def test_one_tower_learns_from_one_teacher(both, tmp_path):
    done = mmkd("train", "--cache", both, *SMALL, "--out", tmp_path / "run", "--towers", "image")
    assert done.returncode == 1
    assert "learn from one teacher of the cache (--pick-teacher)" in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_is_refused(tiny_clip, other, pairs_parquet, tmp_path):
    here = ["--data", pairs_parquet, "--out", tmp_path / "cache"]
    for options, said in (
        (["--teacher", tiny_clip, "--teacher", tiny_clip], "is the same as another one of them"),
        (["--teacher", tiny_clip, "--teacher", other, "--revision", "main"], "--revision main is of one"),
        (["--teacher", tiny_clip, "--teacher", other, "--store-pixels"], "prepare images differently"),
    ):
        done = mmkd("cache-teacher", *options, *here)
        assert done.returncode == 1
        assert said in done.stderr
    done = mmkd("plan", "--teacher", tiny_clip, "--teacher", other, "--data", pairs_parquet)
    assert "2 teachers are named, and a plan is of one" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_other_teachers_are_another_cache(both, tiny_clip, other, pairs_parquet, tmp_path):
    others = save_tiny_clip(tmp_path / "others", seed=9)
    options = ["--data", pairs_parquet, "--out", both, "--shard-rows", "20", "--batch-size", "8"]
    for teachers, said in (
        ([tiny_clip], "2 teachers"),
        ([other, tiny_clip], "teacher 1's"),
        ([tiny_clip, others], "teacher 2's"),
    ):
        done = mmkd("cache-teacher", *[word for one in teachers for word in ("--teacher", one)], *options)
        assert done.returncode == 1
        assert said in done.stderr
    with pytest.raises(StaleCacheError, match="was made by"):
        check_teacher(open_cache(both), load_encoder(others).spec)


@pytest.mark.parametrize("teachers", [[], ["x"], 3, None])
def test_manifests_that_lie_about_teachers_are_refused(both, tmp_path, teachers):
    value = json.loads((both / MANIFEST).read_text())
    assert "teacher" not in value["settings"]
    real = value["settings"]["teachers"]
    value["settings"]["teachers"] = teachers if not isinstance(teachers, list) else [*teachers, *real[:1]]
    (tmp_path / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(CacheError, match="teacher"):
        read_manifest(tmp_path)
