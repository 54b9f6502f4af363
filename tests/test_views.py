"""Several views of each image: what the cache holds of them, and that the student is shown the very same ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from test_cache_build import CPU, SIZES, contents, mixed  # noqa: F401 (a fixture)
from test_cli_train import SMALL, mmkd

from mmkd.augment import Augmentation
from mmkd.batches import BatchReader, BatchStream
from mmkd.cache import embed as embed_module
from mmkd.cache.build import build_cache, cache_settings, plan_build
from mmkd.cache.manifest import CacheManifest, read_manifest
from mmkd.cache.store import open_cache
from mmkd.data import DataSource, open_pairs
from mmkd.encoders import load_encoder, max_text_length
from mmkd.errors import CacheError, ConfigError, StaleCacheError
from mmkd.images import decode_image
from mmkd.recipe import Recipe
from mmkd.row_set import RowSet
from mmkd.sampling import BatchPlan
from mmkd.scenes import write_training_scenes

DEMO_TEACHER = Path(__file__).parents[1] / "configs" / "demo" / "teacher"
CROPS = Augmentation("crop+flip", 5)
CHOICES = {**SIZES, "views": 3, "augmentation": CROPS}


@pytest.fixture(scope="module")
def views_cache(tiny_encoder, tiny_pairs, tmp_path_factory) -> Path:
    """``tiny_cache`` with two augmented views of each image beside the untouched one."""
    folder = tmp_path_factory.mktemp("views") / "cache"
    build_cache(tiny_encoder, tiny_pairs, folder, **CHOICES)
    return folder


def test_view_0_is_bit_for_bit_that_of_a_cache_without_views(views_cache, tiny_cache):
    with_views, without = open_cache(views_cache), open_cache(tiny_cache)
    assert (with_views.views, with_views.augmentation) == (3, CROPS)
    assert (without.views, without.augmentation) == (1, Augmentation())
    for index in range(5):
        here, there = with_views.shard(index), without.shard(index)
        assert here["image"].shape[1:] == (3, 32)
        for name in ("image", "image_norm"):
            assert here[name][:, :1].tobytes() == there[name].tobytes()
        assert here["text"].tobytes() == there["text"].tobytes()


def test_each_view_is_the_teachers_embedding_of_that_augmentation(views_cache, tiny_encoder, tiny_pairs):
    store = open_cache(views_cache)
    rows, views = np.array([95, 3, 40, 3, 3]), np.array([2, 0, 1, 1, 2])
    images = [
        CROPS(decode_image(tiny_pairs[row].image), row=row, view=view)
        for row, view in zip(rows.tolist(), views.tolist(), strict=True)
    ]
    expected = tiny_encoder.encode_images(images)
    found = store.read(rows, views=views)
    assert torch.allclose(found.raw_image, expected, rtol=2e-3, atol=2e-3 * expected.abs().max().item())
    assert torch.equal(found.text, store.read(rows).text)
    assert not torch.allclose(found.image[1:], store.read(rows).image[1:], atol=1e-2)


@pytest.mark.parametrize(("rows", "views"), [([0], [3]), ([0], [-1]), ([0, 1], [0]), ([0], [[0]])])
def test_views_that_are_not_there(views_cache, tiny_cache, rows, views):
    store = open_cache(views_cache)
    with pytest.raises(IndexError):
        store.read(np.array(rows), views=np.array(views))
    with pytest.raises(IndexError, match="views 1 to 1 of a cache of 1"):
        open_cache(tiny_cache).read(np.array([0]), views=np.array([1]))


def test_masked_rows_are_masked_in_every_view(mixed, tiny_encoder, tmp_path):  # noqa: F811
    pairs = open_pairs([DataSource(str(mixed))])
    states = []
    build_cache(
        tiny_encoder, pairs, tmp_path / "c", **CHOICES, max_bad=0.1, on_progress=states.append, workers=0
    )
    store = open_cache(tmp_path / "c")
    rows, views = np.repeat([1, 2, 3], 3), np.tile([0, 1, 2], 3)
    assert store.read(rows, views=views).image.abs().sum() == 0
    good = np.repeat(store.usable.to_array(), 3)
    assert store.read(good, views=np.resize([0, 1, 2], len(good))).image.norm(dim=1).min() > 0.99
    assert (states[-1].rows, states[-1].masked) == (30, 3), "progress counts images, not views"


def test_an_image_is_decoded_once_for_all_of_its_views(tiny_encoder, tiny_pairs, tmp_path, monkeypatch):
    decoded = []

    def counting(data, **options):
        decoded.append(data)
        return decode_image(data, **options)

    monkeypatch.setattr(embed_module, "decode_image", counting)
    build_cache(tiny_encoder, tiny_pairs, tmp_path / "cache", **CHOICES, workers=0)
    assert len(decoded) == 96


def test_bytes_are_the_same_by_any_threads_and_processes(views_cache, tiny_encoder, tiny_pairs, tmp_path):
    build_cache(tiny_encoder, tiny_pairs, tmp_path / "threads", **CHOICES, workers=3)
    assert contents(tmp_path / "threads") == contents(views_cache)
    for rank in (1, 0):
        build_cache(tiny_encoder, tiny_pairs, tmp_path / "two", **CHOICES, rank=rank, world=2)
    assert contents(tmp_path / "two") == contents(views_cache)


def test_a_stopped_build_ends_with_the_same_bytes(views_cache, tiny_encoder, tiny_pairs, tmp_path):
    class Stopped(KeyboardInterrupt):
        pass

    def stop_after(rows):
        def look(state):
            if state.rows > rows:
                raise Stopped

        return look

    for rows in (30, 70):
        with pytest.raises(Stopped):
            build_cache(
                tiny_encoder, tiny_pairs, tmp_path / "c", **CHOICES, workers=1, on_progress=stop_after(rows)
            )
    done = plan_build(cache_settings(tiny_encoder, tiny_pairs, **CHOICES), tiny_pairs, tmp_path / "c").done
    assert sorted(done) == [0, 1, 2]
    build_cache(tiny_encoder, tiny_pairs, tmp_path / "c", **CHOICES)
    assert contents(tmp_path / "c") == contents(views_cache)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": 4}, r"views 3 \(crop\+flip, seed 5\) \(here 4 \(crop\+flip, seed 5\)\)"),
        ({"views": 1, "augmentation": Augmentation()}, r"views 3 \(crop\+flip, seed 5\) \(here 1\)"),
        ({"augmentation": Augmentation("randaugment", 5)}, r"\(here 3 \(randaugment, seed 5\)\)"),
        ({"augmentation": Augmentation("crop+flip", 6)}, r"\(here 3 \(crop\+flip, seed 6\)\)"),
    ],
)
def test_a_build_with_other_views_is_refused(views_cache, tiny_encoder, tiny_pairs, change, words):
    before = contents(views_cache)
    with pytest.raises(StaleCacheError, match=words):
        build_cache(tiny_encoder, tiny_pairs, views_cache, **CHOICES | change)
    assert contents(views_cache) == before


def test_the_manifest_lists_every_view(views_cache, tiny_cache):
    listed = json.loads((views_cache / "manifest.json").read_text())["settings"]["views"]
    first, other = {"policy": "teacher-preprocessing", "seed": 0}, {"policy": "crop+flip", "seed": 5}
    assert listed == [first, other, other]
    assert json.loads((tiny_cache / "manifest.json").read_text())["settings"]["views"] == [first]
    settings = read_manifest(views_cache).settings
    assert (settings.views, settings.augmentation) == (3, CROPS)


FIRST = {"policy": "teacher-preprocessing", "seed": 0}
OTHER = {"policy": "crop+flip", "seed": 5}


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], "found the views"),
        ("crop+flip", "found the views"),
        ([OTHER, OTHER], "found the views"),
        ([FIRST, OTHER, OTHER | {"seed": 6}], "several augmentations"),
        ([FIRST, FIRST], "no augmentation 'teacher-preprocessing'"),
        ([FIRST, OTHER | {"seed": -1}], "found seed -1"),
        ([FIRST, OTHER | {"seed": True}], "found seed True"),
        ([FIRST, OTHER | {"policy": ["x"]}], "found policy"),
        ([FIRST, OTHER | {"more": 1}], "in view 1"),
        ([FIRST, "x"], "in view 1"),
        ([FIRST, OTHER | {"policy": "none"}], "without an augmentation"),
    ],
)
def test_manifests_with_views_that_cannot_be_trusted(views_cache, views, message):
    raw = json.loads((views_cache / "manifest.json").read_text())
    raw["settings"]["views"] = views
    with pytest.raises(CacheError, match=message):
        CacheManifest.from_json(raw)


def test_a_manifest_that_claims_more_views_than_its_shards_hold(views_cache, tmp_path):
    folder = Path(shutil.copytree(views_cache, tmp_path / "cache"))
    raw = json.loads((folder / "manifest.json").read_text())
    raw["settings"]["views"].append(OTHER)
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(CacheError, match=r"'image' is float16 \(20, 3, 32\); expected float16 \(20, 4, 32\)"):
        open_cache(folder)


@pytest.mark.parametrize("views", [4, 5])
def test_a_row_shows_every_view_in_any_epochs_in_a_row(views) -> None:
    rows = np.arange(7, 2007)
    plan = BatchPlan(RowSet.only(rows), 100, 3, views=views)
    shown = np.array([plan.views_of(epoch, rows) for epoch in range(13)])
    for first in range(13 - views + 1):
        assert (np.sort(shown[first : first + views], axis=0) == np.arange(views)[:, None]).all()
    assert np.bincount(shown[0]).min() > 0.85 * 2000 / views, "rows start with views of their own"
    again = BatchPlan(RowSet.only(rows), 50, 3, views=views)
    assert np.array_equal(again.views_of(4, rows[::-1]), shown[4][::-1]), "a function of seed, epoch and row"
    assert not np.array_equal(BatchPlan(RowSet.only(rows), 100, 4, views=views).views_of(4, rows), shown[4])
    grid = rows[:200].reshape(2, 100)
    assert plan.views_of(4, grid).shape == grid.shape


def test_one_view_is_view_0_and_new_ones_never_return() -> None:
    rows = np.arange(200)
    assert not BatchPlan(RowSet.only(rows), 100, 3).views_of(9, rows).any()
    fresh = [BatchPlan(RowSet.only(rows), 100, 3, views=None).views_of(epoch, rows) for epoch in range(4)]
    assert [np.unique(views).tolist() for views in fresh] == [[1], [2], [3], [4]]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The demo's teacher, trained for real, with 48 scenes and 3 views of each in a cache."""
    folder = tmp_path_factory.mktemp("real")
    write_training_scenes(folder / "p.parquet", 48, seed=10_000)
    encoder = load_encoder(DEMO_TEACHER, device=CPU)
    pairs = open_pairs([DataSource(str(folder / "p.parquet"))])
    augmentation = Augmentation("randaugment", 1)
    build_cache(encoder, pairs, folder / "cache", shard_rows=20, views=3, augmentation=augmentation)
    return encoder, pairs, open_cache(folder / "cache")


