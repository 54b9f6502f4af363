"""`mmkd plan`: sums that can be checked by hand, bytes that are those of the files, and what then happens."""

import importlib.util
import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from command_line import mmkd
from test_cache_build import SIZES

from mmkd.batches import BatchReader, BatchStream
from mmkd.cache.build import build_cache, cache_settings
from mmkd.cache.probe import RepeatedPairs, RepeatedStore, count_captions, count_first_captions, probe_caching
from mmkd.cache.shard import shard_bytes
from mmkd.cache.store import open_cache
from mmkd.cli import plan_result
from mmkd.cli.app import app
from mmkd.cli.plan_probe import Clocked
from mmkd.encoders import PairEncoder, max_text_length
from mmkd.mining.plan import CPU_FLOPS, CUDA_FLOPS, mining_seconds
from mmkd.planning import (
    CachingProbe,
    Seconds,
    TrainingProbe,
    TrainingSize,
    caching_cost,
    measured,
    training_cost,
)
from mmkd.row_set import RowSet, split_rows
from mmkd.sampling import BatchPlan

ROOT = Path(__file__).parent.parent


def test_a_rate_is_that_of_all_and_its_range_that_of_the_fifths():
    stamps = [(10.0, 100), (12.0, 110), (13.0, 120), (17.0, 130), (18.0, 140), (20.0, 150)]
    assert measured(stamps) == Seconds(10 / 50, 0.1, 0.4)
    assert measured(stamps[:2]) == Seconds(0.2, 0.2, 0.2)
    many = [(number / 10, number) for number in range(101)]
    assert measured(many).high == pytest.approx(0.1)


def test_caching_costs_its_rows_its_distinct_captions_and_its_bytes():
    probe = CachingProbe(Seconds(0.5, 0.25, 1.0), 0.125, 2.0**-20, 1.0, 64)
    cost = caching_cost(probe, rows=1000, captions=80, size=4 << 20)
    assert cost.seconds == Seconds(514.0, 264.0, 1014.0)
    assert cost.bytes == 4 << 20


def test_training_costs_its_steps_epochs_checkpoints_and_mining():
    probe = TrainingProbe(Seconds(0.25, 0.125, 0.5), 2.0, 3.0, 1000, 300, 64, 9)
    plain = TrainingSize(epochs=4, steps=10, batch=16, save_every=15, keep=2)
    assert (plain.pairs, plain.saves) == (640, 3)
    cost = training_cost(probe, plain)
    assert cost.seconds == Seconds(160 + 8 + 9, 80 + 8 + 9, 320 + 8 + 9)
    assert cost.bytes == 3 * 1000 + 300
    mined = TrainingSize(4, 10, 16, 100, 2, neighbours=7, refreshes=3, mining=5.0)
    cost = training_cost(probe, mined)
    assert cost.seconds.mean == pytest.approx(160 + 8 + 3 + 4 * 5 + 3 * 160 * 0.25 / 3)
    assert cost.bytes == 1000 + 300 + 4 * 7, "one checkpoint is all there ever is"


