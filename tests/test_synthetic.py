"""Synthetic captions: embedded after the real ones, and shown as often as was said."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import SMALL, mmkd
from conftest import draw_pair
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from tar_files import save_tar

from mmkd.batches import BatchReader, BatchStream
from mmkd.cache.build import build_cache
from mmkd.cache.manifest import read_manifest
from mmkd.cache.store import open_cache
from mmkd.data import DataSource, Pair, open_pairs, row_hash
from mmkd.encoders import max_text_length
from mmkd.errors import ConfigError, DataError
from mmkd.recipe import Recipe
from mmkd.row_set import RowSet
from mmkd.sampling import BatchPlan
from mmkd.synthetic import choose_captions

COLUMNS = ("blip", "coca")


def pair(real: int, synthetic: int) -> Pair:
    return Pair(b"", tuple("x" * (real + synthetic)), synthetic)


@pytest.mark.parametrize("share", [Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(2, 3), Fraction(1)])
@pytest.mark.parametrize(("real", "synthetic"), [(1, 1), (2, 3), (5, 1), (3, 0), (0, 4)])
def test_each_caption_is_shown_exactly_as_often_as_its_share(real, synthetic, share):
    """Of N draws spread evenly over [0, 1), each caption gets its own share of N, to within one at its borders."""
    count = 360
    draws = (np.arange(count) + 0.5) / count
    found = choose_captions(draws, [pair(real, synthetic)] * count, float(share))
    of_synthetic = Fraction(int(synthetic > 0)) if not (real and synthetic) else share
    expected = [count * (1 - of_synthetic) / real for _ in range(real)]
    expected += [count * of_synthetic / synthetic for _ in range(synthetic)]
    assert np.abs(np.bincount(found, minlength=real + synthetic) - np.array(expected, float)).max() <= 1


def test_draws_and_rounding_stay_within_the_captions():
    draws = np.array([0.0, np.nextafter(1, 0)])
    for real, synthetic in ((1, 7), (7, 1), (49, 49)):
        for share in (1e-12, 0.1, 1 / 3, 1 - 2**-53):
            first, last = choose_captions(draws, [pair(real, synthetic)] * 2, share)
            assert (first, last) == (0, real + synthetic - 1)
    assert choose_captions(draws, [pair(0, 0)] * 2).tolist() == [0, 0]
    without = np.random.default_rng(0).random(1000)
    assert np.array_equal(choose_captions(without, [pair(5, 0)] * 1000), (without * 5).astype(int)), "as ever"


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """24 pairs with a caption each, ``blip`` a text and ``coca`` a list of up to two, some of them blank or absent."""
    rows = {"image": [], "caption": [], "blip": [], "coca": []}
    for number in range(24):
        image, caption = draw_pair(number)
        rows["image"].append(image)
        rows["caption"].append("" if number == 3 else caption)
        rows["blip"].append(None if number % 4 == 0 else f"blip {number}")
        rows["coca"].append([f"coca {number}.{which}" for which in range(number % 3)])
    features = Features(
        {
            "image": ImageFeature(),
            "caption": Value("string"),
            "blip": Value("string"),
            "coca": List(Value("string")),
        }
    )
    path = tmp_path_factory.mktemp("synthetic") / "table.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return path


def source(path: Path, **options) -> DataSource:
    return DataSource(str(path), synthetic_columns=COLUMNS, **options)


def test_synthetic_captions_come_after_the_real_ones(table):
    pairs = open_pairs([source(table)])
    assert pairs.sources[0].caption_column == "caption"
    assert pairs[5].captions == (draw_pair(5)[1], "blip 5", "coca 5.0", "coca 5.1")
    assert [pairs[row].synthetic for row in (0, 3, 4, 5)] == [0, 1, 1, 3]
    assert pairs[3].captions == ("blip 3",), "a pair without a real caption still has the others"
    assert pairs.max_captions == 4
    assert "caption: caption · synthetic: blip · synthetic: coca" in pairs.describe()[0]
    plain = open_pairs([DataSource(str(table), caption_column="caption")])
    assert row_hash(pairs[5])[1] != row_hash(plain[5])[1]
    assert (plain[5].synthetic, plain.max_captions) == (0, 1)


@pytest.mark.parametrize(
    ("columns", "options", "error", "message"),
    [
        (("blib",), {}, DataError, r"no column 'blib'.*did you mean 'blip'\? \(--synthetic-column\)"),
        (("image",), {}, DataError, "no column 'image', only caption, blip, coca"),
        (("caption",), {"caption_column": "caption"}, ConfigError, "'caption' holds the real captions"),
        (("blip", "blip"), {}, ConfigError, "'blip' is named twice"),
    ],
)
def test_columns_that_cannot_be(table, columns, options, error, message):
    with pytest.raises(error, match=message):
        open_pairs([DataSource(str(table), synthetic_columns=columns, **options)])


def test_a_source_is_written_as_before_unless_it_has_them(table):
    assert "synthetic_columns" not in DataSource(str(table)).to_json()
    value = json.loads(json.dumps(source(table).to_json()))
    assert value["synthetic_columns"] == ["blip", "coca"]
    assert DataSource.from_json(value) == source(table)
    for wrong in ("blip", [1], None, {"blip": 1}):
        with pytest.raises(DataError, match="found synthetic_columns"):
            DataSource.from_json({**value, "synthetic_columns": wrong})


def test_tars_have_them_too(tmp_path):
    members = []
    for number in range(3):
        fields = {"syn": [f"one {number}", f"two {number}"] if number else "", "other": "x"}
        members += [
            (f"{number}.jpg", b"image"),
            (f"{number}.txt", f"real {number}".encode()),
            (f"{number}.blip.txt", f"blip {number}".encode()),
            (f"{number}.json", json.dumps(fields).encode()),
        ]
    path = save_tar(tmp_path / "a.tar", members)
    pairs = open_pairs([DataSource(str(path), synthetic_columns=("blip.txt", "json.syn"))])
    assert pairs[2].captions == ("real 2", "blip 2", "one 2", "two 2")
    assert [(len(pairs[row].captions), pairs[row].synthetic) for row in range(3)] == [(2, 1), (4, 3), (4, 3)]
    assert pairs.max_captions == 4
    with pytest.raises(DataError, match=r"no column 'json\.sym'.*did you mean 'json\.syn'"):
        open_pairs([DataSource(str(path), synthetic_columns=("json.sym",))])


@pytest.fixture(scope="module")
def cache(table, tiny_encoder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "cache"
    build_cache(tiny_encoder, open_pairs([source(table)]), folder, shard_rows=10, batch_size=8)
    return folder


def stream(cache: Path, encoder, *, share: float, rank: int = 0, world: int = 1) -> BatchStream:
    store = open_cache(cache)
    reader = BatchReader(
        store.open_pairs(),
        encoder.image_processor,
        encoder.tokenizer,
        max_text_length(encoder.model),
        store,
        synthetic_share=share,
    )
    return BatchStream(reader, BatchPlan(RowSet.all_of(24), 8, 0), rank=rank, world=world, workers=0)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)])
def test_training_shows_them_with_their_own_targets(cache, tiny_encoder, share, least, most):
    store, pairs = open_cache(cache), open_cache(cache).open_pairs()
    assert store.caption_counts(np.arange(24)).tolist() == [len(pairs[row].captions) for row in range(24)]
    steps = [
        batch
        for batch, _ in zip(stream(cache, tiny_encoder, share=share).from_step(0), range(30), strict=False)
    ]
    hashes = store.hashes(np.arange(24))[:, 0].astype(np.int64)
    row_of = {one: row for row, one in enumerate(hashes.tolist())}
    shown = synthetic = 0
    for batch in steps:
        texts = tiny_encoder.tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True)
        rows = [row_of[one] for one in batch.image_ids.tolist()]
        for row, text, target in zip(rows, texts, batch.teacher.text, strict=True):
            number = [caption.lower() for caption in pairs[row].captions].index(text)
            own = store.read(np.array([row]), np.array([number])).text[0]
            assert (target - own).abs().max() < 1e-5
            if 0 < pairs[row].synthetic < len(pairs[row].captions):
                shown += 1
                synthetic += number >= len(pairs[row].captions) - pairs[row].synthetic
    assert least <= synthetic / shown <= most, (synthetic, shown)


def test_any_number_of_processes_shows_the_same(cache, tiny_encoder):
    whole = next(iter(stream(cache, tiny_encoder, share=0.5).from_step(4)))
    halves = [
        next(iter(stream(cache, tiny_encoder, share=0.5, rank=rank, world=2).from_step(4))) for rank in (0, 1)
    ]
    assert np.concatenate([half.caption_ids for half in halves]).tolist() == whole.caption_ids.tolist()


def test_a_recipe_resolves_its_share():
    machine = {"pairs": 100, "processes": 1, "accelerated": False, "precision": "fp32"}
    assert Recipe().resolve(**machine).synthetic_share is None
    assert Recipe().resolve(**machine, synthetic=True).synthetic_share == 0.5
    assert Recipe(synthetic_share=0.0).resolve(**machine, synthetic=True).synthetic_share == 0
    with pytest.raises(
        ConfigError, match=r"--synthetic-share 0\.3 needs synthetic captions, and the pairs have"
    ):
        Recipe(synthetic_share=0.3).resolve(**machine)
    for wrong, said in (
        (-0.1, "is not from 0 to 1"),
        (1.1, "is not from 0 to 1"),
        (float("nan"), "is not finite"),
    ):
        with pytest.raises(ConfigError, match=said):
            Recipe(synthetic_share=wrong)


def test_from_the_command_line_to_the_saved_recipe(table, tiny_clip, pairs_parquet, tmp_path):
    work = tmp_path / "work"
    columns = ("--synthetic-column", "blip", "--synthetic-column", "coca")
    done = mmkd("cache-teacher", "--teacher", tiny_clip, "--data", table, *columns, "--work", work)
    assert done.returncode == 0, done.stderr
    settings = read_manifest(work / "cache").settings
    assert (settings.captions, settings.sources[0].synthetic_columns) == (4, COLUMNS)
    small = [*SMALL, "--batch-size", "8", "--epochs", "1", "--work", work]
    done = mmkd("train", *small, "--synthetic-share", "0.25", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "synthetic with probability 0.25 where a pair has both kinds" in " ".join(done.stderr.split())
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["synthetic-share"] == 0.25
    done = mmkd(
        "cache-teacher", "--teacher", tiny_clip, "--data", pairs_parquet, "--work", tmp_path / "plain"
    )
    done = mmkd("train", *small[:-1], tmp_path / "plain", "--synthetic-share", "0.25")
    assert done.returncode == 1
    assert "--synthetic-share 0.25 needs synthetic captions" in done.stderr