def stream(real, *, views: int | None, mismatched=None, rank: int = 0, world: int = 1) -> BatchStream:
    encoder, pairs, store = real
    length = max_text_length(encoder.model)
    reader = BatchReader(
        pairs, encoder.image_processor, encoder.tokenizer, length, store, mismatched=mismatched
    )
    plan = BatchPlan(RowSet.all_of(48), 16, 0, views=views)
    return BatchStream(reader, plan, rank=rank, world=world, workers=0)


def epochs(batches: BatchStream, count: int) -> list:
    return [batch for batch, _ in zip(batches.from_step(0), range(3 * count), strict=False)]


def similarity_to_targets(real, batch) -> torch.Tensor:
    """Cosine (B,) of the teacher's embedding of what the student is shown, and the target that it is given."""
    shown = F.normalize(real[0].encode_pixels(batch.pixel_values))
    return (shown * batch.teacher.image).sum(dim=1)


def test_the_student_is_shown_the_view_that_its_target_was_made_from(real):
    matched = torch.cat([similarity_to_targets(real, batch) for batch in epochs(stream(real, views=3), 3)])
    assert len(matched) == 3 * 48
    assert matched.min() > 0.999
    policy = Augmentation("randaugment", 1)
    batches = epochs(stream(real, views=None, mismatched=policy), 3)
    mismatched = torch.cat([similarity_to_targets(real, batch) for batch in batches])
    assert mismatched.mean() < 0.9
    store = real[2]
    first = store.read(np.arange(48))
    for batch in batches:
        nearest = (batch.teacher.image @ first.image.T).max(dim=1).values
        assert nearest.min() > 0.999, "every target is that of the untouched image"
    assert not torch.equal(batches[0].pixel_values, batches[3].pixel_values)


