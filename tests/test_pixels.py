"""Stored pixels: the model's input comes out of them to the bit, and no image is decoded in training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, mmkd
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from test_cache_build import SIZES, contents, mixed  # noqa: F401 (a fixture)
from test_cache_verify import change, checks
from transformers import CLIPImageProcessorPil

from mmkd import batches as batches_module
from mmkd import pixels as pixels_module
from mmkd.cache.build import build_cache, cache_settings
from mmkd.cache.exporting import export_cache
from mmkd.cache.manifest import CacheManifest, read_manifest
from mmkd.cache.reencode import reencode
from mmkd.cache.repair import repair_cache
from mmkd.cache.rows import RowReader
from mmkd.cache.shard import shard_bytes
from mmkd.cache.store import open_cache
from mmkd.cache.verify import verify_cache
from mmkd.data import DataSource, open_pairs
from mmkd.errors import CacheError, ConfigError, StaleCacheError
from mmkd.images import decode_image
from mmkd.pixels import normalise_pixels, pixel_levels, pixel_side, prepare_images, resize_images


@pytest.fixture(scope="module")
def pixels_cache(tiny_encoder, tiny_pairs, tmp_path_factory) -> Path:
    """``tiny_cache`` with the pixels beside the vectors."""
    folder = tmp_path_factory.mktemp("pixels") / "cache"
    build_cache(tiny_encoder, tiny_pairs, folder, **SIZES, store_pixels=True)
    return folder


def from_stored(image_processor, images) -> torch.Tensor:
    stored = torch.from_numpy(resize_images(image_processor, images)).permute(0, 3, 1, 2)
    return normalise_pixels(stored, pixel_levels(image_processor))


@pytest.mark.parametrize("size", [(1, 1), (500, 375), (375, 500), (224, 224), (300, 7), (225, 1024)])
def test_a_models_input_comes_out_of_stored_pixels_to_the_bit(size):
    image_processor = CLIPImageProcessorPil()
    draw = np.random.default_rng(size)
    image = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = image_processor(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(from_stored(image_processor, [image]), expected)
    assert pixel_side(image_processor) == 224


def test_openais_own_tensors_come_out_of_stored_pixels(shared_data):
    image_processor = CLIPImageProcessorPil()
    files = sorted((shared_data / "clip-preprocess-golden").glob("*.jpg"))
    assert files
    for file in files:
        with np.load(file.with_suffix(".npz")) as golden:
            expected = golden["pixel_values"]
        found = from_stored(image_processor, [decode_image(file.read_bytes())])[0].numpy()
        assert np.abs(found - expected).max() <= 1e-6


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"do_center_crop": False}, r"\(224, 224, 3\), \(224, 268, 3\)"),
        ({"do_resize": False, "crop_size": 8}, None),
    ],
)
def test_preprocessing_that_makes_no_squares_is_refused(options, found):
    image_processor = CLIPImageProcessorPil(**options)
    if found is None:
        assert pixel_side(image_processor) == 8
        return
    with pytest.raises(ConfigError, match=f"squares of one size, at most 4096 a side.*{found}"):
        pixel_side(image_processor)


def test_the_cache_holds_the_resized_images_beside_the_same_vectors(
    pixels_cache, tiny_cache, tiny_encoder, tiny_pairs
):
    store, plain = open_cache(pixels_cache), open_cache(tiny_cache)
    assert (store.pixels, plain.pixels) == (32, None)
    for index in range(5):
        here, there = store.shard(index), plain.shard(index)
        assert here.keys() - there.keys() == {"pixels"}
        assert all(here[name].tobytes() == there[name].tobytes() for name in there)
        assert shard_bytes(store.manifest.settings, index) == store.manifest.shards[index].bytes
        assert shard_bytes(plain.manifest.settings, index) == plain.manifest.shards[index].bytes
    rows = np.array([95, 3, 40, 3, 19, 20])
    images = [decode_image(tiny_pairs[row].image) for row in rows.tolist()]
    found = store.read_pixels(rows)
    assert found.dtype == np.uint8
    assert np.array_equal(found, resize_images(tiny_encoder.image_processor, images))
    for wrong in ([96], [-1]):
        with pytest.raises(IndexError):
            store.read_pixels(np.array(wrong))
    with pytest.raises(ConfigError, match="holds no pixels; make it again with --store-pixels"):
        plain.read_pixels(rows)


def test_masked_rows_have_black_pixels(mixed, tiny_encoder, tmp_path):  # noqa: F811
    pairs = open_pairs([DataSource(str(mixed))])
    build_cache(tiny_encoder, pairs, tmp_path / "c", **SIZES, store_pixels=True, max_bad=0.1)
    store = open_cache(tmp_path / "c")
    masked = store.usable.listed
    assert masked.tolist() == [1, 2, 3]
    assert not store.read_pixels(masked).any()
    assert store.read_pixels(store.usable.to_array()).any(axis=(1, 2, 3)).all()
    assert verify_cache(tmp_path / "c").ok

    def paint(file) -> None:
        file["pixels"][2, 5, 5, 1] = 1

    change(tmp_path / "c", 0, paint)
    (finding,) = verify_cache(tmp_path / "c").findings
    assert (finding.check, finding.rows) == ("pixels masked", (2,))


@pytest.fixture(scope="module")
def captions_only(tiny_pairs, tmp_path_factory) -> Path:
    """The captions of ``pairs_parquet`` without its images."""
    path = tmp_path_factory.mktemp("captions") / "captions.parquet"
    Dataset.from_dict({"caption": [tiny_pairs[row].captions[0] for row in range(96)]}).to_parquet(str(path))
    return path


def test_training_decodes_nothing_and_makes_the_same_student(
    pixels_cache, tiny_cache, captions_only, tmp_path, monkeypatch
):
    work, steps = tmp_path / "work", [*SMALL, "--task", "triplet + 0.1*clip", "--refresh-every", "1"]
    plain = ("train", "--cache", tiny_cache, "--work", work, *steps, "--out", tmp_path / "decoded")
    assert (done := mmkd(*plain)).returncode == 0, done.stderr

    def refuse(data: bytes, **_):
        raise AssertionError(f"an image of {len(data)} bytes was decoded")

    monkeypatch.setattr(batches_module, "decode_image", refuse)
    stored = ("train", "--cache", pixels_cache, "--data", captions_only, "--work", work, *steps)
    done = mmkd(*stored, "--out", tmp_path / "stored")
    assert done.returncode == 0, done.stderr
    assert "pixels 32 x 32 in the cache: no image is decoded" in " ".join(done.stderr.split())
    one, other = (load_file(tmp_path / run / "student/model.safetensors") for run in ("decoded", "stored"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    done = mmkd(*stored, "--accumulate", "2", "--epochs", "1", "--out", tmp_path / "parts")
    assert done.returncode == 0, done.stderr
    views = mmkd(
        "train", "--cache", pixels_cache, "--work", work, *SMALL, "--mismatched-augment", "crop+flip"
    )
    assert "unused, since views of the images are shown" in " ".join(views.stderr.split())
    assert "was decoded" in views.stderr, "views are made from the images themselves"


def test_other_captions_are_still_refused(pixels_cache, tiny_pairs, captions_only, tmp_path):
    captions = [tiny_pairs[row].captions[0] for row in range(96)]
    captions[47] = "another"
    Dataset.from_dict({"caption": captions}).to_parquet(str(tmp_path / "other.parquet"))
    command = (
        "train",
        "--cache",
        pixels_cache,
        "--data",
        tmp_path / "other.parquet",
        "--work",
        tmp_path,
        *SMALL,
    )
    done = mmkd(*command)
    assert (done.returncode, "1 of 96 rows looked at differ, the first of them row 47" in done.stderr) == (
        1,
        True,
    )


def test_a_flipped_bit_of_a_picture_is_noticed_and_mended(pixels_cache, tiny_encoder, tiny_pairs, tmp_path):
    folder = Path(shutil.copytree(pixels_cache, tmp_path / "cache"))

    def flip(file) -> None:
        file["pixels"][3, 0, 0, 0] ^= 1

    change(folder, 2, flip, mend=False)
    with pytest.raises(CacheError, match=r"shard-00002\.h5 is damaged"):
        open_cache(folder)
    report = verify_cache(folder)
    assert checks(report) == {("hash", "shard-00002.h5")}
    repair_cache(report, lambda _: (tiny_encoder, tiny_pairs))
    assert contents(folder) == contents(pixels_cache)


def test_pixels_of_another_picture_are_found_by_embedding_again(
    pixels_cache, tiny_encoder, tiny_pairs, tmp_path
):
    folder = Path(shutil.copytree(pixels_cache, tmp_path / "cache"))

    def swap(file) -> None:
        file["pixels"][4] = file["pixels"][5]

    change(folder, 1, swap)
    report = verify_cache(folder)
    assert report.ok, "a picture says nothing of which row it is of"
    reader = RowReader(folder, report.settings, report.whole)
    (finding,) = reencode(reader, tiny_encoder, tiny_pairs, rows=96).findings
    assert (finding.check, finding.rows) == ("reencode pixels", (24,))


def test_pixels_are_part_of_what_a_cache_was_asked_for(pixels_cache, tiny_cache, tiny_encoder, tiny_pairs):
    for folder, wanted, words in (
        (pixels_cache, False, r"made with pixels 32 x 32 \(here none\)"),
        (tiny_cache, True, r"made with pixels none \(here 32 x 32\)"),
    ):
        with pytest.raises(StaleCacheError, match=words):
            build_cache(tiny_encoder, tiny_pairs, folder, **SIZES, store_pixels=wanted)
    assert cache_settings(tiny_encoder, tiny_pairs, store_pixels=True).shard_rows == 2_048
    assert "pixels" not in json.loads((tiny_cache / "manifest.json").read_text())["settings"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pixels": 0}, "found pixels 0"),
        ({"pixels": True}, "found pixels True"),
        ({"pixels": None}, "found pixels None"),
        ({"pixels": 4097}, "found pixels 4097"),
        (
            {"views": [{"policy": "teacher-preprocessing", "seed": 0}, {"policy": "crop+flip", "seed": 0}]},
            "pixels beside several views",
        ),
    ],
)
def test_manifests_with_pixels_that_cannot_be_trusted(pixels_cache, settings, message):
    raw = json.loads((pixels_cache / "manifest.json").read_text())
    assert CacheManifest.from_json(raw) == read_manifest(pixels_cache)
    raw["settings"] |= settings
    with pytest.raises(CacheError, match=message):
        CacheManifest.from_json(raw)


def test_inspected_and_exported(pixels_cache, tiny_pairs, tmp_path, capsys):
    assert mmkd("cache", "inspect", pixels_cache, "--work", tmp_path).returncode == 0
    assert "32 x 32, of the untouched images" in capsys.readouterr().out
    assert export_cache(open_cache(pixels_cache), tiny_pairs, tmp_path / "exported") == 96


def test_the_command_says_the_size_and_refuses_views(tiny_clip, pairs_parquet, tmp_path):
    command = ("cache-teacher", "--teacher", tiny_clip, "--data", pairs_parquet, "--store-pixels")
    done = mmkd(*command, "--work", tmp_path / "work")
    said = " ".join(done.stderr.split())
    assert done.returncode == 0, done.stderr
    assert "96 rows · pixels 32 x 32 · 0.4 MB" in said
    assert read_manifest(tmp_path / "work/cache").settings.pixels == 32
    refused = mmkd(*command, "--views", "2", "--work", tmp_path / "other")
    assert refused.returncode == 1
    assert "--store-pixels keeps the untouched images alone, and --views 2 shows others" in refused.stderr


@pytest.mark.parametrize("size", [(1, 1), (500, 375), (375, 500), (224, 224), (300, 7), (225, 1024), (1, 40)])
@pytest.mark.parametrize("options", [{}, {"resample": 2}, {"size": {"shortest_edge": 32}, "crop_size": 32}])
def test_pillow_alone_prepares_images_as_the_processor_does(size, options):
    image_processor = CLIPImageProcessorPil(**options)
    draw = np.random.default_rng(size)
    images = [Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(2)]
    assert pixels_module._quick_resize(image_processor, image_processor.to_json_string()) is not None
    found = prepare_images(image_processor, images)
    assert torch.equal(found, image_processor(images=images, return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize(
    "options",
    [
        {"do_center_crop": False},
        {"do_resize": False, "crop_size": 8},
        {"crop_size": 200},
        {"size": {"height": 224, "width": 224}},
    ],
)
def test_what_pillow_alone_cannot_do_is_left_to_the_processor(options):
    image_processor = CLIPImageProcessorPil(**options)
    assert pixels_module._quick_resize(image_processor, image_processor.to_json_string()) is None
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    expected = image_processor(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(prepare_images(image_processor, [image]), expected)


def test_a_processor_that_rounds_otherwise_is_not_taken_for_pillow():
    class Brighter(CLIPImageProcessorPil):
        def resize(self, image, *args, **kwargs):
            return super().resize(image, *args, **kwargs) // 2

    image_processor = Brighter()
    assert pixels_module._quick_resize(image_processor, image_processor.to_json_string()) is None


def test_images_that_are_not_rgb_are_the_processors(tiny_encoder):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50), dtype=np.uint8))
    expected = tiny_encoder.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(tiny_encoder.preprocess([image]), expected)
