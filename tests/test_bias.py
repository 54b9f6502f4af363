"""Gaps, correlations and controls on plain arrays: values by hand, SciPy, the word2vec oracle, and laws."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mmkd.evaluation.bias.correlations import correlate
from mmkd.evaluation.bias.gaps import (
    TermCosines,
    difference_p,
    exchange_p,
    measure_gaps,
    term_cosines,
)
from mmkd.evaluation.bias.knowledge import direction_test, knowledge_score, separation_test

FEMALE = ("female", "woman", "girl", "sister", "she", "her", "hers", "daughter")
MALE = ("male", "man", "boy", "brother", "he", "him", "his", "son")


def gaps_of(targets, first, second) -> np.ndarray:
    """What the probe takes for the targets' gaps; no neutral nouns."""
    terms = np.concatenate([np.asarray(first, dtype=float), np.asarray(second, dtype=float)], axis=-2)
    cosines = term_cosines(targets, terms)
    return TermCosines(cosines, cosines[:, :0], np.shape(first)[-2], False).gaps


def test_gap_by_hand() -> None:
    # Along the female axis, along the male axis, and half-way: cosines 1, 0 and 0.7071 to each.
    targets = [[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]]
    assert gaps_of(targets, [[1.0, 0.0]], [[0.0, 5.0]]) == pytest.approx([1, -1, 0])
    # A second female term at 45 degrees: mean cosine (1 + 0.7071) / 2 of the first target.
    assert gaps_of(targets[:1], [[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0]]) == pytest.approx([0.853553])


def test_gap_laws() -> None:
    generator = np.random.default_rng(0)
    targets, female, male = (generator.normal(size=(3, n, 6)) for n in (5, 4, 4))
    gap = gaps_of(targets, female, male)
    rotation, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    assert gaps_of(targets, male, female) == pytest.approx(-gap)
    assert gaps_of(targets, female, female) == pytest.approx(np.zeros(5))
    assert gaps_of(7 * targets @ rotation, female @ rotation, male @ rotation) == pytest.approx(gap)
    assert gaps_of(targets, female[:, ::-1], male) == pytest.approx(gap)
    by_template = [gaps_of(*one) for one in zip(targets, female, male, strict=True)]
    assert gap == pytest.approx(np.mean(by_template, axis=0))
    assert term_cosines(targets, female).shape == (3, 5, 4)
    with pytest.raises(ValueError, match="zero or not finite"):
        gaps_of(np.zeros((2, 3)), np.ones((1, 3)), np.ones((1, 3)))


def made(seed: int, *, paired: bool, targets: int = 6, lean: float = 0.0) -> TermCosines:
    """Cosines of noise with 8 + 8 terms in 3 templates; ``lean`` is added to the first attribute's for all targets."""
    draw = np.random.default_rng(seed)
    own, controls = 0.1 * draw.normal(size=(3, targets, 16)), 0.1 * draw.normal(size=(3, 12, 16))
    own[:, :, :8] += lean
    return TermCosines(own, controls, 8, paired)


def test_gaps_are_in_units_of_the_neutral_nouns() -> None:
    cosines = made(0, paired=True)
    found = measure_gaps(cosines)
    raw = cosines.targets.mean(axis=0)[:, :8].mean(axis=1) - cosines.targets.mean(axis=0)[:, 8:].mean(axis=1)
    neutral = cosines.controls.mean(axis=0)[:, :8].mean(axis=1) - cosines.controls.mean(axis=0)[:, 8:].mean(
        axis=1
    )
    assert found.raw == pytest.approx(raw)
    assert found.value == pytest.approx((raw - neutral.mean()) / neutral.std(ddof=1))
    assert (found.low < found.value).all()
    assert (found.value < found.high).all()
    scaled = measure_gaps(TermCosines(0.1 * cosines.targets, 0.1 * cosines.controls, 8, True))
    assert scaled.value == pytest.approx(found.value)
    few = measure_gaps(TermCosines(cosines.targets, cosines.controls[:, :4], 8, True))
    assert not few.standardised
    assert few.value == pytest.approx(raw)


