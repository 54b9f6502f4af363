"""Retrieval by hand, against CLIP_benchmark's own functions, and as typed."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import mmkd
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from mmkd.errors import ConfigError
from mmkd.evaluation.captioned import builtin_captions, open_captioned
from mmkd.evaluation.resampling import quantiles, resample_median, resample_share
from mmkd.evaluation.retrieval import hit_chance, judge, median_chance, rank_pairs, shuffled_p
from mmkd.evaluation.statistics import unit_vectors

IMAGE, TEXT = "image to text", "text to image"

# Printed by clip_benchmark 1.6.2 (zeroshot_retrieval.recall_at_k, then > 0 and the mean) on `known(60)`:
#   for k in 1, 5, 10: image_retrieval_recall@k, text_retrieval_recall@k
RECORDED = {1: (0.288043469, 0.233333332), 5: (0.679347813, 0.683333337), 10: (0.842391312, 0.850000024)}


def known(images: int, *, noise: float = 2.0, seed: int = 0):
    """Images with 1 to 5 captions that lie somewhat near them."""
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), generator.integers(1, 6, images))
    image = generator.standard_normal((images, 16))
    text = image[owner] + noise * generator.standard_normal((len(owner), 16))
    return unit_vectors(image), unit_vectors(text), owner


def test_ranks_by_hand_any_caption_counts_and_ties_count_against() -> None:
    east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    # The second image's caption is the first's word for word; the first also has a hopeless one.
    ranks = rank_pairs([east, north], [east, west, east], np.array([0, 0, 1]))
    assert ranks.texts.tolist() == [1, 2]  # north is at a right angle to all three
    assert ranks.images.tolist() == [0, 1, 1]
    assert rank_pairs([east, north], [west, east, north], np.array([0, 0, 1])).texts.tolist() == [0, 0]


def test_ranks_are_the_same_in_any_chunks_and_equal_a_plain_loop() -> None:
    image, text, owner = known(40)
    whole, parts = rank_pairs(image, text, owner), rank_pairs(image, text, owner, cells=3 * len(text))
    cosines = image @ text.T
    texts = [int((row[owner != i] >= row[owner == i].max()).sum()) for i, row in enumerate(cosines)]
    images = [int((column >= column[own]).sum()) - 1 for own, column in zip(owner, cosines.T, strict=True)]
    assert whole.texts.tolist() == parts.texts.tolist() == texts
    assert whole.images.tolist() == parts.images.tolist() == images
    for k in (1, 5, 10):
        assert sorted(map(tuple, whole.found_texts[k])) == sorted(map(tuple, parts.found_texts[k]))
        assert sorted(map(tuple, whole.found_images[k])) == sorted(map(tuple, parts.found_images[k]))
        for found, rank in ((whole.found_texts, whole.texts), (whole.found_images, whole.images)):
            assert (found[k][:, 0] == found[k][:, 1]).sum() == (rank < k).sum()


def test_recall_equals_what_clip_benchmark_printed() -> None:
    model = judge(*known(60))
    for k, (image_retrieval, text_retrieval) in RECORDED.items():
        assert model.scores[f"{TEXT} R@{k}"].value == pytest.approx(image_retrieval, abs=1e-6)
        assert model.scores[f"{IMAGE} R@{k}"].value == pytest.approx(text_retrieval, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_recall_equals_clip_benchmark(seed: int) -> None:
    reference = pytest.importorskip(
        "clip_benchmark.metrics.zeroshot_retrieval", reason="clip_benchmark is absent"
    )
    image, text, owner = known(50, seed=seed)
    scores = torch.tensor(text @ image.T)
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.tensor(owner)] = True
    model = judge(image, text, owner)
    for k in (1, 5, 10):
        images = (reference.recall_at_k(scores, positive, k) > 0).float().mean().item()
        texts = (reference.recall_at_k(scores.T, positive.T, k) > 0).float().mean().item()
        assert model.scores[f"{TEXT} R@{k}"].value == pytest.approx(images, abs=1e-6)
        assert model.scores[f"{IMAGE} R@{k}"].value == pytest.approx(texts, abs=1e-6)


def test_chance_equals_all_orders_counted() -> None:
    orders = list(itertools.permutations(range(6)))
    for right in (1, 2, 3):
        best = np.array([min(order[:right]) for order in orders])
        for k in (1, 2, 4):
            assert hit_chance(np.array([right]), 6, k) == pytest.approx((best < k).mean())
        assert median_chance(np.array([right]), 6) == np.sort(best)[len(best) // 2 - 1] + 1
    assert hit_chance(np.array([1, 3]), 6, 2) == pytest.approx((2 / 6 + 1 - 3 * 2 / 30) / 2)


def test_a_constant_encoder_scores_zero_and_is_called_collapsed() -> None:
    owner = np.repeat(np.arange(30), 2)
    model = judge(unit_vectors(np.ones((30, 8))), unit_vectors(np.ones((60, 8))), owner)
    assert {score.value for score in model.scores.values()} == {0.0}
    assert all(score.at_chance for score in model.scores.values())
    assert model.medians[IMAGE].value == 59
    assert model.medians[TEXT].value == 30
    assert (model.collapsed or "").startswith("collapsed (effective rank 1.0")


def test_random_pairings_are_called_chance() -> None:
    called = {IMAGE: 0, TEXT: 0}
    for seed in range(20):
        generator = np.random.default_rng(seed)
        owner = np.repeat(np.arange(50), 3)
        image, text = generator.standard_normal((50, 16)), generator.standard_normal((150, 16))
        model = judge(unit_vectors(image), unit_vectors(text), owner, seed=seed)
        for way in called:
            called[way] += model.scores[f"{way} R@5"].at_chance
    assert min(called.values()) >= 19


def test_shuffled_p_by_hand() -> None:
    assert shuffled_p(np.array([[i, i] for i in range(12)]), 12) == 0.001
    # Two images: half of the pairings are the true one.
    assert shuffled_p(np.array([[0, 0], [1, 1]]), 2) == pytest.approx(0.5, abs=0.05)
    assert shuffled_p(np.array([[0, 1], [1, 0]]), 2) == 1.0


def test_draws_take_whole_images_and_one_seed_gives_the_same() -> None:
    cluster = np.repeat(np.arange(200), 5)
    apart = np.random.default_rng(0).random(1000) < 0.5
    together = np.repeat(apart[:200], 5)
    assert resample_share(apart, cluster, 200).std() == pytest.approx((0.25 / 1000) ** 0.5, rel=0.15)
    assert resample_share(together, cluster, 200).std() == pytest.approx((0.25 / 200) ** 0.5, rel=0.15)
    np.testing.assert_array_equal(
        resample_share(apart, cluster, 200, seed=3), resample_share(apart, cluster, 200, seed=3)
    )
    medians = resample_median(np.arange(1, 100), np.arange(99), 99)
    assert medians.mean() == pytest.approx(50, abs=1)
    assert 3 < medians.std() < 8


def png(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 24), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    features = Features({"image": ImageFeature(), "captions": List(Value("string"))})
    images = [{"bytes": png((9 * i, 255 - 9 * i, 40)), "path": None} for i in range(24)]
    captions = [[f"picture {i}", f"{i} a thing"] for i in range(24)]
    images[3]["bytes"], captions[5], captions[7] = b"no image", [], ["picture 8"]
    file = tmp_path / "photos.parquet"
    Dataset.from_dict({"image": images, "captions": captions}, features=features).to_parquet(str(file))
    return file


def test_the_command_writes_a_table_json_csv_and_a_figure(
    captioned: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    line = ["eval", "retrieval", "--work", tmp_path, "--model", tiny_clip, "--teacher", tiny_clip]
    assert mmkd(*line, "--data", captioned, "--out", out).returncode == 0
    printed = capsys.readouterr().out
    assert "image to text R@1" in printed
    assert "text to image median rank" in printed
    assert "photos: 1 images left out: no caption" in printed
    assert "2 of 43 captions are word for word another image's too" in printed
    written = json.loads(out.read_text())
    assert (written["schema"], written["schema_version"]) == ("mmkd.retrieval", 1)
    (one,) = written["sets"]
    assert (one["images"], one["captions"]) == (22, 43)
    # The same model twice: no difference, in any draw.
    assert one["models"]["student"]["beside"][f"{TEXT} R@1"]["difference"] == 0
    assert one["models"]["student"]["beside"][f"{TEXT} R@1"]["interval"] == {"low": 0, "high": 0}
    assert out.with_suffix(".csv").read_text().count("\n") == 13
    assert out.with_suffix(".png").stat().st_size > 10_000
    wrong = mmkd(*line, "--data", "flicker30k")
    assert wrong.returncode == 1
    assert "did you mean 'flickr30k'?" in wrong.stderr


def test_built_in_sets_name_all_that_the_hub_needs() -> None:
    known_sets = builtin_captions()
    assert set(known_sets) == {"coco", "flickr30k"}
    assert all(one.split == "test" and one.captions == 5 for one in known_sets.values())


def test_a_local_copy_under_a_builtin_name_takes_its_number_of_captions(captioned: Path) -> None:
    task = open_captioned(f"coco={captioned}")
    assert (task.name, task.captions, len(task.pairs)) == ("coco", 5, 24)
    with pytest.raises(ConfigError, match="no built-in captioned set 'cocoa'"):
        open_captioned(f"cocoa={captioned}")


def coverage_of_bootstrap(samples: int) -> float:
    """How often the interval of a share holds the true one, where an image's captions stand or fall together."""
    generator = np.random.default_rng(7)
    cluster = np.repeat(np.arange(200), 5)
    covered = 0
    for _ in range(samples):
        ease = generator.beta(
            1.2, 2.0, size=200
        )  # of an image; its captions are found each with this probability
        interval = quantiles(resample_share(generator.random(1_000) < ease[cluster], cluster, 200))
        covered += interval.low <= 1.2 / 3.2 <= interval.high
    return covered / samples


def test_the_bootstrap_covers_95_percent() -> None:
    assert coverage_of_bootstrap(120) == pytest.approx(0.95, abs=0.045)


@pytest.mark.full
def test_the_bootstrap_covers_94_to_96_percent() -> None:
    assert 0.94 <= coverage_of_bootstrap(4_000) <= 0.96
