"""A study without a model: what it calls more than luck, its order and words, halving, what may be tuned."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mmkd.errors import ConfigError
from mmkd.study.arms import Arm, with_baselines
from mmkd.study.comparison import Luck, difference, holm, luck_of_seeds, luck_of_seeds_and_images, luck_of_two
from mmkd.study.energy import EnergyMeter
from mmkd.study.halving import Rung, rungs, survivors
from mmkd.study.search_space import space_of


def test_two_arms_over_seeds_are_the_paired_t_test() -> None:
    scores = np.array([[0.50, 0.54, 0.49, 0.55], [0.45, 0.50, 0.47, 0.46]])
    luck = luck_of_seeds(scores)
    found = difference(scores[0].mean() - scores[1].mean(), luck, luck)
    other = stats.ttest_rel(*scores)
    assert found.p_value == pytest.approx(other.pvalue)
    interval = other.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    turned = found.turned()
    assert (turned.value, turned.interval.low) == (-found.value, -found.interval.high)
    with pytest.raises(ValueError, match="expected 2 axes"):
        luck_of_seeds(scores[:, :1])


def test_more_arms_over_seeds_are_blocks_by_hand() -> None:
    # 3 arms x 2 seeds: means by arm 2, 4, 9, by seed 4 and 6, of all 5; each cell is off by 1, 0, -1 or the reverse.
    scores = np.array([[2.0, 2.0], [3.0, 5.0], [7.0, 11.0]])
    luck = luck_of_seeds(scores)
    assert (luck.freedom, luck.variance) == (2, pytest.approx(2 * (4 * 1**2) / 2 / 2))
    assert luck.over(1).variance == pytest.approx(2 * luck.variance)


def test_crossed_by_hand() -> None:
    # Differences of 2 seeds x 3 images: [[1, 0, 0], [1, 1, 0]]; mean 1/2, by seed 1/3 and 2/3, by image 1, 1/2, 0.
    first = np.array([[1, 1, 0], [1, 1, 0]], bool)
    second = np.array([[0, 1, 0], [0, 0, 0]], bool)
    luck = luck_of_seeds_and_images(np.stack([first, second]))
    of_seeds = 3 * (2 * (1 / 6) ** 2) / 1  # 1/6
    of_images = 2 * (2 * (1 / 2) ** 2) / 2  # 1/2
    of_rest = (6 * 1 / 36 + 2 * 1 / 12) / 2  # [[1/6, -1/3, 1/6], [-1/6, 1/3, -1/6]]: 1/6
    whole = of_seeds + of_images - of_rest
    assert luck.freedom == pytest.approx(whole**2 / of_seeds**2)
    assert luck.freedom == pytest.approx(9)
    assert luck.variance == pytest.approx(whole / 6)
    found = difference(0.5, luck, luck)
    half = stats.t(9).ppf(0.975) * math.sqrt(whole / 6)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert found.p_value == pytest.approx(2 * stats.t(9).sf(0.5 / math.sqrt(whole / 6)))


def test_crossed_is_the_three_way_table_of_the_textbook() -> None:
    """Mean squares of the interactions, from plain sums over the cells."""
    answers = np.random.default_rng(0).random((3, 4, 20)) < 0.4
    table = answers.astype(float)
    grand = table.mean()
    _, seeds, images = table.shape
    squares = {"seeds": 0.0, "images": 0.0, "rest": 0.0}
    by = {axes: table.mean(axis=axes) for axes in [(1, 2), (0, 2), (0, 1), (2,), (1,), (0,)]}
    for k, s, n in np.ndindex(*table.shape):
        arm, seed, image = by[1, 2][k], by[0, 2][s], by[0, 1][n]
        with_seed = by[2,][k, s] - arm - seed + grand
        with_image = by[1,][k, n] - arm - image + grand
        both = by[0,][s, n] - seed - image + grand
        squares["seeds"] += with_seed**2
        squares["images"] += with_image**2
        squares["rest"] += (
            table[k, s, n] - arm - seed - image + 2 * grand - with_seed - with_image - both
        ) ** 2
    freedom = {"seeds": 2 * 3, "images": 2 * 19, "rest": 2 * 3 * 19}
    mean = {name: squares[name] / freedom[name] for name in squares}
    whole = mean["seeds"] + max(mean["images"] - mean["rest"], 0)
    luck = luck_of_seeds_and_images(answers)
    assert luck.variance == pytest.approx(2 * whole / (seeds * images))
    assert luck.freedom == pytest.approx(6 * whole**2 / mean["seeds"] ** 2)


def test_where_seeds_alone_vary_it_is_the_paired_t_test() -> None:
    # Every image goes the same way within a seed: nothing is added for the images.
    first = np.array([[True] * 50, [True] * 50, [False] * 50])
    luck = luck_of_seeds_and_images(np.stack([first, np.zeros_like(first)]))
    assert difference(2 / 3, luck, luck).p_value == pytest.approx(
        stats.ttest_rel([1, 1, 0], [0, 0, 0]).pvalue
    )
    assert luck.freedom == pytest.approx(2)


def test_where_seeds_agree_the_images_decide() -> None:
    # The same answers with each seed: what is left is the paired z-test over images.
    rng = np.random.default_rng(0)
    one, two = rng.random(400) < 0.5, rng.random(400) < 0.4
    luck = luck_of_seeds_and_images(np.stack([[one] * 3, [two] * 3]))
    apart = one.astype(float) - two.astype(float)
    assert math.isinf(luck.freedom)
    z = abs(apart.mean()) / (apart.std(ddof=1) / math.sqrt(400))
    assert difference(float(apart.mean()), luck, luck).p_value == pytest.approx(2 * stats.norm.sf(z))
    same = luck_of_seeds_and_images(np.stack([[one] * 3, [one] * 3]))
    assert difference(0.0, same, same).p_value == 1.0


def test_a_restless_pair_counts_its_own_luck() -> None:
    calm, restless = Luck(0.0001, 20, "seeds alone", 3), Luck(0.04, 2, "seeds alone", 3)
    assert difference(0.1, calm, calm).p_value < 0.001
    assert difference(0.1, calm, restless).p_value > 0.5


@pytest.mark.parametrize(
    ("seed_spread", "image_spread"),
    [([0.15] * 6, 0.0), ([0.0] * 6, 0.6), ([0.05] * 5 + [0.3], 0.3)],
    ids=["seeds", "images", "one restless arm"],
)
def test_arms_that_do_not_differ_are_seldom_told_apart(seed_spread: list[float], image_spread: float) -> None:
    rng = np.random.default_rng(1)
    wrong, studies, images = 0, 100, 150
    for _ in range(studies):
        hard = rng.normal(0, 1, images)  # images are hard or easy for all, and each arm has its own, too
        answers = np.stack(
            [
                rng.random((3, images))
                < 1 / (1 + np.exp(-(hard + rng.normal(0, image_spread, images) + rng.normal(0, one, (3, 1)))))
                for one in seed_spread
            ]
        )
        pooled, means = luck_of_seeds_and_images(answers), answers.mean(axis=(1, 2))
        p_values = [
            difference(means[i] - means[j], pooled, luck_of_seeds_and_images(answers[[i, j]])).p_value
            for i in range(6)
            for j in range(i)
        ]
        wrong += min(holm(p_values)) <= 0.05
    assert wrong / studies <= 0.08


@pytest.mark.parametrize("spread", [[1] * 14 + [6], [1] * 11 + [4] * 3], ids=["one of fifteen", "three"])
def test_restless_arms_that_do_not_differ_are_seldom_told_apart_by_seeds_alone(spread: list[int]) -> None:
    rng = np.random.default_rng(3)
    wrong, naive, studies, pairs = 0, 0, 200, list(zip(*np.triu_indices(len(spread), 1), strict=True))
    for _ in range(studies):
        scores = rng.normal(0, 1, (len(spread), 3)) * np.array(spread)[:, None] + rng.normal(0, 1, 3)
        pooled, means = luck_of_seeds(scores), scores.mean(axis=1)
        found = []
        for i, j in pairs:
            own = luck_of_two(scores, i, j)
            if (
                abs(means[i] - means[j]) > 3 * max(own.variance, pooled.variance) ** 0.5
            ):  # others are never told apart
                as_known = replace(own, freedom=pooled.freedom)
                found.append(
                    [difference(means[i] - means[j], pooled, one).p_value for one in (own, as_known)]
                )
        least = np.min(found, axis=0, initial=1.0) if found else (1.0, 1.0)
        wrong += least[0] <= 0.05 / len(pairs)
        naive += least[1] <= 0.05 / len(pairs)
    assert wrong / studies <= 0.06
    assert naive > wrong


def test_the_luck_of_two_is_the_pairs_where_there_are_no_others() -> None:
    scores = np.array([[0.50, 0.54, 0.49, 0.55], [0.45, 0.50, 0.47, 0.46]])
    assert luck_of_two(scores, 0, 1).variance == pytest.approx(luck_of_seeds(scores).variance)
    # By hand: cells of the first two arms are off by 1, 0 x 2 seeds, so their means' variances are 2 / (2/3) / 2 and 0.
    found = luck_of_two(np.array([[2.0, 2.0], [3.0, 5.0], [7.0, 11.0]]), 0, 1)
    assert (found.variance, found.freedom) == (pytest.approx(1.5), pytest.approx(1))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_picked_best_of_equal_arms_is_seldom_called_better() -> None:
    """The best is picked by the scores it is compared by; over all pairs the correction holds nevertheless."""
    rng = np.random.default_rng(2)
    wrong, naive, studies = 0, 0, 150
    for _ in range(studies):
        scores = rng.normal(0.5, 0.01, (8, 5))
        best = int(scores.mean(axis=1).argmax())
        pairs = [(i, j) for i in range(8) for j in range(i)]
        luck = luck_of_seeds(scores)
        p = {(i, j): difference(scores[i].mean() - scores[j].mean(), luck, luck).p_value for i, j in pairs}
        corrected = dict(zip(p, holm(list(p.values())), strict=True))
        with_best = [pair for pair in pairs if best in pair]
        wrong += any(corrected[pair] <= 0.05 for pair in with_best)
        naive += any(value <= 0.05 for value in holm([p[pair] for pair in with_best]))
    assert wrong / studies <= 0.07
    assert naive > wrong


@pytest.mark.parametrize(
    ("arms", "part"),
    [
        ({}, "the study has no arms"),
        ({"a": {"kd": "mse"}, "A": {"kd": "mse"}}, "arms 'a' and 'A' are trained alike"),
        (
            {"from scratch": {"kd": "mse"}},
            "two arms have the name 'from scratch'; that name is the baseline's",
        ),
        ({"a b": {"kd": "mse"}, "a-b": {"kd": "cos"}}, "two arms have the folder 'a-b'"),
        ({"a": {"kd": "mso"}}, "arm 'a': unknown loss 'mso'"),
        ({"a": {"epoch": 3}}, "unknown key 'epoch' in arm 'a'; did you mean 'epochs'?"),
        ({"a": {"seed": 3}}, "every arm is run with every seed"),
        ({"a": {"epochs": "many"}}, "arm 'a': 'epochs' is 'many'; expected a whole number"),
        ({"a": {"lr": True}}, "arm 'a': 'lr' is True; expected a number"),
        ({"a": {"lr": math.inf}}, "arm 'a': --lr inf is not finite"),
        ({"a": {"margin": math.nan}}, "arm 'a': --margin nan is not finite"),
        ({"a": {"weight_decay": -0.1}}, "arm 'a': --weight-decay -0.1 is below 0"),
        ({"a": {"limit": -3}}, "arm 'a': --limit -3 is not at least 1"),
        ({"a": {"kd": 3}}, "arm 'a': 'kd' is 3; expected a text"),
        ({"a": {"towers": "isolated"}}, "arm 'a': --towers isolated trains with no term"),
        ({"a": {"kd": "none", "task": "clip", "init": "random"}}, "('from scratch' is always there)"),
        ({"//": {"kd": "mse"}}, "has no letter or digit"),
    ],
)
def test_arms_that_cannot_be_used_are_refused(arms: dict, part: str) -> None:
    base = {"task": "triplet"}
    with pytest.raises(ConfigError) as error:
        with_baselines([Arm(name, {**base, **varied}) for name, varied in arms.items()], base)
    assert part in str(error.value)


def test_the_baselines_share_the_base() -> None:
    base = {"epochs": 4, "lr": 5e-4, "limit": 100, "kd": "mse", "bank": 64}
    *_, scratch, untrained = with_baselines([Arm("a", base)], base)
    assert (scratch.recipe.epochs, scratch.recipe.lr, scratch.recipe.limit) == (4, 5e-4, 100)
    assert (scratch.recipe.kd, scratch.recipe.task, scratch.recipe.init) == ("none", "clip", "random")
    assert scratch.recipe.bank == 0
    assert (untrained.recipe.init, untrained.seeds((3, 4))) == ("alternate", (3,))


def test_halving_by_hand() -> None:
    assert rungs(8, 12) == (Rung(3, 4), Rung(6, 2))
    assert rungs(3, 4) == (Rung(1, 2), Rung(2, 1))
    assert survivors([0.1, 0.3, 0.2, 0.3], 2) == [1, 3]
    assert survivors([0.3, 0.2, 0.2, 0.1], 2) == [0, 1, 2]  # as good as the last that is kept
    with pytest.raises(ConfigError, match="the study has 2 arms; expected 3"):
        rungs(2, 12)
    with pytest.raises(ConfigError, match="begins with a quarter of the epochs, and these are 3"):
        rungs(8, 3)


def test_what_may_be_tuned_of_an_arm() -> None:
    space = space_of(Arm("a", {"kd": "mse + 2*kl@0.1", "task": "triplet", "lr": 1e-3}))
    assert space.factors == {"lr": 5.0, "mse weight": 10.0, "kl weight": 10.0, "kl temperature": 4.0}
    drawn = {"lr": 2.0, "mse weight": 0.5, "kl weight": 3.0, "kl temperature": 2.0}
    assert space.settings(drawn) == {"lr": 2e-3, "kd": "1000*mse + 6*kl@0.2"}
    # The first loss of all is what the others are weighed against.
    alone = space_of(Arm("a", {"kd": "mse + cos", "task": "none"}))
    assert alone.factors == {"lr": 5.0, "cos weight": 10.0}
    scratch = space_of(Arm("a", {"kd": "none", "task": "clip"}))
    assert scratch.settings(scratch.start) == {"lr": 1e-3}


def test_energy_is_what_the_packages_counted(tmp_path: Path) -> None:
    for name, label, first in (("intel-rapl:0", "package-0", 9_000_000), ("intel-rapl:0:0", "core", 1)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "name").write_text(f"{label}\n")
        (folder / "energy_uj").write_text(f"{first}\n")
        (folder / "max_energy_range_uj").write_text("10000000\n")
    meter = EnergyMeter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("2000000\n")  # past its range, from 0 again
    assert meter.joules() == pytest.approx(3.0)
    assert EnergyMeter(tmp_path / "nowhere").joules() is None