def test_fewer_views_than_the_cache_holds_are_its_first(real):
    store = real[2]
    for batch in epochs(stream(real, views=2), 2):
        targets = batch.teacher.image
        near = [
            (targets @ store.read(np.arange(48), views=np.full(48, view)).image.T).max(dim=1).values
            for view in range(2)
        ]
        assert torch.stack(near).max(dim=0).values.min() > 0.999
        assert similarity_to_targets(real, batch).min() > 0.999


def test_views_follow_the_step_through_resume_and_processes(real):
    whole = epochs(stream(real, views=3), 2)
    resumed = next(iter(stream(real, views=3).from_step(4)))
    halves = [next(iter(stream(real, views=3, rank=rank, world=2).from_step(4))) for rank in (0, 1)]
    for name in ("pixel_values", "teacher_image"):
        assert torch.equal(getattr(resumed, name), getattr(whole[4], name))
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole[4], name))


@pytest.fixture(scope="module")
def workspace(tiny_clip: Path, pairs_parquet: Path, tmp_path_factory) -> Path:
    """A workspace with a cache of 3 views, by the default policy."""
    work = tmp_path_factory.mktemp("work")
    done = mmkd(
        *("cache-teacher", "--teacher", tiny_clip, "--data", pairs_parquet, "--work", work, "--views", "3")
    )
    assert done.returncode == 0, done.stderr
    assert (
        "view 0 is the untouched image; views 1 to 2: crop+flip, seed 0, since --augment names nothing else"
        in " ".join(done.stderr.split())
    )
    assert "96 rows of 3 views" in " ".join(done.stderr.split())
    assert read_manifest(work / "cache").settings.describe_views() == "3 (crop+flip, seed 0)"
    return work


