"""JPEGs decoded at a fraction of their size: near to the same picture, and never without its being said."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from command_line import SMALL, mmkd
from conftest import save_pairs
from PIL import Image, ImageCms
from test_cache_build import SIZES

from mmkd.augment import Augmentation
from mmkd.batches import BatchReader
from mmkd.cache.build import build_cache, cache_settings
from mmkd.cache.reencode import reencode
from mmkd.cache.rows import RowReader
from mmkd.cache.settings import CacheSettings
from mmkd.cache.store import open_cache
from mmkd.data import DataSource, open_pairs
from mmkd.encoders import load_encoder, max_text_length
from mmkd.errors import CacheError, ConfigError, StaleCacheError
from mmkd.images import decode_image
from mmkd.pixels import resize_images
from mmkd.row_set import RowSet
from mmkd.sampling import BatchPlan, StepRows


def photo(size=(320, 240), *, seed=0) -> Image.Image:
    """Smooth patches with some noise: what DCT scaling and resampling agree on, and what they do not."""
    draw = np.random.default_rng(seed)
    patches = Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(patches, np.int16) + draw.normal(0, 6, (*size[::-1], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((1024, 768), 336, (512, 384)),
        ((1024, 768), 224, (512, 384)),  # a quarter would leave 192
        ((768, 1024), 190, (192, 256)),
        ((2690, 3000), 336, (337, 375)),  # 1/8, rounded up
        ((500, 375), 336, (500, 375)),
        ((100, 75), 336, (100, 75)),
        ((5000, 100), 48, (2500, 50)),  # the shorter side counts
        ((65, 33), 33, (65, 33)),
    ],
)
def test_the_shorter_side_keeps_what_was_asked_for(size, side, expected):
    data = encoded(Image.new("RGB", size))
    assert decode_image(data, jpeg_side=side).size == expected
    assert decode_image(data).size == size


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_decoded_in_full(form):
    data = encoded(photo(), form)
    assert np.array_equal(decode_image(data, jpeg_side=10), decode_image(data))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_colours_are_those_of_the_whole_image(mode, options):
    data = encoded(photo().convert(mode), **options)
    small, full = decode_image(data, jpeg_side=60), decode_image(data)
    assert (small.mode, small.size) == ("RGB", (80, 60))
    averaged = np.asarray(full.resize(small.size, Image.Resampling.BOX), np.int16)
    assert np.abs(np.asarray(small, np.int16) - averaged).mean() < 2


def test_orientation_and_profile_are_left_alone_as_in_full():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(photo(), exif=exif, icc_profile=profile)
    assert decode_image(data, jpeg_side=120).size == (160, 120)
    averaged = np.asarray(decode_image(data).resize((160, 120), Image.Resampling.BOX), np.int16)
    assert np.abs(np.asarray(decode_image(data, jpeg_side=120), np.int16) - averaged).mean() < 2


def test_the_teacher_sees_nearly_the_same(shared_data):
    """Real photos, blown up to 640 pixels, and a trained teacher of 32 x 32: a margin as a cache has it."""
    encoder = load_encoder(shared_data / "teachers/photos-32", device=torch.device("cpu"))
    files = sorted((shared_data / "clip-preprocess-golden").glob("*.jpg"))
    large = [
        encoded(decode_image(f.read_bytes()).resize((640, 480), Image.Resampling.BICUBIC)) for f in files
    ]
    images = [[decode_image(data, jpeg_side=side) for data in large] for side in (None, 48)]
    assert images[1][0].size == (80, 60)
    vectors = [torch.nn.functional.normalize(encoder.encode_images(part)) for part in images]
    assert (vectors[0] * vectors[1]).sum(dim=1).min() > 0.999


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """24 JPEGs of 320 x 240 with captions."""
    folder = tmp_path_factory.mktemp("jpegs")
    images = [encoded(photo(seed=number)) for number in range(24)]
    path = save_pairs(folder / "jpegs.parquet", images, [f"picture {number}" for number in range(24)])
    return open_pairs([DataSource(str(path))])


@pytest.fixture(scope="module")
def scaled_cache(tiny_encoder, jpegs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches") / "cache"
    build_cache(tiny_encoder, jpegs, folder, **SIZES, scaled_jpeg=True)
    return folder


def test_a_cache_says_so_and_its_vectors_are_those_of_scaled_images(scaled_cache, tiny_encoder, jpegs):
    store = open_cache(scaled_cache)
    assert store.jpeg_side == 48, "one and a half times 32"
    assert json.loads((scaled_cache / "manifest.json").read_text())["settings"]["jpeg_side"] == 48
    images = [decode_image(jpegs[row].image, jpeg_side=48) for row in range(8)]
    expected = torch.nn.functional.normalize(tiny_encoder.encode_images(images))
    found = store.read(np.arange(8)).image
    assert torch.allclose(found, expected, atol=1e-3)
    full = [decode_image(jpegs[row].image) for row in range(8)]
    assert not torch.allclose(
        found, torch.nn.functional.normalize(tiny_encoder.encode_images(full)), atol=1e-3
    )
    settings = store.manifest.settings
    whole = dict(enumerate(store.manifest.shards))
    assert not reencode(RowReader(scaled_cache, settings, whole), tiny_encoder, jpegs, rows=24).findings


def test_training_shows_the_student_what_the_teacher_saw(scaled_cache, tiny_encoder, jpegs):
    store = open_cache(scaled_cache, verify=False)
    reader = BatchReader(
        jpegs,
        tiny_encoder.image_processor,
        tiny_encoder.tokenizer,
        max_text_length(tiny_encoder.model),
        store,
    )
    plan = BatchPlan(RowSet.all_of(24), 8, 0)
    rows, draws = next(plan.batches(0))
    step = StepRows(rows, draws, np.zeros(0, np.int64), np.zeros(8, np.int64))
    found = reader.__getitems__(step).pixel_values
    images = [decode_image(jpegs[row].image, jpeg_side=48) for row in rows.tolist()]
    assert torch.equal(found, tiny_encoder.preprocess(images))


def test_a_cache_of_full_images_is_not_gone_on_with(scaled_cache, tiny_encoder, jpegs, tmp_path):
    folder = shutil.copytree(scaled_cache, tmp_path / "cache")
    with pytest.raises(StaleCacheError, match="JPEGs decoded at a shorter side of 48 or more"):
        build_cache(tiny_encoder, jpegs, folder, **SIZES)


def test_not_with_several_views(tiny_encoder, jpegs):
    with pytest.raises(ConfigError, match="--scaled-jpeg is for untouched images"):
        cache_settings(tiny_encoder, jpegs, views=2, augmentation=Augmentation("crop+flip"), scaled_jpeg=True)


@pytest.mark.parametrize("value", [0, True, None, "48", 10_000])
def test_a_manifest_that_lies_is_refused(scaled_cache, value):
    said = json.loads((scaled_cache / "manifest.json").read_text())["settings"]
    assert CacheSettings.from_json(said).jpeg_side == 48
    with pytest.raises(CacheError, match="jpeg_side"):
        CacheSettings.from_json(said | {"jpeg_side": value})


def test_pixels_are_stored_as_they_were_decoded(tiny_encoder, jpegs, tmp_path):
    build_cache(tiny_encoder, jpegs, tmp_path / "cache", **SIZES, scaled_jpeg=True, store_pixels=True)
    images = [decode_image(jpegs[row].image, jpeg_side=48) for row in range(24)]
    found = open_cache(tmp_path / "cache").read_pixels(np.arange(24))
    assert np.array_equal(found, resize_images(tiny_encoder.image_processor, images))


def test_from_the_command_line(tiny_clip, jpegs, tmp_path, capsys):
    data, out = jpegs.sources[0].spec, tmp_path / "cache"
    done = mmkd("cache-teacher", "--teacher", tiny_clip, "--data", data, "--out", out, "--scaled-jpeg")
    assert done.returncode == 0, done.stderr
    assert "JPEGs at a shorter side of 48 or more" in " ".join(done.stderr.split())
    assert mmkd("cache", "inspect", out, "--work", tmp_path).returncode == 0
    assert "decoded at a shorter side of 48 or more" in capsys.readouterr().out
    done = mmkd(
        "train", "--cache", out, "--out", tmp_path / "run", *SMALL, "--epochs", "1", "--negatives", "random"
    )
    assert done.returncode == 0, done.stderr