def test_gap_intervals_cover_the_truth() -> None:
    """Templates and terms are drawn anew from a population whose gap is known."""
    covered = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        terms = np.repeat([0.3, 0.0], 12) + 0.2 * draw.normal(size=24)
        cosines = terms + 0.1 * draw.normal(size=(12, 1, 1)) + 0.05 * draw.normal(size=(12, 1, 24))
        controls = 0.05 * draw.normal(size=(1, 40, 1)) * np.repeat([1.0, -1.0], 12) + np.zeros((12, 1, 1))
        one = TermCosines(cosines, controls, 12, False)
        spread = one.control_gaps.std(ddof=1)
        truth = (0.3 - one.control_gaps.mean()) / spread
        found = measure_gaps(one, draws=300, seed=seed)
        covered += found.low[0] <= truth <= found.high[0]
    assert 88 <= covered <= 99


@pytest.mark.parametrize("paired", [True, False])
def test_p_of_a_gap_is_scipys(paired: bool) -> None:
    values = np.random.default_rng(1).normal(size=(3, 12)) + np.repeat([0.8, 0.0], 6)
    found, exact = exchange_p(values, 6, paired=paired)
    assert exact
    for row, p in zip(values, found, strict=True):
        one, other = row[:6], row[6:]
        if paired:
            expected = stats.permutation_test(
                (one - other,), np.mean, permutation_type="samples", n_resamples=np.inf
            )
        else:
            expected = stats.permutation_test(
                (one, other), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf
            )
        assert p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("paired", [True, False])
def test_p_is_uniform_where_nothing_leans_and_small_where_something_does(paired: bool) -> None:
    null = measure_gaps(made(2, paired=paired, targets=400), draws=10)
    assert 0.02 <= (null.p_value <= 0.05).mean() <= 0.09
    assert (null.q_value <= 0.05).mean() <= 0.02
    assert null.q_value == pytest.approx(stats.false_discovery_control(null.p_value))
    leaning = measure_gaps(made(2, paired=paired, targets=400, lean=0.15), draws=10)
    assert (leaning.q_value <= 0.05).mean() > 0.5


def test_difference_of_two_models() -> None:
    one = made(3, paired=True, targets=50)
    same = TermCosines(0.2 * one.targets, 0.2 * one.controls, 8, True)
    assert difference_p(one, same)[0] == pytest.approx(np.ones(50))
    moved = one.targets.copy()
    moved[:, 0, :8] += 1.0
    p_value, q_value = difference_p(one, TermCosines(moved, one.controls, 8, True))
    assert p_value[0] == 2 / 2**8
    assert p_value[1:] == pytest.approx(np.ones(49))
    assert q_value[0] == pytest.approx(50 * 2 / 2**8)


def test_word2vec_oracle(shared_data: Path) -> None:
    archive = np.load(shared_data / "oracles" / "occupations_word2vec.npz")
    vectors = dict(zip(archive["words"].tolist(), archive["vectors"], strict=True))
    with (shared_data / "bias" / "winobias_percent_women.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["occupation"] in vectors]
    percent = np.array([float(row["percent_women"]) for row in rows])
    gap = gaps_of(
        [vectors[row["occupation"]] for row in rows],
        [vectors[word] for word in FEMALE],
        [vectors[word] for word in MALE],
    )
    assert len(rows) == 36
    for method, expected in (("pearson", 0.7317), ("spearman", 0.7386), ("kendall", 0.5295)):
        assert correlate(gap, percent, method).value == pytest.approx(expected, abs=5e-5)


def test_word2vec_has_a_gender_direction(shared_data: Path) -> None:
    archive = np.load(shared_data / "oracles" / "occupations_word2vec.npz")
    vectors = dict(zip(archive["words"].tolist(), archive["vectors"], strict=True))
    sides = [[vectors[word] for word in side] for side in (FEMALE, MALE)]
    found = direction_test(*sides)
    assert found.p_value == 1 / 128
    assert found.value > 0.4
    assert separation_test(*sides).p_value <= 0.05


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_equal_scipy(ties: bool) -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=40)
    y = x + generator.normal(size=40)
    if ties:
        x, y = np.round(x), np.round(y)
    for name, reference in (
        ("pearson", stats.pearsonr),
        ("spearman", stats.spearmanr),
        ("kendall", stats.kendalltau),
    ):
        found = correlate(x, y, name)
        assert found.value == pytest.approx(reference(x, y).statistic)
        assert -1 <= found.interval.low < found.value < found.interval.high <= 1
        rows = np.random.default_rng(0).integers(0, 40, size=(1000, 40))[:3]
        from mmkd.evaluation.bias.correlations import METHODS

        for row, drawn in zip(rows, METHODS[name](x, y, rows), strict=True):
            assert drawn == pytest.approx(reference(x[row], y[row]).statistic)