def test_mining_goes_by_the_rates_that_its_choice_goes_by(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert mining_seconds(10_000, 512, "exact") == 2 * 10_000**2 * 512 / (4 * CPU_FLOPS)
    assert mining_seconds(10_000, 512, "exact", cuda=True) == 2 * 10_000**2 * 512 / CUDA_FLOPS
    many = 1_000_000
    assert 0 < mining_seconds(many, 512, "ivf") < mining_seconds(many, 512, "exact") / 50
    assert mining_seconds(0, 512, "exact") == 0


@pytest.mark.parametrize(
    "choices", [{}, {"store_pixels": True}, {"shard_rows": 7}, {"shard_rows": 96}, {"shard_rows": 1_000}]
)
def test_planned_bytes_are_those_of_the_files(choices, tiny_encoder, tiny_pairs, tmp_path):
    manifest = build_cache(tiny_encoder, tiny_pairs, tmp_path / "cache", **SIZES | choices)
    settings = cache_settings(tiny_encoder, tiny_pairs, **SIZES | choices)
    planned = [shard_bytes(settings, index) for index in range(settings.shards)]
    assert planned == [shard.bytes for shard in manifest.shards]
    assert sum(planned) == sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.h5"))


@pytest.mark.parametrize("shard_rows", [5, 20, 96, 1000])
def test_captions_are_counted_within_their_shards(shard_rows, tiny_encoder, tiny_pairs):
    settings = cache_settings(tiny_encoder, tiny_pairs, shard_rows=shard_rows)
    parts = [settings.shard_range(index) for index in range(settings.shards)]
    expected = sum(len({text for row in part for text in tiny_pairs[row].captions}) for part in parts)
    assert count_captions(settings) == expected


def test_first_captions_are_counted_among_a_trainings_rows(tiny_encoder, tiny_pairs, monkeypatch):
    settings = cache_settings(tiny_encoder, tiny_pairs)
    first = [tiny_pairs[row].captions[0] for row in range(96)]
    assert count_first_captions(settings, 96) == len(set(first))
    rows, _ = split_rows(RowSet.all_of(96), 9, 0)
    assert count_first_captions(settings, 9) == len({first[row] for row in rows.to_array()}) < len(set(first))
    monkeypatch.setattr("mmkd.cache.probe.MOST_TEXTS", 80)
    assert count_first_captions(settings, 96) == len(set(first)), "the last ones brought none"


@pytest.fixture(scope="module")
def probed(tiny_encoder, tiny_pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    settings = cache_settings(tiny_encoder, tiny_pairs, batch_size=8)
    return probe_caching(tiny_encoder, tiny_pairs, settings, folder / "cache", seconds=1)


def test_a_probe_is_a_cache_of_rows_of_the_data(probed, tiny_cache, tiny_pairs):
    assert probed.probe.usable == 1
    assert 0 < probed.probe.row.low <= probed.probe.row.mean <= probed.probe.row.high
    assert probed.probe.caption > 0
    assert 0 < probed.probe.byte < 1e-6
    whole = open_cache(tiny_cache).hashes(np.arange(96))[:, 0].tolist()
    found = probed.store.hashes(np.arange(len(probed.store)))[:, 0].tolist()
    assert set(found) <= set(whole)
    length, rows = 1000, np.array([0, 999, 500])
    store = RepeatedStore(probed.store, probed.good, length)
    pairs = RepeatedPairs(probed.pairs, probed.good, length)
    assert (len(store), len(pairs), store.views) == (length, length, 1)
    here = rows % len(probed.good)
    assert torch.equal(store.read(rows).image, probed.store.read(here).image)
    assert [pairs[row] for row in rows.tolist()] == [probed.pairs[row] for row in here.tolist()]


def test_the_teacher_in_the_loop_gives_what_the_cache_holds(
    tiny_cache, tiny_encoder, tiny_pairs, monkeypatch
):
    store = open_cache(tiny_cache)
    length = max_text_length(tiny_encoder.model)
    reader = BatchReader(tiny_pairs, tiny_encoder.image_processor, tiny_encoder.tokenizer, length, store)
    stream = BatchStream(reader, BatchPlan(RowSet.all_of(96), 16, 0), rank=0, world=1, workers=0)
    cached = next(stream.from_step(0))
    asked = next(Clocked(stream, tiny_encoder).from_step(0))
    for side in ("teacher_image", "teacher_text"):
        one, other = getattr(cached, side), getattr(asked, side)
        assert (one - other).abs().max() < 2e-3 * one.abs().max()
    pixels, tokens = PairEncoder.encode_pixels, PairEncoder.encode_tokens
    monkeypatch.setattr(PairEncoder, "encode_pixels", lambda self, given: -pixels(self, given))
    monkeypatch.setattr(PairEncoder, "encode_tokens", lambda self, given: -tokens(self, given))
    turned = next(Clocked(stream, tiny_encoder).from_step(0))
    assert torch.equal(turned.teacher_image, -asked.teacher_image)
    assert torch.equal(turned.teacher_text, -asked.teacher_text)


@pytest.fixture(scope="module")
def planned(tiny_clip, pairs_parquet, tmp_path_factory):
    """The plan of a workspace whose mmkd.yaml says what the two commands take, and what it printed."""
    work = tmp_path_factory.mktemp("plan") / "work"
    work.mkdir()
    teaching = f"  teacher: {tiny_clip}\n  data: [{pairs_parquet}]\n  batch-size: 4\n"
    training = "  epochs: 3\n  batch-size: 16\n  workers: 0\n  resume: false\n"
    (work / "mmkd.yaml").write_text(f"cache-teacher:\n{teaching}train:\n{training}")
    file = work.parent / "plan.json"
    done = mmkd("plan", "--work", work, "--seconds", "1", "--train-limit", "64", "--json", file)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in work.iterdir()] == ["mmkd.yaml"], "nothing of the probe is kept"
    return json.loads(file.read_text())


def test_a_plan_adds_up(planned, tiny_encoder, tiny_pairs):
    settings = cache_settings(tiny_encoder, tiny_pairs)
    assert planned["caching"]["bytes"] == shard_bytes(settings, 0)
    assert (planned["rows"], planned["views"], planned["distinct_captions"]) == (96, 1, 12)
    assert planned["batch"] == 4, "the batch-size of mmkd.yaml's cache-teacher, not that of its train"
    training = planned["training"]
    assert (training["epochs"], training["steps"], training["batch"], training["save_every"]) == (
        3,
        4,
        16,
        200,
    )
    names = {field.name for field in fields(TrainingSize)}
    size = TrainingSize(**{name: value for name, value in training.items() if name in names})

    def seconds(value) -> dict:
        return {name: Seconds(**one) if isinstance(one, dict) else one for name, one in value.items()}

    for name in ("cached", "in_loop"):
        probe = TrainingProbe(**seconds(planned["measured"][name]))
        assert probe.steps >= 3
        if name == "in_loop":
            size = TrainingSize(size.epochs, size.steps, size.batch, size.save_every, size.keep)
        cost = training_cost(probe, size)
        assert training[name] == {"seconds": asdict(cost.seconds), "bytes": cost.bytes}
    probe = CachingProbe(**seconds(planned["measured"]["caching"]))
    cost = caching_cost(probe, rows=96, captions=12, size=planned["caching"]["bytes"])
    assert planned["caching"]["seconds"] == asdict(cost.seconds)
    disk = planned["disk"]
    assert disk["needed"] == planned["caching"]["bytes"] + training["cached"]["bytes"]
    assert disk["fits"] is True


def test_a_checkpoint_is_as_large_as_a_trainings(planned, tiny_cache, tmp_path):
    options = ["--epochs", "1", "--batch-size", "16", "--limit", "64", "--workers", "0"]
    done = mmkd("train", "--cache", tiny_cache, "--out", tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    for name in ("cached", "in_loop"):
        assert planned["measured"][name]["checkpoint"] == pytest.approx(size, rel=0.02)


def test_a_disk_that_is_too_small(planned, tiny_clip, pairs_parquet, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan_result, "free_bytes", lambda _: planned["disk"]["needed"] - 1)
    command = (
        "plan",
        "--teacher",
        tiny_clip,
        "--data",
        pairs_parquet,
        "--work",
        tmp_path / "new",
        "--seconds",
        "1",
    )
    done = mmkd(*command, "--batch-size", "16", "--epochs", "3", "--views", "2", "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert "does not fit" in capsys.readouterr().out
    assert "is too small; pass another --work" in " ".join(done.stderr.split())
    assert not (tmp_path / "new").exists()


def test_refused_before_anything_is_measured(tiny_clip, pairs_parquet, tmp_path):
    command = ("plan", "--teacher", tiny_clip, "--data", pairs_parquet, "--work", tmp_path)
    for options, part in (
        (["--epochs", "0"], "--epochs 0 is not above 0"),
        (["--model-config", "x/config.json"], "--model-config trains without a cache"),
        (["--views", "2", "--store-pixels"], "--store-pixels keeps the untouched images alone"),
    ):
        done = mmkd(*command, *options)
        assert (done.returncode, part in done.stderr) == (1, True), done.stderr


def test_its_options_are_those_of_the_commands_with_their_defaults():
    root = typer.main.get_command(app)
    plan, caching, training = (
        {param.name: param for param in root.commands[name].params}
        for name in ("plan", "cache-teacher", "train")
    )
    renamed = {"cache_batch_size": "batch_size"}
    own = {"seconds", "json", "config", "work", "help", "train_limit"}
    for name in plan.keys() - own:
        source = caching if renamed.get(name, name) in caching and name != "batch_size" else training
        assert plan[name].default == source[renamed.get(name, name)].default, name
    assert caching.keys() - plan.keys() == {"out"}
    assert {
        "kd",
        "task",
        "towers",
        "depth",
        "width",
        "epochs",
        "batch_size",
        "precision",
        "workers",
    } <= plan.keys()


@pytest.mark.full
def test_what_then_happens_is_within_a_fifth_of_the_plan(tmp_path):
    """The median of three turns, since a plan can know nothing of what the machine will do beside it."""
    path = ROOT / "benchmarks" / "plan.py"
    spec = importlib.util.spec_from_file_location("plan_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    ratios = {name: [] for name in benchmark.PLANNED}
    for turn in range(3):
        found = benchmark.compare(tmp_path / str(turn), 2000, 4, 15)
        assert found["bytes"][0] == found["bytes"][1]
        for name, (first, *rest) in benchmark.PLANNED.items():
            said = found["planned"][first]
            for key in rest:
                said = said[key]
            ratios[name].append(found["happened"][name] / said["seconds"]["mean"])
    assert all(0.8 <= np.median(values) <= 1.2 for values in ratios.values()), ratios
