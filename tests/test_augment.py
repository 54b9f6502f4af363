"""Views of an image: pure, really different, and made of the operations that the papers name."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mmkd import augment as augment_module
from mmkd.augment import MAX_SIDE, POLICIES, Augmentation, augment, choose_operations, crop_box
from mmkd.errors import ConfigError

AUGMENTING = POLICIES[1:]
DIGESTS = """
import hashlib, numpy as np
from PIL import Image
from mmkd.augment import augment
noise = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
for policy, row, view in [(p, r, v) for p in ("randaugment", "crop+flip") for r in (9, 2, 0) for v in (4, 1)]:
    pixels = augment(Image.fromarray(noise), policy, seed=11, row=row, view=view).tobytes()
    print(policy, row, view, hashlib.sha256(pixels).hexdigest())
"""


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def test_another_process_and_other_threads_make_the_same_views_in_any_order() -> None:
    said = subprocess.run([sys.executable, "-c", DIGESTS], check=True, capture_output=True, text=True).stdout
    expected = {tuple(line.split()[:3]): line.split()[3] for line in said.splitlines()}
    assert len(expected) == len(set(expected.values())) == 12
    image = noise()

    def view_of(key: tuple[str, ...]) -> str:
        return digest(augment(image, key[0], seed=11, row=int(key[1]), view=int(key[2])))

    keys = sorted(expected)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(view_of, keys)) == [expected[key] for key in keys]


def test_the_draws_are_those_that_caches_were_made_with() -> None:
    """A change here makes every cache with views wrong: give the policy a new name instead."""
    draws = [augment_module._Draws(7, 3, view) for view in (1, 2)]
    assert [crop_box(640, 480, draw) for draw in draws] == [(29, 65, 488, 451), (258, 42, 514, 325)]
    draws = [augment_module._Draws(7, 3, view) for view in (1, 2)]
    assert [choose_operations(draw) for draw in draws] == [
        [("color", -0.3), ("shear-y", -0.3)],
        [("solarize", 0.3), ("shear-y", 0.3)],
    ]


@pytest.mark.parametrize("policy", AUGMENTING)
def test_every_seed_row_and_view_is_another_picture(policy: str) -> None:
    image = noise()
    keys = [(seed, row, view) for seed in (0, 1) for row in (0, 1, 2**40) for view in (1, 2, 3)]
    views = [augment(image, policy, seed=seed, row=row, view=view) for seed, row, view in keys]
    assert len({digest(view) for view in views}) == len(keys)
    plain = np.asarray(image.resize(views[0].size), dtype=float)
    assert np.abs(np.asarray(views[0], dtype=float) - plain).mean() > 10
    assert image == noise(), "the image that was given has changed"


@pytest.mark.parametrize("policy", POLICIES)
def test_view_0_is_the_untouched_image(policy: str) -> None:
    image = noise()
    assert augment(image, policy, seed=0, row=5, view=0) is image
    assert augment(image, "none", seed=0, row=5, view=2) is image


@pytest.mark.parametrize("policy", AUGMENTING)
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 2), (64, 48), (3000, 2000)])
def test_a_view_is_a_square_of_a_sane_size(policy: str, size: tuple[int, int]) -> None:
    for view in range(1, 9):
        found = augment(Image.new("RGB", size, "red"), policy, seed=0, row=0, view=view)
        assert found.mode == "RGB"
        assert found.width == found.height
        assert 1 <= found.width <= min(MAX_SIDE, max(size))


def test_crops_are_as_large_as_said() -> None:
    for size, mean in (((300, 300), 0.48), ((400, 300), 0.43), ((450, 300), 0.39)):
        boxes = np.array([crop_box(*size, augment_module._Draws(0, row, 1)) for row in range(4000)])
        left, top, right, bottom = boxes.T
        assert min(left.min(), top.min()) == 0
        assert (right.max(), bottom.max()) == size
        shares = (right - left) * (bottom - top) / (size[0] * size[1])
        assert shares.mean() == pytest.approx(mean, abs=0.01)
        assert 0.079 < shares.min() < 0.09
        ratios = (right - left) / (bottom - top)
        assert ratios.min() == pytest.approx(3 / 4, abs=0.03)
        assert ratios.max() == pytest.approx(4 / 3, abs=0.03)


def test_what_no_crop_fits_is_cut_in_the_middle() -> None:
    draws = iter([1.0, 0.5] * 10)
    assert crop_box(900, 90, lambda: next(draws)) == (390, 0, 510, 90)


def redder_to_the_right(image: Image.Image) -> float:
    pixels = np.asarray(image, dtype=float)
    redness = (pixels[..., 0] - pixels[..., 2]).mean(axis=0)
    return float((redness * np.linspace(-1, 1, len(redness))).sum())


def test_crop_and_flip_mirrors_half_of_the_views_and_randaugment_none() -> None:
    ramp = np.zeros((40, 40, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 2] = np.linspace(100, 0, 40), np.linspace(0, 100, 40)
    turned = {
        policy: [
            redder_to_the_right(augment(Image.fromarray(ramp), policy, seed=0, row=row, view=1))
            for row in range(400)
        ]
        for policy in AUGMENTING
    }
    assert 0.42 < np.mean(np.array(turned["crop+flip"]) > 0) < 0.58
    # Equalizing and then solarizing turns a ramp of brightness over, too, but rarely.
    assert np.mean(np.array(turned["randaugment"]) < 0) > 0.95


SIDE = 100
SHIFT = 13  # 0.3 * 150/331 of 100


def ramp() -> np.ndarray:
    """Grey, from 50 at the left to 149 at the right."""
    return np.repeat(np.tile(np.arange(50, 150, dtype=np.uint8), (SIDE, 1))[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("name", "level", "here", "expected"),
    [
        ("identity", 0.3, (50, 20), 70),
        ("brightness", 0.3, (50, 50), 127),
        ("brightness", -0.3, (50, 50), 73),
        ("color", 0.3, (50, 50), 100),
        ("contrast", 0.3, (50, 0), 36.5),  # 100 + 1.27 * (50 - 100), around the mean of 100
        ("posterize", -0.3, (50, 51), 100),  # 7 bits: 101 loses its last
        ("solarize", -0.3, (50, 99), 149),  # below 178.5
        ("translate-x", 0.3, (50, 20), 70 + SHIFT),
        ("translate-x", 0.3, (50, 95), 128),
        ("translate-x", -0.3, (50, 50), 100 - SHIFT),
        ("translate-y", 0.3, (95, 20), 128),
        ("translate-y", -0.3, (50, 20), 70),
        ("shear-x", 0.3, (90, 20), 70 + 8),  # 0.09 of a pixel a row
        ("shear-y", 0.3, (99, 50), 128),
        ("rotate", 0.3, (0, 0), 128),
        ("autocontrast", 0.3, (50, 99), 255),
        ("equalize", 0.3, (50, 0), 0),
    ],
)
def test_operations_by_hand(name: str, level: float, here: tuple[int, int], expected: float) -> None:
    found = np.asarray(augment_module._OPERATIONS[name](Image.fromarray(ramp()), level))
    assert found.shape == (SIDE, SIDE, 3)
    assert found[here].tolist() == pytest.approx([expected] * 3, abs=1)


def test_bright_values_are_solarized_and_edges_sharpened() -> None:
    bright = Image.new("RGB", (4, 4), (200, 178, 179))
    assert augment_module._OPERATIONS["solarize"](bright, 0.3).getpixel((0, 0)) == (55, 178, 76)
    edge = np.where(np.arange(20)[None, :, None] < 10, 60, 180).repeat(20, 0).repeat(3, 2).astype(np.uint8)
    sharp = np.asarray(augment_module._OPERATIONS["sharpness"](Image.fromarray(edge), 0.3))
    assert sharp[10, 9, 0] < 60
    assert sharp[10, 10, 0] > 180


def test_all_fourteen_operations_are_drawn_equally_often_and_signed_evenly() -> None:
    drawn = [op for row in range(3000) for op in choose_operations(augment_module._Draws(0, row, 1))]
    names, counts = np.unique([name for name, _ in drawn], return_counts=True)
    assert len(names) == len(augment_module._OPERATIONS) == 14
    assert counts.min() > 0.85 * len(drawn) / 14
    assert counts.max() < 1.15 * len(drawn) / 14
    assert 0.47 < np.mean([level > 0 for _, level in drawn]) < 0.53


def test_an_augmentation_is_checked_when_it_is_made() -> None:
    image = noise()
    again = augment(image, "crop+flip", seed=4, row=2, view=3)
    assert Augmentation("crop+flip", 4)(image, row=2, view=3) == again
    with pytest.raises(ConfigError, match="no augmentation 'flip'; expected none, crop\\+flip, randaugment"):
        Augmentation("flip")
    with pytest.raises(ConfigError, match="seed of -1"):
        Augmentation("crop+flip", -1)
    with pytest.raises(ValueError, match="no augmentation"):
        augment(image, "flip", seed=0, row=0, view=1)