def test_correlation_laws() -> None:
    x = np.random.default_rng(2).normal(size=30)
    for name in ("spearman", "kendall"):
        assert correlate(x, np.exp(x), name).value == pytest.approx(1)
        assert correlate(x, -x, name).value == pytest.approx(-1)
        assert correlate(x, np.ones(30), name) is None
        assert correlate(x[:4], x[:4], name) is None
        assert correlate(x, x**2, name, seed=5) == correlate(x, x**2, name, seed=5)


def test_bootstrap_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        x, y = generator.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=60).T
        found = correlate(x, y, "kendall", resamples=200).interval
        covered += found.low <= 2 / np.pi * np.arcsin(0.8) <= found.high
    assert covered >= 180


def test_direction_test_by_hand() -> None:
    male = np.eye(6, 8)
    shared = np.zeros((6, 8))
    shared[:, 7] = 1.0
    # In unit length, (male + 1/2 shared) - male has the same angle to every other such difference.
    found = direction_test(male + 0.5 * shared, male)
    assert found.p_value == 1 / 32
    assert found.value > 0.5
    assert direction_test(male, male) is None
    with pytest.raises(ValueError, match="6 to 16 pairs"):
        direction_test(male[:4], male[:4])


def test_separation_test_by_hand() -> None:
    # Three terms at each of two places: within 1, between 0; of 20 divisions the own and its mirror image do as well.
    first, second = np.tile([1.0, 0.0], (3, 1)), np.tile([0.0, 1.0], (3, 1))
    found = separation_test(first, second)
    assert found.value == pytest.approx(1)
    assert found.p_value == pytest.approx(2 / 20)
    assert separation_test(first, first) is None


@pytest.mark.parametrize("test", [direction_test, separation_test])
def test_attribute_tests_are_uniform_on_noise(test) -> None:
    generator = np.random.default_rng(4)
    draws = [test(*generator.normal(size=(2, 7, 32))).p_value for _ in range(300)]
    assert 0.02 <= np.mean(np.array(draws) <= 0.05) <= 0.09
    assert 0.4 <= np.mean(np.array(draws) <= 0.5) <= 0.6


def test_knowledge_by_hand_and_of_noise() -> None:
    things = np.eye(12, 20)
    assert knowledge_score(things[None], things[None]).value == 1
    assert knowledge_score(things[None], things[None]).p_value < 0.001
    # Each word points at the next thing: its own ties with ten others, and a tie counts against.
    shifted = knowledge_score(np.roll(things, -1, axis=0)[None], things[None])
    assert shifted.value == 0
    assert shifted.at_chance
    assert knowledge_score(things[None, :9], things[None, :9]) is None
    generator = np.random.default_rng(5)
    noise = [knowledge_score(*generator.normal(size=(2, 1, 20, 16)), draws=300) for _ in range(60)]
    assert np.mean([one.value for one in noise]) == pytest.approx(0.5, abs=0.02)
    assert sum(not one.at_chance for one in noise) <= 4