@pytest.mark.parametrize(
    ("options", "said", "recorded"),
    [
        ([], "views 3 by turns, one each epoch (crop+flip, seed 0)", {"views": 3}),
        (["--views", "2"], "views 2 of the cache's 3 by turns, one each epoch", {"views": 2}),
        (
            ["--mismatched-augment", "randaugment", "--seed", "4"],
            "views mismatched: a new one each epoch of randaugment, seed 4, against the targets of the untouched",
            {"views": 1, "mismatched-augment": "randaugment"},
        ),
    ],
)
def test_training_says_and_records_its_views(workspace, tmp_path, options, said, recorded):
    out = tmp_path / "run"
    done = mmkd("train", "--work", workspace, *SMALL, "--out", out, "--epochs", "1", *options)
    assert done.returncode == 0, done.stderr
    assert said in " ".join(done.stderr.split())
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert recorded.items() <= config.items()
    assert json.loads((out / "run.json").read_text())["recipe"]["views"] == recorded["views"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (
            ["train", "--views", "4"],
            "--views 4 is more than the cache holds, 3; leave it out, or make them with `mmkd cache-teacher "
            "--views 4 --out NEW`",
        ),
        (["train", "--views", "0"], "--views 0 shows nothing"),
        (
            ["train", "--mismatched-augment", "flip"],
            "--mismatched-augment flip is unknown; expected one of crop+",
        ),
        (["train", "--mismatched-augment", "none"], "--mismatched-augment none is unknown"),
        (
            ["train", "--views", "2", "--mismatched-augment", "crop+flip"],
            "--mismatched-augment crop+flip holds every view against the target of view 0",
        ),
        (
            ["train", "--kd", "none", "--model-config", "c/config.json", "--views", "2"],
            "--views 2 needs the targets of a cache",
        ),
        (
            ["cache-teacher", "--views", "3", "--augment", "none"],
            "--views 3 --augment none would store the same image 3 times",
        ),
        (
            ["cache-teacher", "--augment", "crop+flip"],
            "--augment crop+flip has no view to work on: --views 1 is the untouched image alone",
        ),
        (["cache-teacher", "--augment-seed", "3"], "--augment-seed 3 has no view to work on"),
        (
            ["cache-teacher", "--views", "2", "--augment", "flip"],
            "there is no augmentation 'flip'; expected none, crop+flip, randaugment",
        ),
        (
            ["cache-teacher", "--views", "2"],
            "made with views 3 (crop+flip, seed 0) (here 2 (crop+flip, seed 0))",
        ),
    ],
)
def test_bad_input_is_one_line(workspace, tiny_clip, pairs_parquet, options, part):
    if options[0] == "cache-teacher":
        options = [*options, "--teacher", tiny_clip, "--data", pairs_parquet]
    done = mmkd(*options, "--work", workspace)
    assert done.returncode == 1, done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("mmkd: ")]
    assert len(error) == 1, done.stderr
    assert part in error[0]


def test_a_recipe_resolves_its_views() -> None:
    machine = {"pairs": 100, "processes": 1, "accelerated": False, "precision": "fp32"}
    assert Recipe().resolve(**machine).views == 1
    assert Recipe().resolve(**machine, views=5).views == 5
    assert Recipe(views=2).resolve(**machine, views=5).views == 2
    assert Recipe(mismatched_augment="crop+flip", seed=9).resolve(**machine, views=5).views == 1
    assert Recipe(mismatched_augment="crop+flip", seed=9).mismatched == Augmentation("crop+flip", 9)
    with pytest.raises(ConfigError, match="--views 6 is more than the cache holds, 5"):
        Recipe(views=6).resolve(**machine, views=5)
